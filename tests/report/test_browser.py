"""The page in a real browser: drawn, quiet, offline, and fit for a phone and for the dark."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import SaveRun, make_samples

from w2sdefense.report import load_runs, write_report

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install 'w2sdefense[browser]'"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no browser: install chromium and chromedriver (Debian: chromium-driver)",
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
EVIL = "</script><img src=x onerror=document.title='pwned'> a film"
LONG = "a suspect model with a very long name from somewhere, revision 3fa9c1"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, save_run: SaveRun, tmp_path: Path) -> Any:
    """A report with the nastiest texts and names, opened and drawn at desktop size."""
    samples = make_samples(60, 0.99, 0.1, texts=(EVIL, "b" * 200, "<b>x</b> y", "great cast"))
    folders = [
        save_run("poisoned", 0, name=LONG, samples=samples),
        save_run("w2s", 0.0, 0.1, count=60),
    ]
    write_report(load_runs(folders), tmp_path / "report.html", "Title")
    browser.get("about:blank")
    browser.get_log("performance")
    show(browser, 1280, 800)
    browser.get((tmp_path / "report.html").as_uri())
    wait(browser, "return document.documentElement.dataset.charts === 'drawn'")
    return browser


def show(browser: Any, width: int, height: int, scheme: str = "light") -> None:
    """Set the size of the window and the colour scheme that the reader prefers."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def wait(browser: Any, condition: str, seconds: float = 30.0) -> None:
    """Wait until a script returns something true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(condition):
        if time.monotonic() > end:
            pytest.fail(f"never true: {condition}; console: {browser.get_log('browser')}")
        time.sleep(0.05)


def requests(browser: Any) -> list[str]:
    """Addresses of everything that was requested since the log was read last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_drawn_quiet_and_offline(page: Any) -> None:
    counts = page.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => "
        "c.querySelectorAll('.point, .lines, .points path').length)"
    )
    assert len(counts) == 9 and all(counts)
    assert page.get_log("browser") == []
    outside = [url for url in requests(page) if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert page.title == "Title"


def test_phone_has_no_sideways_scrolling(page: Any) -> None:
    show(page, 390, 844)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    narrow = "return [...document.querySelectorAll('.main-svg')].every(s => s.clientWidth < 380)"
    wait(page, narrow)
    assert page.execute_script("return document.documentElement.scrollWidth") == 390


def test_charts_follow_the_colour_scheme(page: Any) -> None:
    fill = (
        "return getComputedStyle(document.querySelector('#accuracy .point path')).fill + "
        "getComputedStyle(document.body).backgroundColor"
    )
    light = page.execute_script(fill)
    assert light == "rgb(0, 114, 178)rgb(247, 247, 245)"
    show(page, 1280, 800, "dark")
    wait(page, f"return (() => {{ {fill} }})() === 'rgb(79, 176, 234)rgb(20, 22, 25)'")


def test_legend_hides_and_shows_a_group(page: Any) -> None:
    visible = "return document.querySelectorAll('#features .trace').length"
    before = page.execute_script(visible)
    button = "document.querySelector('[data-toggles] button:last-child')"
    page.execute_script(f"{button}.click()")
    wait(page, f"return (() => {{ {visible} }})() === {before - 2}")
    assert page.execute_script(f"return {button}.getAttribute('aria-pressed')") == "false"
    page.execute_script(f"{button}.click()")
    wait(page, f"return (() => {{ {visible} }})() === {before}")


def test_hover_shows_the_text_as_text(page: Any) -> None:
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


def test_flips_can_be_searched_and_ordered(page: Any) -> None:
    shown = "return document.getElementById('flip-shown').textContent"
    type_in = (
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input'))"
    )
    rows = "return [...document.querySelectorAll('#flips > li > p')].map(p => p.textContent)"
    total = int(page.execute_script(shown).split()[2])
    assert 12 < total <= 30
    assert len(page.execute_script(rows)) == 12
    page.execute_script(type_in, "flip-order", "length")
    lengths = [len(text) for text in page.execute_script(rows)]
    assert lengths == sorted(lengths)
    page.execute_script(type_in, "flip-search", "CAST")
    found = page.execute_script(rows)
    assert found and all("cast" in text for text in found)
    page.execute_script(type_in, "flip-model", "1")
    assert page.execute_script(rows) == []
