"""The page in a real browser: drawn, quiet, offline, and fit for a phone and for the dark."""

import pytest
from synthetic_runs import make_samples, saver

from browsing import requests, set_value, show, visit, wait
from w2sdefense.report import load_runs, write_report

pytestmark = pytest.mark.slow

EVIL = "</script><img src=x onerror=document.title='pwned'> a film"
LONG = "a suspect model with a very long name from somewhere, revision 3fa9c1"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report with the nastiest texts and names."""
    folder = tmp_path_factory.mktemp("report")
    save_run = saver(folder)
    samples = make_samples(60, 0.99, 0.1, texts=(EVIL, "b" * 200, "<b>x</b> y", "great cast"))
    folders = [
        save_run("poisoned", 0, name=LONG, samples=samples),
        save_run("w2s", 0.0, 0.1, count=60),
    ]
    write_report(load_runs(folders), folder / "report.html", "Title")
    return folder / "report.html"


@pytest.fixture
def page(browser, file):
    visit(browser, file)
    return browser


def test_drawn_quiet_and_offline(page):
    counts = page.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => "
        "c.querySelectorAll('.point, .lines, .points path').length)"
    )
    assert len(counts) == 9 and all(counts)
    assert page.get_log("browser") == []
    assert requests(page) == []
    assert page.title == "Title"


def test_phone_has_no_sideways_scrolling(page):
    show(page, 390, 844)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    narrow = "return [...document.querySelectorAll('.main-svg')].every(s => s.clientWidth < 380)"
    wait(page, narrow)
    assert page.execute_script("return document.documentElement.scrollWidth") == 390


def test_charts_follow_the_colour_scheme(page):
    fill = (
        "return getComputedStyle(document.querySelector('#accuracy .point path')).fill + "
        "getComputedStyle(document.body).backgroundColor"
    )
    light = page.execute_script(fill)
    assert light == "rgb(0, 114, 178)rgb(247, 247, 245)"
    show(page, 1280, 800, "dark")
    wait(page, f"return (() => {{ {fill} }})() === 'rgb(79, 176, 234)rgb(20, 22, 25)'")


def test_legend_hides_and_shows_a_group(page):
    visible = "return document.querySelectorAll('#features .trace').length"
    before = page.execute_script(visible)
    button = "document.querySelector('[data-toggles] button:last-child')"
    page.execute_script(f"{button}.click()")
    wait(page, f"return (() => {{ {visible} }})() === {before - 2}")
    assert page.execute_script(f"return {button}.getAttribute('aria-pressed')") == "false"
    page.execute_script(f"{button}.click()")
    wait(page, f"return (() => {{ {visible} }})() === {before}")


def test_hover_shows_the_text_as_text(page):
    page.execute_script(
        "const texts = document.getElementById('features-0').data[0].text;"
        "const point = texts.findIndex(t => t.startsWith('&lt;/script'));"
        "Plotly.Fx.hover('features-0', [{curveNumber: 0, pointNumber: point}])"
    )
    wait(page, "return document.querySelector('#features-0 .hovertext')")
    shown = page.execute_script(
        "return document.querySelector('#features-0 .hovertext').textContent"
    )
    assert shown.startswith("</script><img src=x")
    assert "true label → answer:" in shown


def test_texts_can_be_searched_ordered_and_turned_like_pages(page):
    shown = "return document.getElementById('case-shown').textContent"
    rows = "return [...document.querySelectorAll('#cases > li > p')].map(p => p.textContent)"
    click = "document.getElementById('case-{}').click()"
    total = int(page.execute_script(shown).split()[4])
    assert 12 < total <= 30
    first = page.execute_script(rows)
    assert len(first) == 12
    page.execute_script(click.format("next"))
    assert page.execute_script(shown) == f"13 to {min(24, total)} of {total} texts"
    assert not set(page.execute_script(rows)) & set(first) or total > 24
    page.execute_script(click.format("previous"))
    assert page.execute_script(rows) == first
    set_value(page, "case-order", "length")
    lengths = [len(text) for text in page.execute_script(rows)]
    assert lengths == sorted(lengths)
    set_value(page, "case-search", "CAST")
    found = page.execute_script(rows)
    assert found and all("cast" in text for text in found)
    set_value(page, "case-model", "1")
    assert page.execute_script(rows) == []
    set_value(page, "case-model", "")
    set_value(page, "case-search", "")
    page.execute_script(click.format("flipped"))
    assert page.execute_script(shown).endswith("of 60 texts")
