"""A headless Chromium for the tests of the page, without any way out."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def start(profile: Path) -> Any:
    """A browser, or the reason why there is none, as a skipped test."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install 'w2sdefense[browser]'"
    )
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: install chromium and chromedriver (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def visit(browser: Any, page: Path, anchor: str = "") -> None:
    """Open a page at desktop size and wait until its charts are drawn."""
    browser.get("about:blank")
    browser.get_log("performance")
    show(browser, 1280, 800)
    browser.get(page.as_uri() + anchor)
    wait(browser, "return document.documentElement.dataset.charts === 'drawn'")


def show(browser: Any, width: int, height: int, scheme: str = "light") -> None:
    """Set the size of the window and the colour scheme that the reader prefers."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def wait(browser: Any, condition: str, seconds: float = 60.0) -> None:
    """Wait until a script returns something true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(condition):
        if time.monotonic() > end:
            pytest.fail(f"never true: {condition}; console: {browser.get_log('browser')}")
        time.sleep(0.05)


def set_value(browser: Any, field: str, value: str) -> None:
    """Put a value into a field, as typing or choosing it does."""
    browser.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input'))",
        field,
        value,
    )


def requests(browser: Any) -> list[str]:
    """Addresses of everything that was asked for since the page was opened, but what it holds."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    timed = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    return [url for url in (*urls, *timed) if not url.startswith(("file:", "data:", "blob:"))]
