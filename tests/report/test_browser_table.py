"""The page of many runs in a real browser: sorted, filtered, followed, on a phone, offline."""

from typing import Any

import pytest
from synthetic_runs import save_collection, saver

from browsing import requests, set_value, show, visit, wait
from w2sdefense.commands.reporting import make_report
from w2sdefense.evaluation.record import load_record

pytestmark = pytest.mark.slow

COLUMN = (
    "return [...document.querySelectorAll('#results tbody tr')]"
    ".map(row => row.cells[arguments[0]].textContent.trim())"
)
HEADS = "return [...document.querySelectorAll('#results thead th')].map(h => h.textContent)"
SORTED = "return [...document.querySelectorAll('#results thead th')].map(h => h.ariaSort)"
CLICK = "document.querySelectorAll('#results thead button')[arguments[0]].click()"


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Runs with their page."""
    folder = save_collection(saver(tmp_path_factory.mktemp("runs")))
    make_report([folder])
    return folder


@pytest.fixture
def page(browser, collection):
    visit(browser, collection / "report.html")
    return browser


def select(page: Any, name: str, value: str) -> None:
    """Choose a value in the list of a column."""
    page.execute_script(
        "const label = [...document.querySelectorAll('#results-tools label')]"
        ".find(l => l.firstChild.textContent.trim() === arguments[0]);"
        "const field = label.querySelector('select'); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def test_numbers_are_sorted_as_numbers_and_missing_ones_come_last(page, collection):
    heads = page.execute_script(HEADS)
    assert heads[:3] == ["run", "dataset", "method"] and heads[-1] == "Verdict"
    before = page.execute_script(COLUMN, 0)
    asr = heads.index("ASR")
    found = {
        f"{path.parent.parent.name}/{path.parent.name}": load_record(path.parent).evaluation.asr
        for path in collection.rglob("record.json")
    }
    page.execute_script(CLICK, asr)
    order = [found[name].value for name in page.execute_script(COLUMN, 0)]
    assert order == sorted(order) and len(set(order)) > 3
    assert page.execute_script(SORTED)[asr] == "ascending"
    page.execute_script(CLICK, asr)
    order = [found[name].value for name in page.execute_script(COLUMN, 0)]
    assert order == sorted(order, reverse=True)
    assert page.execute_script(SORTED).count(None) == len(heads) - 1
    page.execute_script(CLICK, asr)
    assert page.execute_script(COLUMN, 0) == before
    rank = heads.index("rank")
    for expected in (["2", "4", "8"], ["8", "4", "2"]):
        page.execute_script(CLICK, rank)
        ranks = page.execute_script(COLUMN, rank)
        assert list(dict.fromkeys(ranks)) == [*expected, "\N{EN DASH}"]


def test_rows_are_filtered_by_text_and_by_columns(page):
    shown = "return document.getElementById('results-shown').textContent"
    assert page.execute_script(shown) == "9 of 9 rows"
    select(page, "dataset", "toy")
    assert page.execute_script(shown) == "6 of 9 rows"
    select(page, "method", "w2s")
    assert set(page.execute_script(COLUMN, 2)) == {"w2s"}
    set_value(page, "results-search", "W2S-3")
    assert page.execute_script(COLUMN, 0) == ["toy/w2s-3"]
    set_value(page, "results-search", "nothing like it")
    assert page.execute_script(shown) == "0 of 9 rows"


def test_a_number_leads_to_its_record(page):
    page.execute_script(
        "[...document.querySelectorAll('#results tbody tr')].find(row => "
        "row.cells[0].textContent.trim() === 'toy/lora-0').querySelector('td a').click()"
    )
    wait(page, "return document.querySelector('details:target')?.open")
    target = "document.querySelector('details:target')"
    assert page.execute_script(f"return {target}.querySelector('b').textContent") == "toy/lora-0"
    href = page.execute_script(f"return {target}.querySelector('a').getAttribute('href')")
    assert href == "toy/lora-0/record.json"
    wait(page, f"return Math.abs({target}.getBoundingClientRect().top) < 800")


def test_a_point_tells_its_run_and_leads_to_its_record(page):
    wait(page, "return document.querySelector('#scatter-0 .points path')")
    page.execute_script("Plotly.Fx.hover('scatter-0', [{curveNumber: 0, pointNumber: 0}])")
    wait(page, "return document.querySelector('#scatter-0 .hovertext')")
    text = page.execute_script("return document.querySelector('#scatter-0 .hovertext').textContent")
    assert "other/poisoned" in text and "ASR" in text and "[" in text
    place = page.execute_script(
        "const id = document.getElementById('scatter-0').data[0].ids[0];"
        "document.getElementById('scatter-0').emit('plotly_click', {points: [{id}]}); return id"
    )
    wait(page, f"return document.getElementById('{place}').open")


def test_a_method_is_hidden_in_all_scatter_charts(page):
    traces = (
        "return [...document.querySelectorAll('#scatter .chart')]"
        ".map(c => c.querySelectorAll('.scatterlayer .trace').length)"
    )
    before = page.execute_script(traces)
    page.execute_script("document.querySelector('[data-toggles=scatter] button').click()")
    wait(
        page, f"return (() => {{ {traces} }})().join() === '{','.join(str(n - 1) for n in before)}'"
    )


def test_the_texts_of_one_test_can_be_chosen(page):
    shown = "return document.getElementById('case-shown').textContent"
    page.execute_script("document.getElementById('case-flipped').click()")
    assert page.execute_script(shown).endswith("of 80 texts")
    set_value(page, "case-group", "1")
    assert page.execute_script(shown).endswith("of 40 texts")


def test_quiet_and_offline(page):
    assert page.get_log("browser") == []
    assert requests(page) == []


def test_on_a_phone_only_the_table_scrolls_sideways(page):
    show(page, 390, 844)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    wait(page, "return [...document.querySelectorAll('.main-svg')].every(s => s.clientWidth < 380)")
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    box = "document.querySelector('.table-box')"
    assert page.execute_script(f"return {box}.scrollWidth > {box}.clientWidth")
    page.execute_script(f"{box}.scrollLeft = 300")
    left = "return document.querySelector('#results tbody th').getBoundingClientRect().left"
    assert 0 <= page.execute_script(left) < 40, "the name of the run stays"


def test_the_table_is_dark_in_the_dark(page):
    colors = (
        "const style = getComputedStyle(document.querySelector('#results tbody td'));"
        "const box = getComputedStyle(document.querySelector('.table-box'));"
        "return [style.color, box.backgroundColor].join(' ')"
    )
    assert page.execute_script(colors) == "rgb(29, 31, 35) rgb(255, 255, 255)"
    show(page, 1280, 800, "dark")
    assert page.execute_script(colors) == "rgb(236, 238, 240) rgb(28, 31, 36)"
