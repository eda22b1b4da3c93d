"""All images learn, and calibrate each as if it had been left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.errors import SettingsError
from knowngood.evaluation.evaluate import evaluate, report_inputs
from knowngood.evaluation.report.verdict import judge
from knowngood.scores.patches import LeftOut, PatchScore
from patch_models import TinyBackbone, parts

OWN: dict[str, Any] = {"name": "own", "stride": 4, "average": 1, "levels": "on", "pooling": "max", "shrink": 0.0}
N = 60
every_score = pytest.mark.parametrize(("levels", "whole"), [("off", False), ("on", False), ("off", True), ("on", True)])


def detector(**changes: Any) -> Detector:
    quick: dict[str, Any] = {
        "features": OWN,
        "image_size": 32,
        "epochs": 1,
        "latent_dim": 2,
        "net": {"name": "mlp", "hidden": (8,)},
        "device": "cpu",
    }
    return Detector(**{**quick, **changes})


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return detector().fit(parts(N), backbone=TinyBackbone())


def test_nothing_is_set_aside_and_every_image_calibrates(fitted: Detector) -> None:
    assert len(fitted.split_["calibrate"]) == 0
    assert len(fitted.pipeline_.calibration or ()) == N
    assert fitted.pipeline_.maps_of_normals is not None
    assert len(fitted.pipeline_.maps_of_normals.calibration) == N
    assert fitted.pipeline_.score.options.name == "gaussian"


@every_score
def test_an_image_calibrates_with_what_a_model_without_it_says(levels: str, whole: bool) -> None:
    """But for three things. The ridge is over N once, over N − 1 once: within 2 % of the plain score. Levels are of
    images that were left out of N once, of N − 1 once: within .15 of their deviations. And what images usually score
    is that of all, its own included: with that of the others, within .3 more.
    """
    features = {**OWN, "levels": levels, "whole": whole}
    images, pipeline = parts(N), detector(features=features).fit(parts(N), backbone=TinyBackbone()).pipeline_
    assert ((pipeline.state["level"] != 0).all(), "whole" in pipeline.state) == (levels == "on", whole)
    score = pipeline.score
    assert isinstance(score, PatchScore)
    out = replace(pipeline, score=LeftOut(score.inner, score.smoothing))
    left_out = out.raw_scores(ImageSet.from_arrays(images), out.expand(ImageSet.from_arrays(images)))[0]
    assert pipeline.calibration is not None
    np.testing.assert_allclose(np.sort(left_out), np.sort(pipeline.calibration.scores), rtol=1e-5, atol=1e-6)
    known = pipeline.raw_scores(ImageSet.from_arrays(images), pipeline.expand(ImageSet.from_arrays(images)))[0]
    assert known.mean() < left_out.mean() - 0.3
    plain = levels == "off" and not whole
    within = {"rel": 0.02} if plain else {"abs": 0.15}
    for i in (3, 17, 36):
        without = detector(features=features).fit(np.delete(images, i, axis=0), backbone=TinyBackbone())
        direct = -without.score_samples(images[i : i + 1]).item()
        if whole:
            assert left_out[i] == pytest.approx(direct, abs=0.45)
            without.pipeline_.state |= {name: pipeline.state[name] for name in ("pooled", "whole")}
            direct = -without.score_samples(images[i : i + 1]).item()
        assert left_out[i] == pytest.approx(direct, **within)
        assert known[i] < (0.95 * direct if plain else direct)


@every_score
def test_new_good_images_are_flagged_about_as_often_as_asked(levels: str, whole: bool) -> None:
    rates = []
    for seed in (0, 10, 20):
        made = detector(alpha=0.1, features={**OWN, "levels": levels, "whole": whole})
        made.fit(parts(120, seed=seed), backbone=TinyBackbone())
        rates.append((made.predict(parts(300, seed=seed + 5)) < 0).mean())
    assert abs(np.mean(rates) - 0.1) < 4 * np.sqrt(0.09 * (1 / 300 + 1 / 120) / 3)


def test_other_calibration_images_come_first() -> None:
    made = detector().fit(parts(40), calibration=parts(25, seed=9), backbone=TinyBackbone())
    assert len(made.pipeline_.calibration or ()) == 25


@pytest.mark.parametrize("by", ["auto", "split"])
def test_where_it_cannot_be_images_are_set_aside(by: str) -> None:
    for changes in ({"scoring": "elbo"}, {}):
        made = detector(calibrate_by=by, **changes).fit(parts(40), backbone=TinyBackbone())
        assert (len(made.split_["calibrate"]) == 0) == (by == "auto" and not changes)


@pytest.mark.parametrize("changes", [{"scoring": "elbo"}, {"tile": 16}, {"features": "none"}])
def test_it_is_refused_where_it_cannot_be(changes: dict[str, Any]) -> None:
    backbone = None if changes.get("features") == "none" else TinyBackbone()
    with pytest.raises(SettingsError, match="calibrate_by = 'left_out' needs features"):
        detector(calibrate_by="left_out", **changes).fit(parts(40), backbone=backbone)


def test_what_is_no_exact_promise_is_not_told_as_one(fitted: Detector, tmp_path: Path) -> None:
    loaded = Detector.load(fitted.save(tmp_path / "model"), backbone=TinyBackbone())
    apart = detector(calibrate_by="split", alpha=0.2).fit(parts(N), backbone=TinyBackbone())
    for made, left_out in ((fitted, True), (loaded, True), (apart, False)):
        assert made.pipeline_.left_out == left_out
        assert ("left out in turn: no exact promise" in made.card_) == left_out
    told = evaluate(loaded, ImageSet.from_arrays(parts(8, seed=3), labels=np.r_[np.zeros(4), np.ones(4)]))
    statements = judge(report_inputs(loaded, told, title="", command="", pictures=False)).statements
    assert any("learned from, each left out in turn, and is no exact promise" in text for _, text in statements)
    assert not loaded.calibrate(parts(30, seed=8)).pipeline_.left_out
