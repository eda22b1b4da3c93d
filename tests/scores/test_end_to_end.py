"""Scores from the outside: fit, score, save, load, in batches of any size and with conditions that are not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowngood import Detector
from knowngood.errors import SettingsError
from patch_models import TinyBackbone
from patch_models import parts as patches_of

SIDE = 8
SCORES: list[Any] = [
    "iwae",
    "reconstruction_probability",
    {"name": "likelihood_regret", "steps": 30},
    "input_complexity",
    "typicality",
    *({"name": "neighbours", "of": of, "coreset": 100} for of in ("latent", "pixels", "residual", "gradients")),
    {"name": "mahalanobis", "of": "gradients"},
    "gradient",
    "gradient_map",
    {"name": "restoration", "steps": 5},
]


def parts(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8×8 images (N, 8, 8) uint8 of one bright square: top left for kind "a", bottom right for "b"."""
    rng = np.random.default_rng(seed)
    images, kind = rng.integers(0, 40, (n, SIDE, SIDE)), rng.integers(0, 2, n)
    for image, k in zip(images, kind, strict=True):
        image[1 + 3 * k : 4 + 3 * k, 1 + 3 * k : 4 + 3 * k] += rng.integers(120, 200)
    return images.astype(np.uint8), np.array(["a", "b"])[kind]


def quick(**settings: Any) -> Detector:
    small = {"net": {"name": "mlp", "hidden": (32,)}, "latent_dim": 3, "epochs": 30, "device": "cpu"}
    return Detector(**{**small, **settings})


@pytest.mark.parametrize("scoring", SCORES, ids=str)
def test_a_score_flags_stripes_keeps_its_values_when_saved_and_in_any_batch(scoring: Any, tmp_path: Path) -> None:
    images, kind = parts(400)
    detector = quick(scoring=scoring, unknown="infer").fit(images, conditions={"kind": kind})
    new, kinds = parts(60, seed=1)
    good = detector.detect(new, conditions={"kind": kinds})
    stripes = np.tile(np.uint8([250, 0]), (40, SIDE, SIDE // 2)) - np.uint8(np.arange(40))[:, None, None] % 7
    odd = detector.detect(stripes, conditions={"kind": np.full(40, "a")})
    assert odd["is_anomalous"].mean() > 0.7
    assert good["is_anomalous"].mean() < 0.2

    check_saved_and_in_any_batch(detector, tmp_path)


@pytest.mark.parametrize("of", ["latent", "gradients"])
def test_relative_mahalanobis_flags_what_is_told_to_be_another_kind(of: str, tmp_path: Path) -> None:
    images, kind = parts(400)
    scoring = {"name": "mahalanobis", "of": of, "relative": True}
    detector = quick(scoring=scoring, unknown="infer").fit(images, conditions={"kind": kind})
    new, kinds = parts(60, seed=1)
    others = np.where(kinds == "a", "b", "a")
    assert detector.detect(new, conditions={"kind": others})["is_anomalous"].mean() > 0.7
    assert detector.detect(new, conditions={"kind": kinds})["is_anomalous"].mean() < 0.2
    check_saved_and_in_any_batch(detector, tmp_path)


def check_saved_and_in_any_batch(detector: Detector, folder: Path) -> None:
    new, kinds = parts(60, seed=1)
    loaded = Detector.load(detector.save(folder / "model"))
    assert loaded.detect(new, conditions={"kind": kinds}).equals(detector.detect(new, conditions={"kind": kinds}))
    assert loaded.detect(new).equals(detector.detect(new))  # the kind inferred

    values = detector.score_samples(new, conditions={"kind": kinds})
    assert np.array_equal(values, detector.score_samples(new, conditions={"kind": kinds}))
    order = np.random.default_rng(0).permutation(60)
    cuts = np.split(order, [1, 3, 20])
    pieces = [detector.score_samples(new[i], conditions={"kind": kinds[i]}) for i in cuts]
    np.testing.assert_allclose(np.concatenate(pieces), values[order], rtol=1e-5, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize(
    ("scoring", "parts_of_it"),
    [
        ("likelihood_regret", ("regret_amortised", "regret_optimised")),
        ("input_complexity", ("complexity_model", "complexity_code")),
    ],
)
def test_what_a_score_is_made_of_is_in_the_table(scoring: str, parts_of_it: tuple[str, str]) -> None:
    images, _ = parts(60)
    detector = quick(scoring=scoring, epochs=1, alpha=0.2).fit(images)
    table = detector.detect(images)
    of_parts = table[parts_of_it[0]] - table[parts_of_it[1]]
    np.testing.assert_allclose(table["anomaly_score"], of_parts, rtol=1e-9)


def test_reconstruction_probability_has_maps_and_the_others_say_they_have_none() -> None:
    images, _ = parts(60)
    detector = quick(scoring="reconstruction_probability", epochs=1, alpha=0.2).fit(images)
    assert [m.shape for m in detector.anomaly_maps(images[:2])] == [(SIDE, SIDE)] * 2
    detector = quick(scoring="iwae", epochs=1, alpha=0.2).fit(images)
    with pytest.raises(SettingsError, match="score 'iwae' has no map"):
        detector.anomaly_maps(images[:2])


def test_what_is_not_defined_is_refused_before_training() -> None:
    images, _ = parts(60)
    with pytest.raises(SettingsError, match="likelihood 'bernoulli' learns none"):
        quick(scoring="reconstruction_probability", likelihood="bernoulli").fit(images)
    with pytest.raises(SettingsError, match="likelihood 'bernoulli' gives none"):
        quick(scoring="input_complexity", likelihood="bernoulli").fit(images)
    with pytest.raises(SettingsError, match="items here have 4 features"):
        quick(scoring="input_complexity").fit(np.random.default_rng(0).normal(size=(60, 4)))
    for name in ("neighbours", "mahalanobis"):
        edges = {"name": name, "of": "gradients"}
        with pytest.raises(SettingsError, match=f"score '{name}' of 'gradients' compares the edges of images"):
            quick(scoring=edges).fit(np.random.default_rng(0).normal(size=(60, 4)))
        own = {"name": "own", "stride": 4, "average": 1}
        with pytest.raises(SettingsError, match=r"on features take of='latent'"):
            quick(scoring=edges, features=own, image_size=32).fit(patches_of(60), backbone=TinyBackbone())
