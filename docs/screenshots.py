"""The screenshots of the guide, in Chromium: the page of the server, the inspection page, a picture of an explanation.

python docs/screenshots.py     # writes page-judge, page-gallery, inspection-page and inspection-why to docs/images

A model is fitted to generated washers of three cameras, and judges the other ones. Where Chromium or Playwright (extra
`dev`) is missing, nothing is written.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parent / "images"
PARTS = "generated-parts/products=washer,number=150,size=128"
KINDS = ("missing_hole", "scratch", "crack", "stain")
DRAWN = """() => [...document.images].every(
  one => one.complete || one.offsetParent === null || one.getBoundingClientRect().top > innerHeight)"""
WINDOW = {"width": 1440, "height": 900}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def command(line: str) -> None:
    """A command line of knowngood that has to end well."""
    from knowngood.cli import main

    try:
        main(line.split())
    except SystemExit as end:
        if end.code:
            raise


@contextmanager
def served(model: str, folder: str) -> Iterator[str]:
    """The address of a server in a thread, which keeps what it judges in a folder."""
    import uvicorn

    from knowngood.deploy.judged_store import JudgedStore
    from knowngood.deploy.served_models import load_models
    from knowngood.deploy.server import ServerOptions, create_app

    listener = socket.create_server(("127.0.0.1", 0))
    with closing(JudgedStore(Path(folder))) as store:
        app = create_app(load_models([model]), ServerOptions(store=store))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def shot(page: Any, name: str) -> None:
    """The window as a JPEG file of the guide."""
    page.wait_for_function(DRAWN)
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=82)
    print(IMAGES / f"{name}.jpg")


def page_of_the_server(browser: Any, url: str) -> None:
    """Pictures of the folder are judged by API, and one by the page; then the gallery."""
    import httpx

    good, bad = (sorted(Path("washers/test").glob(f"{kind}/*.png")) for kind in ("good", "[!g]*"))
    for path in [*bad[:4], *good[:14]]:
        files = [("images", (f"{path.parent.name}-{path.name}", path.read_bytes()))]
        httpx.post(f"{url}v1/score", files=files, data={"unknown": "infer"}, timeout=120).raise_for_status()
    page = browser.new_page(viewport=WINDOW)
    page.goto(f"{url}#judge")
    page.wait_for_selector("#asked select")
    page.set_input_files("#files", next(iter(sorted(Path("washers/test/scratch").glob("*.png")))))
    page.wait_for_selector(".reason li", timeout=120_000)
    shot(page, "page-judge")
    page.goto(f"{url}#gallery")
    page.wait_for_selector(".wall figure img")
    shot(page, "page-gallery")


def main() -> int:
    """Draw all; the exit status is 0 where there is no browser."""
    if CHROMIUM is None or find_spec("playwright") is None:
        print("no Chromium, or no Playwright: the screenshots stay as they are")
        return 0
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        os.chdir(folder)
        command(f"data write {PARTS} washers")
        command(f"train {PARTS} --condition camera --out runs/w")
        command(f"score runs/w {PARTS} --split test --output results.csv --explain why")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(Path("why/inspection.html").absolute().as_uri())
        shot(page, "inspection-page")
        with served("runs/w", "judged") as url:
            page_of_the_server(browser, url)
        browser.close()
        found = [path for kind in KINDS for path in sorted(Path("why").rglob(f"*{kind}*/*.png"))]
        picture = Image.open(found[0]).convert("RGB")
        picture.thumbnail((1400, 1400))
        picture.save(IMAGES / "inspection-why.jpg", quality=85)
        print(IMAGES / "inspection-why.jpg")
        with suppress(OSError):
            os.chdir(IMAGES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
