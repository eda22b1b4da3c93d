"""The inspection page in a real browser: a picture fills the window, with those before and after it by keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood.calibration.map_scale import MapScale
from knowngood.evaluation.report import Inspected, write_inspection

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path: Path):
    names = list("abcd")
    table = pd.DataFrame({"id": names, "anomaly_score": [4.0, 3.0, 2.0, 1.0], "p_value": [0.01, 0.02, 0.03, 0.9]})
    table["is_anomalous"], table["condition"] = table["p_value"] < 0.05, "all"
    rng = np.random.default_rng(0)
    items = [
        Inspected(
            id=name,
            image=rng.integers(0, 255, (30, 60, 3)).astype(np.uint8),
            map=rng.random((15, 30)),
            scale=MapScale(0.5, 1.0),
            size=(30, 60),
            sentences=[f"Why {name}."],
        )
        for name in names
    ]
    path = write_inspection(tmp_path / "i.html", items, table, alpha=0.05, title="t")
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert not wrong


def test_a_picture_fills_the_window_and_keys_go_to_the_next(page) -> None:
    page.locator("[data-id=b] .layers").click()
    large, place = page.locator("#large"), page.locator("#place")
    playwright.expect(large).to_be_visible()
    assert place.inner_text() == "2 of 4"
    assert page.locator("#room").get_by_text("Why b.").is_visible()
    box = page.locator("#room .layers").bounding_box()
    assert box["width"] == pytest.approx(2 * box["height"], rel=0.02)
    assert box["width"] > 700 or box["height"] > 400
    assert box["x"] + box["width"] <= 1000
    assert box["y"] + box["height"] <= 600
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "4 of 4"
    assert page.locator("#after").is_disabled()
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "4 of 4"
    page.locator("#before").click()
    assert place.inner_text() == "3 of 4"
    page.keyboard.press("Escape")
    playwright.expect(large).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('figure').dataset.id") == "c"


def test_only_what_is_filtered_is_gone_through(page) -> None:
    page.select_option("#verdict", "flagged")
    page.locator("[data-id=a] .layers").click()
    assert page.locator("#place").inner_text() == "1 of 3"
    assert page.locator("#before").is_disabled()
