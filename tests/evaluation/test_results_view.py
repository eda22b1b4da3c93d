"""What a notebook shows of verdicts: the most anomalous images first, text escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from knowngood import Detector, open_images, view
from knowngood.data import ImageSet
from knowngood.evaluation.results_view import ResultsView


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    values = rng.integers(100, 140, (50, 12, 12), np.uint8)
    values[40:, 3:9, 3:9] = np.arange(36).reshape(6, 6) * 7
    ids = np.array([*(f"good {i}" for i in range(49)), "<b>50 & more</b>"])
    return open_images(values).replace(ids=ids)


@pytest.fixture(scope="module")
def shown(images: ImageSet) -> ResultsView:
    detector = Detector("hog", "memory_bank", alpha=0.1).fit(images[:40])
    return view(detector, images[30:], most=4)


def test_the_table_is_that_of_detect(shown: ResultsView, images: ImageSet) -> None:
    assert shown.table.id.tolist() == images.ids[30:].tolist()
    assert repr(shown) == repr(shown.table)


def test_the_most_anomalous_images_are_shown_first(shown: ResultsView) -> None:
    html = shown._repr_html_()
    ordered = shown.table.sort_values("anomaly_score", ascending=False, kind="stable").id[:4]
    told = re.findall(r"<figcaption[^>]*><b>(.*?)</b><br>", html)
    plain = [text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for text in told]
    assert plain == ordered.tolist()


def test_text_is_escaped_and_nothing_is_loaded(shown: ResultsView) -> None:
    html = shown._repr_html_()
    assert "<b>50 & more</b>" not in html
    assert "http" not in html
    assert "<script" not in html
    assert html.count('src="data:image/') == 4


def test_it_counts_what_is_flagged(shown: ResultsView) -> None:
    assert f"{shown.table.is_anomalous.sum()} of 20 images are anomalous" in shown._repr_html_()


def test_one_image_is_singular(images: ImageSet) -> None:
    detector = Detector("hog", "memory_bank", alpha=0.1).fit(images[:40])
    assert re.search(r"\b[01] of 1 image is anomalous", view(detector, images[[45]])._repr_html_())
