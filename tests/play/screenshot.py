"""Takes the picture of `docs/play.md`: python tests/play/screenshot.py RUN docs/images/play.png.

Needs a run of `w2s defend` or `w2s demo`, Chromium and selenium.
"""

import base64
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browsing import show, start, wait
from w2sdefense.play.page import serve
from w2sdefense.play.pair import open_pair


def main(run: Path, picture: Path) -> None:
    """Choose a test text that flips in the suspect only, add the trigger, take the picture."""
    pair = open_pair(run)
    _, url, _ = serve(pair, prevent_thread_lock=True, quiet=True)
    example = min(
        (one.text for one in pair.examples if one.flips == "suspect"),
        key=lambda text: abs(len(text) - 90),
    )
    browser = start(Path(tempfile.mkdtemp()))
    try:
        show(browser, 1000, 900)
        browser.get(url)
        wait(browser, "return document.querySelector('#ask')", 120)
        browser.find_element("css selector", "#text textarea").send_keys(example)
        browser.find_element("id", "add").click()
        wait(browser, "return document.querySelectorAll('#cleaned .note').length", 120)
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        picture.write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
