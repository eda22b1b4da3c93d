"""A backbone whose cells see 8 × 8 pixels each and nothing else, and noise to fit it on in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knowngood import Detector

CELL = 8


class Cells(nn.Module):
    """Mean and standard deviation of each channel over a cell. `seen` counts the images."""

    seen = 0

    def features(self, images: Tensor) -> list[Tensor]:
        self.seen += len(images)
        mean = nn.functional.avg_pool2d(images, CELL)
        square = nn.functional.avg_pool2d(images.square(), CELL)
        return [torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)]

    def fingerprint(self) -> str:
        return "cells"


def noise(n: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """(n, height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(90, 160, (n, height, width, 3), dtype=np.uint8)


def kinds(n: int) -> dict[str, np.ndarray]:
    """A condition of two values, one after the other."""
    return {"kind": np.array(["a", "b"])[np.arange(n) % 2]}


def damaged(n: int, seed: int = 9) -> np.ndarray:
    """(n, 32, 32, 3), each with a bright square, those of higher number with a brighter one."""
    images = noise(n, seed=seed)
    for i, image in enumerate(images):
        image[8:16, 8:16] = np.minimum(255, image[8:16, 8:16].astype(int) + 40 + 2 * i)
    return images


def detector(**settings: Any) -> Detector:
    """Not fitted; give `fit` the backbone `Cells()`. `features` and `gaussian` are options of these."""
    own = {"name": "features", "backbone": "own", "image_size": 32, "average": 1, "stride": CELL}
    gaussian = {"name": "patch_gaussian", "context": 0, **settings.pop("gaussian", {})}
    given = {
        "representation": {**own, **settings.pop("features", {})},
        "model": gaussian,
        "calibration": {"method": "split", "fraction": 0.4},
        "device": "cpu",
    }
    return Detector(**{**given, **settings})
