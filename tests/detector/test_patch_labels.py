"""A few labelled defects teach the score of patches: where that helps others of their kind, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from knowngood import Detector
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.detector.fit import patch_labels
from knowngood.detector.fit.discriminant import found_among, logistic
from knowngood.detector.fit.patch_defects import places_of_defects
from knowngood.detector.fit.patch_direction import Examples
from knowngood.detector.fit.patch_label_trial import Trial
from knowngood.detector.fit.patch_labels import teach
from knowngood.detector.fit.patch_settling import settle
from knowngood.detector.fit.plan import Plan, plan
from knowngood.detector.pipeline import Pipeline
from knowngood.errors import DataError, SettingsError
from knowngood.metrics import roc_auc
from knowngood.representations.alignment.warping import Quality, Transform
from knowngood.scores.patches import bounded, label_term
from patch_models import TinyBackbone, parts

OWN: dict[str, Any] = {"name": "own", "stride": 4, "average": 1, "context": 0}
GOOD = 100


def striped(n: int, seed: int, strength: float = 14.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32) parts with faint stripes in a square of 8×8 pixels somewhere, and the squares."""
    rng = np.random.default_rng(seed)
    images, masks = parts(n, seed=seed).astype(float), np.zeros((n, 32, 32), dtype=bool)
    stripes = strength * (2.0 * (np.arange(32) // 2 % 2) - 1)
    for image, mask in zip(images, masks, strict=True):
        top, left = rng.integers(1, 23, 2)
        mask[top : top + 8, left : left + 8] = True
        image += mask * stripes
    return images.clip(0, 255).astype(np.uint8), masks


def with_masks(images: np.ndarray, masks: np.ndarray | None, folder: Path) -> ImageSet:
    """Anomalous images, with masks as files."""
    labelled = ImageSet.from_arrays(images, np.ones(len(images)), ids=[f"bad {i}" for i in range(len(images))])
    if masks is None:
        return labelled
    paths = [folder / f"{i}.png" for i in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return labelled.replace(masks=tuple(paths))


def ready(**changes: Any) -> tuple[Pipeline, Plan]:
    """A pipeline scored by the Gaussians of places, settled, and its plan without labelled defects."""
    chosen = parse_settings({"features": OWN, "image_size": 32, "latent_dim": 2, "scoring": "gaussian", **changes})
    made = plan(ImageSet.from_arrays(parts(GOOD)), chosen, 0, backbone=TinyBackbone())
    pipeline = Pipeline(chosen, made.schema, made.representation, made.model.eval(), made.score, ignore=made.ignore)
    pipeline.state = made.score.fit(made.model, [])
    assert chosen.features != "none"
    settle(pipeline, made, made.inners, chosen.features, 0)
    return pipeline, made


@pytest.fixture(scope="module")
def plain() -> tuple[Pipeline, Plan]:
    return ready()


def taught(plain: tuple[Pipeline, Plan], labelled: ImageSet, seed: int = 0) -> tuple[Pipeline, dict[str, Any]]:
    """A copy of the pipeline after the labelled images, and what was said of it."""
    pipeline = replace(plain[0], state=dict(plain[0].state))
    told = teach(pipeline, replace(plain[1], labelled=labelled), seed)
    assert told is not None
    return pipeline, told


def raw(pipeline: Pipeline, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and maps (N, h, w)."""
    x = torch.from_numpy(pipeline.representation.read(ImageSet.from_arrays(images))[0]).float()  # type: ignore[arg-type]
    with torch.no_grad():
        found = pipeline.score.score(pipeline.model, pipeline.state, x, None, torch.zeros(len(x)).long(), want_map=True)
    assert found.map is not None
    return found.values.numpy(), found.map.numpy()


# The discriminant -----------------------------------------------------------------------------------------------------


def examples(n: int = 60, f: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=draw).double()
    sign = torch.where(torch.arange(n) % 3 == 0, 1.0, -1.0).double()
    weight = torch.rand(n, generator=draw).double()
    weight = torch.where(sign > 0, weight / weight[sign > 0].sum(), weight / weight[sign < 0].sum()) / 2
    return x + sign[:, None] * torch.linspace(0, 1, f), sign, weight


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_direction_is_the_minimum(ridge: float) -> None:
    x, sign, weight = examples()
    d, a = logistic(x, sign, weight, ridge)
    d.requires_grad_(True)
    margin = sign * (x @ d + a)
    loss = (weight * torch.log1p(torch.exp(-margin))).sum() + ridge / 2 * d.square().sum()
    (gradient,) = torch.autograd.grad(loss, d)
    assert float(gradient.norm()) < 1e-8


def test_under_a_strong_ridge_it_is_the_difference_of_means() -> None:
    x, sign, weight = examples()
    d, _ = logistic(x, sign, weight, 1e6)
    difference = (weight * sign) @ x  # half the difference of the weighted means
    torch.testing.assert_close(1e6 * d, difference / 2, rtol=1e-4, atol=1e-6)


def test_separable_examples_have_a_finite_direction() -> None:
    x, sign, weight = examples()
    d, _ = logistic(torch.cat([x, 100 * sign[:, None]], 1), sign, weight, 0.01)
    assert torch.isfinite(d).all()
    assert d[-1] > 0


def test_bounded_patches_keep_their_direction_and_are_shorter_than_root_f() -> None:
    v = (
        torch.randn(4, 7, 9, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1, 10, 6e4])[:, None, None]
    )
    b = bounded(v)
    torch.testing.assert_close(torch.cosine_similarity(v, b, dim=-1), torch.ones(4, 7))
    assert float(b.norm(dim=-1).max()) <= 3.0 + 1e-5
    torch.testing.assert_close(b[0], v[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(b.norm(dim=-1), v.norm(dim=-1) / (1 + v.square().sum(-1) / 9).sqrt())


def test_the_term_is_never_negative_and_zero_where_patches_look_normal() -> None:
    state = {
        "label_direction": torch.tensor([1.0, 0.0]),
        "label_offset": torch.tensor(0.5),
        "label_weight": torch.tensor(2.0),
    }
    white = torch.tensor([[[-9.0, 3.0], [0.5, 0.0], [1.0, 1.0], [50.0, 0.0]]])
    found = label_term(state, white)[0]
    assert found[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found[2:], 2 * (torch.tensor([1 / 2**0.5, 50 / (1 + 1250) ** 0.5]) - 0.5))


def test_shares_found_are_the_auroc() -> None:
    rng = np.random.default_rng(0)
    odd, good = rng.integers(0, 9, 30) + 1.0, rng.integers(0, 9, 40) + 0.0  # with ties
    found = found_among(torch.from_numpy(odd), torch.from_numpy(good))
    assert float(found.mean()) == pytest.approx(roc_auc(np.r_[np.zeros(40), np.ones(30)], np.r_[good, odd]))


# What labelled defects do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
def test_labelled_defects_help_to_find_others_and_take_nothing_away(
    plain: tuple[Pipeline, Plan], tmp_path: Path, masked: bool
) -> None:
    images, masks = striped(14, seed=1, strength=14 if masked else 18)
    pipeline, told = taught(plain, with_masks(images, masks if masked else None, tmp_path))
    assert told["weight"] > 0
    assert told["taught"] == (14 if masked else told["taught"])
    assert told["auroc"][1] > told["auroc"][0]
    assert told["synthetic"][1] >= told["synthetic"][0] - patch_labels.LOST
    unseen = np.concatenate([parts(80, seed=2), striped(80, seed=3)[0], 255 - parts(5, seed=4)])
    (before, maps), (after, also) = raw(plain[0], unseen), raw(pipeline, unseen)
    assert (after >= before).all()
    assert (also >= maps).all()
    labels = np.r_[np.zeros(80), np.ones(80)]
    gain = roc_auc(labels, after[:160]) - roc_auc(labels, before[:160])
    assert gain > (0.01 if masked else 0.0)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_good_images_called_bad_change_nothing(
    plain: tuple[Pipeline, Plan], tmp_path: Path, masked: bool, seed: int
) -> None:
    squares = striped(12, seed=50 + seed)[1] if masked else None
    pipeline, told = taught(plain, with_masks(parts(12, seed=60 + seed), squares, tmp_path), seed)
    assert told["weight"] == 0
    assert "change nothing" in told["sentence"]
    assert pipeline.state.keys() == plain[0].state.keys()
    judged = np.concatenate([parts(9, seed=5), striped(9, seed=6)[0]])
    for one, same in zip(raw(pipeline, judged), raw(plain[0], judged), strict=True):
        assert np.array_equal(one, same)


def test_what_costs_synthetic_defects_is_not_taken(
    plain: tuple[Pipeline, Plan], tmp_path: Path, monkeypatch: Any
) -> None:
    labelled = with_masks(*striped(14, seed=1), tmp_path)
    monkeypatch.setattr(patch_labels, "LOST", -1.0)  # nothing gains so much
    assert taught(plain, labelled)[1]["weight"] == 0


def test_it_is_the_same_again(plain: tuple[Pipeline, Plan], tmp_path: Path) -> None:
    labelled = with_masks(*striped(14, seed=1), tmp_path)
    (one, told), (same, again) = (taught(plain, labelled) for _ in range(2))
    assert told == again
    assert all(torch.equal(one.state[name], same.state[name]) for name in one.state)


def test_fewer_than_three_defects_are_too_few_to_hold_some_out(plain: tuple[Pipeline, Plan], tmp_path: Path) -> None:
    pipeline, told = taught(plain, with_masks(*striped(2, seed=1), tmp_path))
    assert told["weight"] == 0
    assert told["sentence"] == "Labelled defects change nothing: 2 of 2 can be used, and to hold some out takes 3."
    assert pipeline.state.keys() == plain[0].state.keys()


def test_a_held_out_image_has_no_part_in_the_direction_it_is_judged_by() -> None:
    draw = torch.Generator().manual_seed(0)
    made = Examples(
        torch.randn(12, 4, generator=draw).double(),
        np.repeat(np.arange(3), 4),
        torch.randn(20, 4, generator=draw).double(),
        np.repeat(np.arange(5), 4),
    )
    folds = {"labelled": np.array([0, 1, 2]), "good": np.arange(5) % 3}
    before = made.direction(0.1, folds, 1)
    made.defect[4:8], made.good[4:8], made.good[16:] = 99.0, -99.0, 7.0
    assert torch.equal(made.direction(0.1, folds, 1), before)
    assert not torch.equal(made.direction(0.1, folds, 0), before)
    assert not made.direction(0.1, {**folds, "labelled": np.ones(3)}, 1).any()  # no defect is left


# Where defects are ----------------------------------------------------------------------------------------------------


def masks_of(pipeline: Any, images: ImageSet) -> list[Tensor | None]:
    return places_of_defects(images, pipeline.representation)


def test_a_mask_names_the_places_it_covers_by_half_of_the_most_it_covers_any(
    plain: tuple[Pipeline, Plan], tmp_path: Path
) -> None:
    masks = np.zeros((4, 32, 32), dtype=bool)  # places are 4×4 pixels
    masks[0, 4:12, 8:14] = True  # whole places, and halves of others
    masks[1, 4:8, 8:9] = True  # a quarter of a place, and nothing else
    masks[2, 5, 4:9] = True  # a row of one, and a pixel of the next
    found = masks_of(plain[0], with_masks(parts(4), masks, tmp_path))
    for mask, places in zip(found[:3], ([(1, 2), (1, 3), (2, 2), (2, 3)], [(1, 2)], [(1, 1)]), strict=True):
        assert mask is not None
        assert torch.nonzero(mask).tolist() == [list(at) for at in places]
    assert found[3] is None  # empty


def test_a_mask_lies_as_the_aligned_image_does(plain: tuple[Pipeline, Plan], tmp_path: Path) -> None:
    masks = np.zeros((1, 32, 32), dtype=bool)
    masks[0, 4:8, 8:12] = True
    moved = Transform(np.array([[1.0, 0, 4], [0, 1, 0]]), (32, 32), Quality(0, 1))  # the image lies 4 to the right
    reader: Any = plain[0].representation
    stub: Any = SimpleNamespace(pixels=reader.pixels, grid=reader.grid, transforms=lambda *_: [moved])
    (found,) = places_of_defects(with_masks(parts(1), masks, tmp_path), stub)
    assert found is not None
    assert torch.nonzero(found).tolist() == [[1, 1]]


def test_a_mask_of_another_size_is_refused(plain: tuple[Pipeline, Plan], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad 0: its mask is \(16, 32\), the image is \(32, 32\)"):
        taught(plain, with_masks(parts(2), np.ones((2, 16, 32), dtype=bool), tmp_path))


def test_ignored_places_do_not_teach(tmp_path: Path) -> None:
    pipeline, made = ready(ignore=[[(0, 0), (1, 0), (1, 0.5), (0, 0.5)]])
    images, masks = striped(4, seed=1)
    masks[:, 12:20, 4:8] = True
    seen: list[Tensor] = []
    hit = Trial.hit

    def spied(self: Any, i: int, mask: Tensor | None) -> Tensor:
        seen.append(hit(self, i, mask))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "hit", spied)
        teach(pipeline, replace(made, labelled=with_masks(images, masks, tmp_path)), 0)
    assert len(seen) == 4
    assert all(one[4:].any() and not one[:4].any() for one in seen)


def test_images_that_cannot_be_used_are_named(plain: tuple[Pipeline, Plan], tmp_path: Path) -> None:
    images, masks = striped(4, seed=1)
    masks[0] = False  # no mask, and a defect that no score shows
    images[0] = parts(1, seed=70)[0]

    _, told = taught(plain, with_masks(images, masks, tmp_path))
    assert told["given"] == 4
    assert told["taught"] == 3
    assert list(told["left_out"]) == ["bad 0"]
    assert "no mask says where" in told["left_out"]["bad 0"]


# The detector ---------------------------------------------------------------------------------------------------------


def fitted(images: np.ndarray, masks: np.ndarray | None, folder: Path, **changes: Any) -> Detector:
    bad = with_masks(images, masks, folder)
    both = ImageSet.from_arrays(np.concatenate([parts(GOOD), images]), np.r_[np.zeros(GOOD), np.ones(len(images))])
    if bad.masks is not None:
        both = both.replace(masks=(*[None] * GOOD, *bad.masks))
    quick: dict[str, Any] = {"features": OWN, "image_size": 32, "epochs": 1, "latent_dim": 2, "device": "cpu"}
    return Detector(**{**quick, "scoring": "gaussian", "alpha": 0.1, **changes}).fit(both, backbone=TinyBackbone())


def test_a_taught_detector_is_saved_says_so_and_loads(tmp_path: Path) -> None:
    made = fitted(*striped(14, seed=1), tmp_path)
    told = made.about_["labelled"]
    assert told["weight"] > 0
    assert made.about_["data"]["taught_anomalies"] == told["taught"] == 14
    assert told["sentence"] in made.card_
    assert "14 labelled defects teach the score, with weight" in told["sentence"]
    judged = np.concatenate([parts(5, seed=5), striped(5, seed=6)[0]])
    loaded = Detector.load(made.save(tmp_path / "model"), backbone=TinyBackbone())
    assert np.array_equal(loaded.score_samples(judged), made.score_samples(judged))
    assert float(loaded.pipeline_.state["label_weight"]) == told["weight"]
    assert loaded.about_["labelled"] == told


def test_a_detector_that_nothing_taught_is_that_without_labels_to_the_bit(tmp_path: Path) -> None:
    useless = parts(8, seed=60)
    made, without = (fitted(useless, None, tmp_path, labelled=name) for name in ("auto", "ignore"))
    assert made.about_["labelled"]["weight"] == 0
    assert made.about_["data"]["taught_anomalies"] == 0
    assert "labelled" not in without.about_
    judged = np.concatenate([parts(9, seed=5), striped(9, seed=6)[0]])
    assert np.array_equal(made.score_samples(judged), without.score_samples(judged))
    assert np.array_equal(np.stack(made.anomaly_maps(judged)), np.stack(without.anomaly_maps(judged)))
    assert made.offset_ == without.offset_


@pytest.mark.parametrize("term", ["hinge", "reciprocal", "shift"])
def test_terms_of_whole_images_are_refused(tmp_path: Path, term: str) -> None:
    with pytest.raises(SettingsError, match=f"labelled = '{term}' teaches nets of whole items.*labelled='auto'"):
        fitted(*striped(3, seed=1), tmp_path, labelled=term)
