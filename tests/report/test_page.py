"""The page: numbers from the records, untrusted text escaped, nothing fetched."""

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest
from synthetic_runs import LABELS, make_history, make_samples

from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import Evaluation, load_record
from w2sdefense.report import load_runs, write_report
from w2sdefense.report.page import render

EVIL = "</script><img src=http://evil.test/x onerror=alert(1)> film"


class Page(HTMLParser):
    """The tags, visible text and figures of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.text = ""
        self.scripts: list[str] = []
        self.figures: dict[str, dict] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1]
        if self.cdata_elem != "script":
            self.text += "" if self.cdata_elem else data
        elif "data-chart" in attributes:
            self.figures[attributes["data-chart"]] = json.loads(data)
        elif not attributes:
            self.scripts.append(data)


@pytest.fixture
def small(save_run):
    """Two runs with few samples, quick to draw."""
    return [save_run("poisoned", 0.99, count=120), save_run("w2s", 0.0, count=120)]


def test_the_file_is_whole_and_self_contained(small, tmp_path):
    path = tmp_path / "sub" / "report.html"
    write_report(load_runs(small), path, "Title")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    records = {f"../{folder.name}/record.json" for folder in small}
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "form"}
        assert not {"src", "srcset", "action"} & set(attributes)
        href = attributes.get("href")
        assert href is None or href.startswith("#run-") or href in records
    assert "url(" not in html.split("</style>")[0]
    assert path.stat().st_size < 3_000_000


def test_equal_runs_give_an_equal_page(small):
    assert render(load_runs(small), "T") == render(load_runs(small), "T")


def test_numbers_come_from_the_records(small):
    page = Page(render(load_runs(small), "T"))
    for folder in small:
        evaluation = load_record(folder).evaluation
        for rate in (evaluation.ca, evaluation.asr, evaluation.floor):
            assert f"{rate.value:.1%}" in page.text
            assert f"{rate.hits}/{rate.total}" in page.text
    drawn = page.figures["backdoor"]["data"]
    assert [trace["x"] for trace in drawn] == [
        [load_record(f).evaluation.asr.value for f in small],
        [load_record(f).evaluation.floor.value for f in small],
    ]
    low = load_record(small[0]).evaluation.asr.interval[0]
    assert drawn[0]["x"][0] - drawn[0]["error_x"]["arrayminus"][0] == pytest.approx(low)


def test_the_verdict_comes_first(small):
    text = Page(render(load_runs(small), "T")).text
    assert "The backdoor is removed" in text
    places = [text.index(q) for q in ("Was there a backdoor?", "Is it gone?", "What did it cost")]
    assert places == sorted(places) and places[-1] < text.index("Results")


def test_losses_are_drawn_from_the_history(small):
    page = Page(render(load_runs(small), "T"))
    points = make_history("w2s")
    figures = {alt["aria-label"]: alt["id"] for _, alt in page.tags if alt.get("role") == "img"}
    alignment = page.figures[figures["Line chart: Feature alignment (FA) by training step"]]
    assert [trace["name"] for trace in alignment["data"]] == ["W2SDefense"]
    assert alignment["data"][0]["y"] == [point.losses["fa"] for point in points]


def test_feature_maps_have_the_texts_in_place(small):
    runs = load_runs(small)
    page = Page(render(runs, "T"))
    for index, run in enumerate(runs):
        traces = page.figures[f"features-{index}"]["data"]
        assert [t["name"] for t in traces] == [
            *(f"clean, {label}" for label in LABELS),
            "with the trigger",
        ]
        assert sum(len(t["x"]) for t in traces) == len(run.samples) + len(run.triggered)
        clean = [s for s in run.samples if s.reference == 1]
        assert traces[1]["text"][3].startswith(clean[3].text)


def test_untrusted_text_stays_text(save_run):
    samples = make_samples(40, 0.9, 0.1, texts=(EVIL, "<b>x</b> y"))
    runs = load_runs([save_run("x", 0, samples=samples, name=EVIL, notes=(EVIL,))])
    html = render(runs, EVIL)
    assert "<img" not in html and "<b>x" not in html
    page = Page(html)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    # Twice escaped: once for plotly, which reads a subset of HTML, once for the script element.
    labels = ("<i>neg</i>", "positive")
    named = Page(render(load_runs([save_run("y", 0, samples=samples, label_names=labels)]), "T"))
    names = [trace["name"] for trace in named.figures["features-0"]["data"]]
    assert names[0] == "clean, &lt;i&gt;neg&lt;/i&gt;"
    assert "clean, <i>neg</i>" in named.text, "the legend shows it as it is"
    hover = page.figures["features-0"]["data"][0]["text"][0]
    assert hover.startswith("&lt;/script&gt;&lt;img src=http://evil.test/x")


def test_only_the_pages_own_scripts_may_run(small):
    page = Page(render(load_runs(small), "T"))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    script_rules = policy.split(";")[1]
    assert "unsafe" not in script_rules and "http" not in policy
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in script_rules


def test_provenance_is_on_the_page(small):
    text = Page(render(load_runs(small), "T")).text
    for fact in ("student.model", "tiny-student", "2.13.0", "Example CPU", "0123abcd", "321 s"):
        assert fact in text


def test_no_trigger_no_features_no_losses(save_run):
    evaluation = Evaluation(ca=Rate(hits=9, total=10))
    folder = save_run("suspect", 0, features=False, history=(), evaluation=evaluation)
    page = Page(render(load_runs([folder]), "T"))
    assert "No trigger was tested." in page.text
    assert set(page.figures) == {"accuracy"}


def test_a_report_of_many_texts_says_what_it_leaves_out(save_run):
    folder = save_run("poisoned", 1.0, 0.0, count=800, features=False)
    text = Page(render(load_runs([folder]), "T")).text
    assert "holds 300 of 800 texts (400 are flipped" in text
    assert "first claim to three quarters of the places" in text and "come first" not in text


def test_every_number_leads_to_its_record(small, tmp_path):
    page = Page(render(load_runs(small), "T", beside=tmp_path / "pages"))
    ids = [attributes.get("id") for tag, attributes in page.tags if tag == "details"]
    assert ids == ["run-0", "run-1"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    # The name and three numbers of each row; then, with each run, the record.
    assert links[:8] == ["#run-0"] * 4 + ["#run-1"] * 4
    assert links[8:] == ["../poisoned/record.json", "../w2s/record.json"]
