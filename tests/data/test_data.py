"""Real data, where it is: counts, splits, masks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from knowngood.data import open_dataset, open_images
from knowngood.data.audit import audit
from knowngood.data.select import select

pytestmark = pytest.mark.data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_and_fashion_mnist(data_root, name):
    images = open_dataset(name, download=False)
    assert Counter(images.splits.tolist()) == {"train": 60000, "test": 10000}
    assert images.variant is None
    assert images.pixels.array.dtype == np.uint8
    assert audit(images).findings == ()


def test_mnist_classes(data_root):
    test = open_dataset("mnist", split="test", download=False)
    assert Counter(test.conditions["class"].tolist())["1"] == 1135
    selected = select(test, holdout="9")
    assert (int((selected.labels == 0).sum()), int((selected.labels == 1).sum())) == (8991, 1009)
    assert len(select(test, normal="0-8", anomalous="9")) == 10000


def test_kmnist_is_split_by_index(data_root):
    images = open_dataset("kmnist", download=False)
    assert Counter(images.splits.tolist()) == {"train": 5000, "test": 5000}
    assert images.variant.startswith("kmnist-t10k")


@pytest.mark.slow
def test_pneumoniamnist(data_root):
    images = open_dataset("pneumoniamnist", download=False)
    counts = Counter(zip(images.splits.tolist(), images.conditions["class"].tolist(), strict=True))
    assert counts == {
        ("train", "NORMAL"): 1214, ("train", "PNEUMONIA"): 3494, ("val", "NORMAL"): 135, ("val", "PNEUMONIA"): 389,
        ("test", "NORMAL"): 234, ("test", "PNEUMONIA"): 390,
    }  # fmt: skip
    assert "reassembled" in images.variant
    assert Counter(f.kind for f in audit(images).findings) == {"duplicate-across-splits": 8, "duplicate": 19}


@pytest.mark.slow
def test_magnetic_tiles(data_root):
    images = open_images(data_root / "magnetic-tile")
    assert Counter(images.labels.tolist()) == {0.0: 952, 1.0: 392}
    assert all(mask is not None for mask in images.masks)
    found = audit(images)
    empty = [f.path_or_id for f in found.findings if f.kind == "mask-empty"]
    assert len(empty) == 4
    assert all(name.startswith("MT_Uneven/") for name in empty)
    assert {f.kind for f in found.findings} == {"mask-empty", "mixed-sizes", "near-duplicate"}
    same = next(f for f in found.findings if f.path_or_id == "MT_Blowhole/Imgs/exp1_num_262480.jpg")
    assert "exp4_num_262626.jpg" in same.reason  # one tile under two exposures
    assert len(found.images) == found.total


@pytest.mark.slow
def test_mvtec_bottle(data_root):
    images = open_images(data_root / "mvtec" / "bottle")
    counts = Counter(zip(images.splits.tolist(), images.labels.tolist(), strict=True))
    assert counts == {("train", 0.0): 209, ("test", 0.0): 20, ("test", 1.0): 63}
    assert sum(mask is not None for mask in images.masks) == 63
    first = int(np.flatnonzero(images.labels == 1)[0])
    assert images.mask(first).shape == images.read(first).shape[:2] == (256, 256)
    found = audit(images)
    assert {f.path_or_id for f in found.findings} == {"license.txt", "readme.txt"}


@pytest.mark.slow
def test_chest_x_rays(data_root):
    images = open_images(data_root / "chest-xray-224")
    counts = Counter(zip(images.splits.tolist(), images.conditions["class"].tolist(), strict=True))
    assert counts == {
        ("train", "NORMAL"): 1341, ("train", "PNEUMONIA"): 3875, ("val", "NORMAL"): 8, ("val", "PNEUMONIA"): 8,
        ("test", "NORMAL"): 234, ("test", "PNEUMONIA"): 390,
    }  # fmt: skip
    assert np.array_equal(images.labels == 1, images.conditions["class"] == "PNEUMONIA")
    assert (images.split("test").shapes() == [224, 224, 3]).all()
