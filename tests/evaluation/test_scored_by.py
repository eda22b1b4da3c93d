"""Which model scored a table: by its mark, and without one by its p-values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector
from knowngood.detector.versions import fingerprint, in_use
from knowngood.evaluation.scored_by import MARK, scored_by

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 3))
NEW, CAMERA = RNG.normal(size=(60, 3)), np.repeat(["A", "B"], 30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model with two Mondrian groups, and calibrated anew."""
    root = tmp_path_factory.mktemp("scored")
    detector = Detector("table", "memory_bank", alpha=0.1, calibration={"method": "split", "fraction": 0.4})
    detector.fit(ROWS, conditions={"camera": np.tile(["A", "B"], 100)})
    one = detector.save(root / "one")
    more = {"camera": np.tile(["A", "B"], 30)}
    return one, detector.calibrate(np.random.default_rng(1).normal(size=(60, 3)), conditions=more).save(root / "two")


@pytest.mark.parametrize("alpha", [None, 0.2])
def test_p_values_tell_the_calibration_that_gave_them(models: tuple[Path, Path], alpha: float | None) -> None:
    one, two = models
    first, second = (Detector.load(path) for path in models)
    table = first.detect(NEW, conditions={"camera": CAMERA}, alpha=alpha)
    assert scored_by(table, one, first.pipeline_).same is True
    found = scored_by(table, two, second.pipeline_)
    assert found.same is False
    assert "p-values are not those that this model gives" in found.why


def test_without_p_values_or_with_inferred_conditions_it_is_not_known(models: tuple[Path, Path]) -> None:
    one, _ = models
    detector = Detector.load(one)
    table = detector.detect(NEW, unknown="infer")
    assert scored_by(table, one, detector.pipeline_).same is None
    assert scored_by(table[["id", "anomaly_score"]], one, detector.pipeline_).same is None


def test_a_mark_decides_whatever_the_p_values_are(models: tuple[Path, Path]) -> None:
    one, two = models
    detector = Detector.load(one)
    table = pd.DataFrame({"anomaly_score": [1.0], "p_value": [0.999], MARK: [fingerprint(in_use(one))]})
    assert scored_by(table, one, detector.pipeline_).same is True
    assert scored_by(table, two, detector.pipeline_).why.startswith("another model (")
    assert scored_by(table.assign(**{MARK: "line 3"}), one, detector.pipeline_).same is None  # no fingerprint
