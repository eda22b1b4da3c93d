"""Cross-conformal calibration: out-of-fold scores, what is refitted, and the false-alarm rate that is realised."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from feature_cells import CELL, Cells, detector, noise
from knowngood import Detector
from knowngood.calibration.splits import folds

FEATURES, GRID = 24, 6


class Mixed(nn.Module):
    """24 fixed mixtures of the 8 × 8 pixels of each cell, on a grid of 6 × 6."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn(FEATURES, 3, CELL, CELL, generator=draw))

    def features(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.conv2d(images, self.filters, stride=CELL)]

    def fingerprint(self) -> str:
        return "mixed"


def crossed(k: int = 5, **settings) -> Detector:
    return detector(calibration={"method": "cross", "folds": k}, **settings)


def sorted_scores(fitted: Detector) -> np.ndarray:
    return np.sort(fitted.pipeline_.calibration.scores)


@pytest.mark.parametrize(("n", "k"), [(24, 5), (20, 4), (3, 5)])
def test_folds_cover_every_item_once(n: int, k: int) -> None:
    strata = np.arange(n) % 2
    found = folds(n, strata, k, seed=3)
    assert len(found) == min(n, k)
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(n))
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
def test_out_of_fold_scores_are_those_of_a_refit_by_hand() -> None:
    """Each fold is scored by a detector that was fitted to the others alone."""
    images, backbone = noise(30), Cells()
    found = crossed(3, alpha=0.2).fit(images, backbone=backbone)
    assert found.pipeline_.calibrated_by == "cross"
    assert {name: len(index) for name, index in found.split_.items()} == {"fit": 30, "select": 0, "calibrate": 0}
    raw = []
    for own in folds(30, np.zeros(30, int), 3, seed=0):
        rest = np.setdiff1d(np.arange(30), own)
        others = detector(alpha=0.2).fit(images[rest], calibration_set=images[own], backbone=backbone)
        raw.append(others.pipeline_.calibration.scores)
    np.testing.assert_allclose(sorted_scores(found), np.sort(np.concatenate(raw)), rtol=1e-6)


@pytest.mark.slow
def test_split_calibration_keeps_its_exact_form() -> None:
    """Images set aside calibrate, and p = (1 + number at least as anomalous) / (n + 1)."""
    images, new = noise(50), noise(20, seed=5)
    fitted = detector(alpha=0.2).fit(images, backbone=Cells())
    assert fitted.pipeline_.calibrated_by == "split"
    aside = fitted.split_["calibrate"]
    assert len(aside) == 20
    kept, scores = (-fitted.score_samples(some) for some in (images[aside], new))
    wanted = (1 + (kept[None] >= scores[:, None]).sum(1)) / 21
    np.testing.assert_allclose(fitted.detect(new)["p_value"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "seeds"), [(24, 5), (60, 2)])
def test_the_realised_false_alarm_rate_is_at_most_alpha(n: int, seeds: int) -> None:
    alpha, rates = 0.1, []
    for seed in range(seeds):
        images = noise(n + 100, GRID * CELL, GRID * CELL, seed=seed)
        made = crossed(alpha=alpha, random_state=seed, features={"image_size": GRID * CELL})
        rates.append((made.fit(images[:n], backbone=Mixed()).predict(images[n:]) == -1).mean())
    assert np.mean(rates) <= alpha + 0.02


def test_the_card_has_the_proven_bound_in_numbers() -> None:
    """2α + 2(1 − α)(K − 1)/(n + K), Vovk et al. 2018, of n items in K folds, here of n = 40 in 5 and of 4 in 4."""
    bank = {"representation": "table", "model": "memory_bank", "alpha": 0.2}
    rows = np.random.default_rng(0).normal(size=(40, 3))
    assert "5 folds" in (card := Detector(**bank).fit(rows).card_)
    assert "2α + 2(1 − α)(K − 1)/(n + K), here 0.54," in card
    assert "4 folds" in Detector(**bank).fit(rows[:4]).card_


@pytest.mark.slow
def test_models_of_folds_hold_out_the_same_normals_as_the_final_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a score that is fitted on held-out normals is on another scale out of fold: calibration scores too large."""
    fit, learning = (import_module(f"knowngood.detector.fit{part}") for part in ("", ".learn"))
    held_out, inner = [], learning.learn

    def learn(plan, index, select, *rest):
        held_out.append(select)
        return inner(plan, index, select, *rest)

    for module in (fit, learning):
        monkeypatch.setattr(module, "learn", learn)
    model = {"name": "vae", "net": {"name": "mlp", "hidden": (8,)}}
    made = Detector("table", model, training={"epochs": 2}, calibration={"method": "cross", "folds": 3})
    made.fit(np.random.default_rng(0).normal(size=(60, 4)))
    assert len(held_out) == 4
    assert all(np.array_equal(some, made.split_["select"]) for some in held_out)
    assert len(made.split_["select"]) == 6


@pytest.mark.parametrize("scaling", ["dtype", "data"])
def test_hog_is_computed_once_for_all_folds(scaling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "data" the range of the pixels is of each fold, and so is its HOG where they differ."""
    module = import_module("knowngood.representations.hog")
    images = (np.arange(40 * 400).reshape(40, 20, 20) % 251).astype(np.uint8)
    computed = []

    def counted(x: Tensor, *rest: object) -> Tensor:
        computed.append(len(x))
        return hog(x, *rest)  # type: ignore[arg-type]

    hog = module.hog
    monkeypatch.setattr(module, "hog", counted)
    given = {"name": "hog", "scaling": scaling}
    fitted = Detector(given, "memory_bank", alpha=0.2).fit(images)
    once, type_of = sum(computed), type(fitted.pipeline_.representation)
    computed.clear()
    streamed = Detector(given, "memory_bank", alpha=0.2, training={"memory_gb": 1e-9}).fit(images)
    assert type_of is module.HOG
    assert once == 2 * 40 or scaling == "data"
    assert sum(computed) > 4 * once
    assert np.allclose(sorted_scores(fitted), sorted_scores(streamed), rtol=1e-5)
    assert np.allclose(fitted.score_samples(images[:3]), streamed.score_samples(images[:3]))
