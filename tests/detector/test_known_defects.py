"""Known defects on features: others of the kind score higher, normal images and other anomalies as before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.data.pose.geometry import Quality
from knowngood.detector.fit.known_defects import defect_locations, learn_defects, mask_locations
from knowngood.detector.scoring import score_batches
from knowngood.errors import DataError
from knowngood.metrics import roc_auc
from knowngood.representations.alignment.warping import Transform

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds


def auroc(anomalous: np.ndarray, normal: np.ndarray) -> float:
    return roc_auc(np.r_[np.ones(len(anomalous)), np.zeros(len(normal))], np.r_[anomalous, normal])


def raw(pipeline: Any, items: Any) -> np.ndarray:
    """Scores (N,)."""
    return np.concatenate([batch.values for batch in score_batches(pipeline, items)])


class Filters(nn.Module):
    """A backbone of 12 fixed random filters at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 2)

    def features(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.conv2d(images - 0.3, self.filters, stride=4).tanh()]

    def fingerprint(self) -> str:
        return "filters"


def parts(n: int, seed: int = 0) -> np.ndarray:
    """(n, 32, 32) uint8 discs, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    disc = 150.0 * ((y - 15.5) ** 2 + (x - 15.5) ** 2 < 100)
    images = 40 + rng.normal(1, 0.03, (n, 1, 1)) * disc + rng.normal(0, 6, (n, 32, 32))
    return images.clip(0, 255).astype(np.uint8)


def striped(n: int, seed: int, strength: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32) parts with faint stripes in a square of 8×8 pixels, and the squares."""
    rng = np.random.default_rng(seed)
    images, masks = parts(n, seed=seed).astype(float), np.zeros((n, 32, 32), dtype=bool)
    stripes = strength * (2.0 * (np.arange(32) // 2 % 2) - 1)
    for image, mask in zip(images, masks, strict=True):
        top, left = rng.integers(1, 23, 2)
        mask[top : top + 8, left : left + 8] = True
        image += mask * stripes
    return images.clip(0, 255).astype(np.uint8), masks


def spotted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32) parts with a faint chequerboard in a square of 8×8 pixels, and the squares."""
    images, masks = striped(n, seed, strength=0.0)
    y, x = np.mgrid[:32, :32]
    board = 12.0 * (2.0 * ((y // 2 + x // 2) % 2) - 1)
    return (images + masks * board).clip(0, 255).astype(np.uint8), masks


def with_masks(images: np.ndarray, masks: np.ndarray | None, folder: Path) -> ImageSet:
    """Anomalous images, with masks as files."""
    labelled = ImageSet.from_arrays(images, np.ones(len(images)), ids=[f"bad {i}" for i in range(len(images))])
    if masks is None:
        return labelled
    paths = [folder / f"{i}.png" for i in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return labelled.replace(masks=tuple((path,) for path in paths))


OPTIONS = {
    "representation": {"name": "features", "backbone": {"name": "own"}, "stride": 4, "average": 1, "image_size": 32},
    "model": {"name": "patch_gaussian", "context": 0, "neighbours": 0},
}


@pytest.fixture(scope="module")
def fitted_parts() -> tuple[Any, Any]:
    """The pipeline of a fitted detector on features, and how labelled images are learned from."""
    images = ImageSet.from_arrays(parts(60))
    made = Detector(**OPTIONS, labels="ignore").fit(images, backbone=Filters())
    grids = made.pipeline_.representation.read(images)[0]  # type: ignore[union-attr]
    return made.pipeline_, lambda labelled, seed=0: learn_defects(made.pipeline_, images, labelled, grids, seed)


def test_one_marked_defect_raises_its_like_and_nothing_is_lowered(
    fitted_parts: tuple[Any, Any], tmp_path: Path
) -> None:
    plain, learn = fitted_parts
    pipeline, report = learn(with_masks(*striped(1, seed=1), tmp_path))
    assert (report["given"], report["used"], report["masked"], report["left_out"]) == (1, 1, 1, {})
    assert report["sentence"].startswith("Learned from 1 known defect, by its mask: patches that look more like one")
    unseen = ImageSet.from_arrays(np.concatenate([parts(80, seed=2), striped(80, seed=3)[0], 255 - parts(5, seed=4)]))
    before, after = raw(plain, unseen), raw(pipeline, unseen)
    assert (after >= before).all()
    assert (after[:80] == before[:80]).mean() > 0.9
    assert auroc(after[80:160], after[:80]) > auroc(before[80:160], before[:80]) + 0.02


def test_images_fitted_to_keep_their_scores(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    plain, learn = fitted_parts
    pipeline, _ = learn(with_masks(*striped(3, seed=1), tmp_path))
    same = ImageSet.from_arrays(parts(60))
    np.testing.assert_array_equal(raw(pipeline, same), raw(plain, same))


def test_defects_of_two_kinds_raise_both(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    plain, learn = fitted_parts
    (striped_one, mask), (spotted_one, other) = striped(1, seed=1), spotted(1, seed=1)
    both = with_masks(np.concatenate([striped_one, spotted_one]), np.concatenate([mask, other]), tmp_path)
    pipeline, _ = learn(both)
    for more in (striped, spotted):
        unseen = ImageSet.from_arrays(more(60, seed=3)[0])
        assert (raw(pipeline, unseen) > raw(plain, unseen)).mean() > 0.3
    assert learn(with_masks(*striped(4, seed=1), tmp_path))[1]["recognised"] == 4


def test_without_a_mask_the_farthest_patches_are_the_defect(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    _, learn = fitted_parts
    images, masks = striped(3, seed=1, strength=25.0)
    pipeline, report = learn(with_masks(images, None, tmp_path))
    assert (report["used"], report["masked"]) == (3, 0)
    others = learn(with_masks(images, masks, tmp_path))[0]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(pipeline.state["defect_directions"], others.state["defect_directions"]).min() > 0.5


@pytest.mark.parametrize("masked", [True, False])
def test_normal_images_labelled_anomalous_change_nothing(
    fitted_parts: tuple[Any, Any], tmp_path: Path, masked: bool
) -> None:
    plain, learn = fitted_parts
    for seed in range(3):
        masks = striped(12, seed=50 + seed)[1] if masked else None
        pipeline, report = learn(with_masks(parts(12, seed=60 + seed), masks, tmp_path))
        assert pipeline is plain
        assert (report["used"], report["weight"], len(report["left_out"])) == (0, 0, 12)


def test_images_without_a_defect_to_be_found_are_left_out(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    images, masks = striped(4, seed=1)
    masks[0], images[0] = False, parts(1, seed=70)[0]
    report = fitted_parts[1](with_masks(images, masks, tmp_path))[1]
    assert (report["given"], report["used"], report["masked"]) == (4, 3, 3)
    assert list(report["left_out"]) == ["bad 0"]
    assert "as near to normal as normal images are" in report["left_out"]["bad 0"]


def test_the_defect_of_an_empty_or_hidden_mask_is_the_farthest_patches() -> None:
    values = torch.arange(100.0)
    values[99] = torch.nan  # does not count
    mask = torch.zeros(10, 10, dtype=torch.bool)
    for given in (None, mask, mask.flatten().index_fill(0, torch.tensor([99]), True).unflatten(0, (10, 10))):
        assert defect_locations(given, values).nonzero()[:, 0].tolist() == [97, 98]
    mask[0, 3] = True
    assert defect_locations(mask, values).nonzero()[:, 0].tolist() == [3]


def test_false_alarms_stay_and_the_model_is_saved_with_what_it_learned(tmp_path: Path) -> None:
    normal, (odd, masks) = parts(60), striped(1, seed=1)
    labelled = with_masks(
        np.concatenate([normal, odd]), np.concatenate([np.zeros((60, 32, 32), bool), masks]), tmp_path
    )
    made = Detector(**OPTIONS).fit(labelled, anomalies=np.arange(61) == 60, backbone=Filters())
    assert made.about_["labels"]["used"] == 1
    assert "Learned from 1 known defect" in made.card_
    assert made.about_["data"]["normals"] == 60
    table = made.detect(parts(80, seed=2))
    assert table.is_anomalous.mean() < 0.15
    again = Detector.load(made.save(tmp_path / "model"), backbone=Filters())
    np.testing.assert_array_equal(again.detect(odd).anomaly_score, made.detect(odd).anomaly_score)


def test_a_mask_names_the_locations_it_covers_by_half_of_the_most(
    fitted_parts: tuple[Any, Any], tmp_path: Path
) -> None:
    masks = np.zeros((4, 32, 32), dtype=bool)  # locations are 4×4 pixels
    masks[0, 4:12, 8:14] = True  # whole locations, and halves of others
    masks[1, 4:8, 8:9] = True  # a quarter of a location, and nothing else
    masks[2, 5, 4:9] = True  # a row of one, and a pixel of the next
    found = mask_locations(with_masks(parts(4), masks, tmp_path), fitted_parts[0].representation)
    for mask, expected in zip(found[:3], ([(1, 2), (1, 3), (2, 2), (2, 3)], [(1, 2)], [(1, 1)]), strict=True):
        assert mask is not None
        assert torch.nonzero(mask).tolist() == [list(at) for at in expected]
    assert found[3] is None  # empty


def test_a_mask_lies_as_the_aligned_image_does(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    masks = np.zeros((1, 32, 32), dtype=bool)
    masks[0, 4:8, 8:12] = True
    moved = Transform(np.array([[1.0, 0, 4], [0, 1, 0]]), (32, 32), Quality(0, 1))  # the image lies 4 to the right
    reader = fitted_parts[0].representation
    stub: Any = SimpleNamespace(pixels=reader.pixels, grid=reader.grid, transforms=lambda *_: [moved])
    (found,) = mask_locations(with_masks(parts(1), masks, tmp_path), stub)
    assert found is not None
    assert torch.nonzero(found).tolist() == [[1, 1]]


def test_a_mask_of_another_size_is_refused(fitted_parts: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad 0: its mask is \(16, 32\), the image is \(32, 32\)"):
        fitted_parts[1](with_masks(parts(2), np.ones((2, 16, 32), dtype=bool), tmp_path), 0)


def test_five_normal_images_and_a_defect_are_enough_to_fit(tmp_path: Path) -> None:
    normal, (odd, masks) = parts(5), striped(1, seed=1)
    both = with_masks(np.concatenate([normal, odd]), np.concatenate([np.zeros((5, 32, 32), bool), masks]), tmp_path)
    made = Detector(**OPTIONS).fit(both, anomalies=np.arange(6) == 5, backbone=Filters())
    assert made.offset_ == -np.inf  # 5 % is out of reach
    assert made.about_["labels"]["used"] == 1
    scores = made.detect(np.concatenate([parts(20, seed=2), 255 - parts(20, seed=4)])).anomaly_score.to_numpy()
    assert scores[20:].min() > scores[:20].max()
    with pytest.raises(DataError, match="3 normal images to fit to; a Gaussian at each location needs at least 4"):
        Detector(**OPTIONS).fit(parts(3), backbone=Filters())
