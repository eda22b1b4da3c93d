"""Scores from the outside: fit, score, save, load, in batches of any size and with conditions that are unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowngood import Detector
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc

pytestmark = pytest.mark.slow

SIDE = 8
SCORES: list[Any] = [
    "iwae",
    "reconstruction_probability",
    {"name": "likelihood_regret", "steps": 30},
    "input_complexity",
    "typicality",
    *({"name": "neighbours", "of": of, "coreset": 100} for of in ("latent", "items", "residual", "hog")),
    {"name": "mahalanobis", "of": "hog"},
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


def quick(score: Any, *, epochs: int = 30, representation: Any = "pixels", **vae: Any) -> Detector:
    model = {"name": "vae", "net": {"name": "mlp", "hidden": (32,)}, "latent_dim": 3, **vae}
    training, conditioning = {"epochs": epochs}, {"unknown": "infer"}
    return Detector(representation, model, score, training=training, conditioning=conditioning, device="cpu", alpha=0.2)


@pytest.mark.parametrize("score", SCORES, ids=str)
def test_a_score_flags_stripes_keeps_its_values_when_saved_and_in_any_batch(score: Any, tmp_path: Path) -> None:
    images, kind = parts(300)
    detector = quick(score, epochs=20).fit(images, conditions={"kind": kind})
    new, kinds = parts(60, seed=1)
    normal = detector.detect(new, conditions={"kind": kinds})
    stripes = np.tile(np.uint8([250, 0]), (40, SIDE, SIDE // 2)) - np.uint8(np.arange(40))[:, None, None] % 7
    anomalous = detector.detect(stripes, conditions={"kind": np.full(40, "a")})
    assert anomalous["is_anomalous"].mean() > 0.7
    assert normal["is_anomalous"].mean() < 0.45  # α = .2, 60 calibration images, 60 judged: 4 standard deviations

    check_saved_and_in_any_batch(detector, tmp_path)


@pytest.mark.parametrize("of", ["latent", "hog"])
def test_relative_mahalanobis_flags_items_given_another_kind(of: str, tmp_path: Path) -> None:
    images, kind = parts(400)
    score = {"name": "mahalanobis", "of": of, "relative": True}
    detector = quick(score).fit(images, conditions={"kind": kind})
    new, kinds = parts(60, seed=1)
    others = np.where(kinds == "a", "b", "a")
    assert detector.detect(new, conditions={"kind": others})["is_anomalous"].mean() > 0.7
    assert detector.detect(new, conditions={"kind": kinds})["is_anomalous"].mean() < 0.35
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
    ("score", "parts_of_it"),
    [
        ("likelihood_regret", ("regret_amortised", "regret_optimised")),
        ("input_complexity", ("complexity_model", "complexity_code")),
    ],
)
def test_what_a_score_is_made_of_is_in_the_table(score: str, parts_of_it: tuple[str, str]) -> None:
    images, _ = parts(60)
    detector = quick(score, epochs=1).fit(images)
    table = detector.detect(images)
    of_parts = table[parts_of_it[0]] - table[parts_of_it[1]]
    np.testing.assert_allclose(table["anomaly_score"], of_parts, rtol=1e-9)


def test_reconstruction_probability_has_maps_and_the_others_say_they_have_none() -> None:
    images, _ = parts(60)
    detector = quick("reconstruction_probability", epochs=1).fit(images)
    assert [m.shape for m in detector.anomaly_maps(images[:2])] == [(SIDE, SIDE)] * 2
    detector = quick("iwae", epochs=1).fit(images)
    with pytest.raises(SettingsError, match="score 'iwae' has no map"):
        detector.anomaly_maps(images[:2])


def test_what_is_not_defined_is_refused_before_training() -> None:
    images, _ = parts(60)
    with pytest.raises(SettingsError, match="likelihood 'bernoulli' learns none"):
        quick("reconstruction_probability", likelihood="bernoulli").fit(images)
    with pytest.raises(SettingsError, match="likelihood 'bernoulli' gives none"):
        quick("input_complexity", likelihood="bernoulli").fit(images)
    with pytest.raises(SettingsError, match="items here have 4 features"):
        quick("input_complexity", representation="table").fit(np.random.default_rng(0).normal(size=(60, 4)))
    for name in ("neighbours", "mahalanobis"):
        hog = {"name": name, "of": "hog"}
        with pytest.raises(SettingsError, match=f"score '{name}' of 'hog' compares images"):
            quick(hog, representation="table").fit(np.random.default_rng(0).normal(size=(60, 4)))
    with pytest.raises(SettingsError, match="class_aware can be above 0 only if"):
        quick("prior_distance", class_aware=1.0).fit(images)


def test_a_kind_never_seen_lies_between_the_priors_where_these_are_separated() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(8)
    kinds = {"low": rows < 4, "high": rows >= 4, "odd rows": rows % 2 == 1, "even rows": rows % 2 == 0}

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        name = np.repeat([*kinds, "flat"], n)
        shape = np.stack([kinds.get(str(kind), np.full(8, 0.5)) for kind in name]) - 0.5
        level = 120 + rng.uniform(60, 160, len(name))[:, None] * shape
        noise = np.where(name == "flat", 5, 25)[:, None, None]
        images = level[:, :, None] + noise * rng.normal(0, 1, (len(name), 8, 8))
        return images.clip(0, 255).astype(np.uint8), name

    images, kind = draw(60)
    normal = kind != "flat"
    new, truth = draw(50)
    aurocs = {}
    for prior in ("learned", "separated"):
        vae = {"name": "vae", "net": "mlp", "latent_dim": 8, "prior": prior, "class_aware": 100.0}
        training, conditioning = {"epochs": 30, "precision": "float32"}, {"unknown": "infer"}
        detector = Detector("pixels", vae, "prior_distance", training=training, conditioning=conditioning)
        detector.fit(images[normal], conditions={"kind": kind[normal]})
        aurocs[prior] = roc_auc(truth == "flat", -detector.score_samples(new))
    assert aurocs["learned"] < 0.8
    assert aurocs["separated"] > 0.95


def stripes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(12) * rng.uniform(0.4, 0.9, n)[:, None] + rng.uniform(0, 6, n)[:, None])
    images = 110 + 50 * wave[:, None, :] + rng.normal(0, 12, (n, 12, 12))
    return images.clip(0, 190).astype(np.uint8)


def test_the_false_alarm_rate_holds_under_other_illumination_and_not_without_the_adjustment() -> None:
    normal, new = stripes(500, 0), stripes(400, 1)
    vae = {"name": "vae", "objective": "vae", "net": "mlp", "latent_dim": 6}
    rates = {}
    for tolerance in (None, 0.3):
        pixels = {"name": "pixels", "scaling": (0, 255), "illumination": tolerance}
        detector = Detector(pixels, vae, "elbo", training={"epochs": 20}).fit(normal)
        rates[tolerance] = [(detector.predict((new * f).astype(np.uint8)) == -1).mean() for f in (0.7, 1.0, 1.3)]
    assert max(rates[None]) > 0.3
    assert max(rates[0.3]) < 0.12


def test_illumination_that_cannot_be_adjusted_for_is_refused() -> None:
    pixels: dict[str, Any] = {"name": "pixels", "illumination": 0.3}
    with pytest.raises(SettingsError, match="brightness"):
        Detector(pixels, "vae", conditioning={"measure": ("brightness",)}).fit(stripes(60, 0))
    with pytest.raises(SettingsError, match=r"illumination = 0\.3"):
        Detector({**pixels, "scaling": (10, 255)}, "vae").fit(stripes(60, 0))


def test_a_measured_condition_that_is_no_illumination_goes_with_it() -> None:
    vae = {"name": "vae", "net": "mlp", "latent_dim": 2}
    conditioning: dict[str, Any] = {"measure": ("sharpness",), "roles": {"sharpness": ["model"]}}
    pixels = {"name": "pixels", "illumination": 0.3}
    detector = Detector(pixels, vae, training={"epochs": 2}, conditioning=conditioning).fit(stripes(60, 0))
    assert [column.name for column in detector.pipeline_.schema.columns] == ["sharpness"]
