"""Stand-ins for the data sets of the protocols, each with all its splits, and the cells of every protocol on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import protocols
from benchmarks.accuracy_protocols import few_labels, out_of_distribution
from benchmarks.joined import open_joined
from benchmarks.protocols import Cell, resolve
from knowngood.data import ImageSet

SIZE = 20  # of the lineage's protocol on stand-ins
TINY: dict[str, Any] = {
    "representation": "pixels",
    "model": {"name": "vae", "objective": "vae", "net": {"name": "mlp", "hidden": [16]}, "latent_dim": 2},
    "training": {"epochs": 2, "precision": "float32"},
    "device": "cpu",
}


def ten_classes(train: int = 1000, test: int = 200, seed: int = 0) -> ImageSet:
    """Ten classes that follow no order, noise 8×8, training file first, as MNIST and its kin are opened."""
    rng = np.random.default_rng(seed)
    n = train + test
    images = ImageSet.from_arrays(
        rng.integers(0, 256, (n, 8, 8), dtype=np.uint8), conditions={"class": rng.integers(0, 10, n).astype(str)}
    )
    return images.replace(splits=np.repeat(["train", "test"], [train, test]), name="stand-in")


def x_rays() -> ImageSet:
    """The folders' ids and classes: several images of most patients, "test" before "train" as sorted paths are."""
    ids, kinds, splits = [], [], []
    for split, patients in (("test", 6), ("train", 25)):
        for p in range(patients):
            for shot in range(1 + p % 3):
                ids += [
                    f"{split}/NORMAL/IM-{p:04d}-000{shot}.jpeg",
                    f"{split}/PNEUMONIA/person{p}_virus_{9 * p + shot}.jpeg",
                ]
                kinds += ["NORMAL", "PNEUMONIA"]
                splits += [split, split]
    order = np.argsort(ids)
    pixels = np.random.default_rng(1).integers(0, 256, (len(ids), 8, 8), dtype=np.uint8)
    images = ImageSet.from_arrays(pixels, conditions={"class": np.array(kinds)[order]}, ids=np.array(ids)[order])
    return images.replace(splits=np.array(splits)[order], name="x-rays")


def three_sets() -> ImageSet:
    sets = {name: ten_classes(200, 50, seed=seed) for seed, name in enumerate("abc")}
    return open_joined("abc", sets.__getitem__)


PROTOCOLS: dict[str, tuple[Callable[[], ImageSet], Callable[..., list[Cell]]]] = {
    "one-vs-rest": (ten_classes, lambda form: protocols.one_vs_rest("stand-in", form=form)),
    "leave-one-out": (ten_classes, lambda form: protocols.leave_one_out("stand-in", form=form)),
    "ood": (three_sets, lambda form: out_of_distribution("abc", form=form)),
    "few-labels": (ten_classes, lambda form: few_labels("stand-in", form=form)),
    "lineage": (ten_classes, lambda form: protocols.lineage("stand-in", "3", form=form, size=SIZE)),
    "pneumonia": (x_rays, lambda form: protocols.pneumonia("chest-xray-224", form=form)),
    "pneumoniamnist": (x_rays, lambda form: protocols.pneumonia("pneumoniamnist", form=form)),
}


def cells_of(protocol: str, form: str) -> tuple[ImageSet, list[Cell]]:
    images, cells = PROTOCOLS[protocol]
    return images(), cells(form)


def parts_of(cell: Cell, images: ImageSet) -> list[ImageSet]:
    """The sets of a cell that hold images, in the order train, test, calibrate."""
    found = resolve(cell, images)
    return [part for part in (found.train, found.test, found.calibrate) if part is not None]


def contents(images: ImageSet) -> set[bytes]:
    """The pixels of every image."""
    return {images.read(i).tobytes() for i in range(len(images))}
