"""Mixed sets, columns that name items, and frames, from fit to the loaded model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector
from knowngood.config.words import as_command
from knowngood.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def fitted(X, name="hog", conditions=None, **options):
    detector = Detector(representation={"name": name, **options}, model="memory_bank", alpha=0.2)
    return detector.fit(X, conditions=conditions)


@pytest.mark.slow
def test_grey_in_three_channels_beside_grey_is_grey():
    mixed = [*GREY[:12], *np.repeat(GREY[12:], 3, axis=3)]
    detector = fitted(mixed)
    assert "hold no colour and become grey" in detector.about_["recipe"]
    np.testing.assert_allclose(detector.score_samples(mixed), fitted(GREY).score_samples(GREY), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["grey", "colour"])
def test_grey_beside_colour_asks_for_an_option_that_works(tmp_path, option):
    mixed = [*GREY[:12], *COLOUR]
    with pytest.raises(DataError, match=rf"12 grey and 12 colour images.*\"{option}\": True"):
        fitted(mixed)
    with as_command(), pytest.raises(DataError, match=rf"12 grey and 12 colour images.*--{option}\b"):
        fitted(mixed)
    detector = fitted(mixed, **{option: True})
    detector.save(tmp_path / "model")
    scores = Detector.load(tmp_path / "model").score_samples(mixed)
    assert np.array_equal(scores, detector.score_samples(mixed))
    assert np.array_equal(scores[:12], detector.score_samples(GREY[:12]))


@pytest.mark.slow
def test_bit_depths_ask_for_an_option_that_works():
    deep = GREY.astype(np.uint16) * 257
    mixed = [*GREY[:12], *deep[12:]]
    with pytest.raises(DataError, match=r"12 uint8, 12 uint16.*\"scaling\": \"dtype\".*\"scaling\": \"data\""):
        fitted(mixed, "pixels")
    by_type = fitted(mixed, "pixels", scaling="dtype")
    np.testing.assert_array_equal(by_type.score_samples(GREY), by_type.score_samples(deep))
    one_unit = fitted(mixed, "pixels", scaling="data")
    assert (one_unit.score_samples(GREY) != one_unit.score_samples(deep)).all()


@pytest.mark.parametrize(
    "column", [[f"s{k}" for k in range(24)], pd.date_range("2026", periods=24), np.arange(100, 124)]
)
def test_a_column_that_names_items_is_no_condition(column):
    with pytest.raises(DataError, match=r"condition 'serial' has another value for each of the 24 images"):
        fitted(GREY, conditions=pd.DataFrame({"serial": column}))


def test_measurements_that_all_differ_are_a_condition():
    detector = fitted(GREY, conditions={"exposure": RNG.normal(size=24)})
    assert [column.name for column in detector.pipeline_.schema.columns] == ["exposure"]


@pytest.mark.slow
def test_names_and_index_of_a_frame_survive(tmp_path):
    frame = pd.DataFrame(RNG.normal(size=(40, 3)), columns=["a", "b", "c"], index=[f"r{k}" for k in range(40)])
    fit = Detector(model={"name": "vae"}, training={"epochs": 1}, alpha=0.2).fit(frame)
    detector = Detector.load(fit.save(tmp_path / "model"))
    table = detector.detect(frame[["c", "a", "b"]])
    assert table.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(table["anomaly_score"], fit.detect(frame)["anomaly_score"])
    with pytest.raises(
        DataError, match=r"lacks the columns 'a' and has the unknown ones 'z'; .*on 3 columns: 'a', 'b', 'c'"
    ):
        detector.detect(frame.rename(columns={"a": "z"}))
    frame.iloc[4, 1] = np.nan
    with pytest.raises(DataError, match="row 4, column 'b'"):
        detector.detect(frame)


@pytest.mark.slow
@pytest.mark.parametrize("X", [[], np.zeros((0, 8, 8), np.uint8), None, {"a": 1}, pd.DataFrame()])
def test_nothing_is_refused_by_the_library(X):
    detector = fitted(GREY)
    for call in (detector.detect, Detector().fit):
        with pytest.raises(DataError):
            call(X)
