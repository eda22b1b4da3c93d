"""Small Gaussians of locations: features whose moments differ by location, fitted models; and a tiny backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.config import PatchGaussianOptions
from knowngood.models.patch_gaussian import PatchGaussian

F, H, W = 5, 3, 4
SHAPE = (F, H, W)


def features(n: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """(n, F, h, w): correlated, of different scales, with another mean and another mixing at each location."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    mixing = fixed.normal(size=(H, W, F, F)) * np.geomspace(0.2, 4, F)[:, None]
    means = fixed.normal(0, 3, (F, H, W))
    x = np.einsum("hwgf,nfhw->nghw", mixing, rng.normal(size=(n, F, H, W))) * scale + means
    return torch.from_numpy(x.astype(np.float32))


def empty(x: Tensor, cells: int = 1, ignored: Tensor | None = None, **options: Any) -> PatchGaussian:
    """A model of features like x, of so many cells that one-hot conditions name; `ignored` is (K, h, w)."""
    keys = torch.eye(cells).tolist() if cells > 1 else [[]]
    given = {"shrinkage": 0.0, "context": 0, "global_grid": 0, "neighbours": 0, "words": 0, **options}
    model = PatchGaussian(PatchGaussianOptions(**given), tuple(x.shape[1:]), keys, [False] * len(keys[0]))
    if ignored is not None:
        model.ignored.copy_(ignored.flatten(1))
    return model


def fitted(x: Tensor, cell: Tensor | None = None, ignored: Tensor | None = None, **options: Any) -> PatchGaussian:
    """The same, fitted to features x of cells 0 … K − 1, with its locations alone unless asked."""
    cell = one_cell(x) if cell is None else cell
    return empty(x, int(cell.max()) + 1, ignored, **options).fit_grids(x, cell)


def one_cell(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def product_features(product: int, n: int, seed: int = 0) -> Tensor:
    """(n, F, h, w) of one product: scales and means are its own."""
    return features(n, seed=100 * product + seed, scale=1 + product) + 6 * product


class TinyBackbone(nn.Module):
    """Two maps of fixed random filters, at strides 4 and 8."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.seed = seed
        self.register_buffer("first", torch.randn(6, 3, 4, 4, generator=draw) / 2)
        self.register_buffer("second", torch.randn(4, 6, 2, 2, generator=draw) / 2)

    def features(self, images: Tensor) -> list[Tensor]:
        fine = nn.functional.conv2d(images, self.first, stride=4).relu()
        return [fine, nn.functional.conv2d(fine, self.second, stride=2)]

    def fingerprint(self) -> str:
        return f"tiny {self.seed}"


def parts(n: int, seed: int = 0, product: str = "disc", noise: float = 6.0, light: float = 1.0) -> np.ndarray:
    """(n, 32, 32) uint8 normal parts: a disc, or bars, under slightly different illumination, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    shape = 150.0 * ((y - 15.5) ** 2 + (x - 15.5) ** 2 < 100) if product == "disc" else 110.0 * (x // 4 % 2)
    gain = light * rng.normal(1, 0.03, (n, 1, 1))
    return (40 + gain * shape + rng.normal(0, noise, (n, 32, 32))).clip(0, 255).astype(np.uint8)


def holed(images: np.ndarray, top: int = 12, left: int = 8) -> np.ndarray:
    """The parts with a bright square of 6×6 pixels at a location that is dark, or a dark one where it is bright."""
    out = images.copy()
    out[:, top : top + 6, left : left + 6] = 255 - out[:, top : top + 6, left : left + 6]
    return out
