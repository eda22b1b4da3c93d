"""Small patch models: features whose moments differ by place, fitted Gaussians, random nets; and a tiny backbone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.config import MLP, Gaussian
from knowngood.models.patch_gaussian import Patches
from knowngood.models.vae import ConditionalVAE

F, H, W = 5, 3, 4
SHAPE = (F, H, W)


def features(n: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """(n, F, h, w): correlated, of different scales, with another mean and another mixing at each place."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    mixing = fixed.normal(size=(H, W, F, F)) * np.geomspace(0.2, 4, F)[:, None]
    means = fixed.normal(0, 3, (F, H, W))
    x = np.einsum("hwgf,nfhw->nghw", mixing, rng.normal(size=(n, F, H, W))) * scale + means
    return torch.from_numpy(x.astype(np.float32))


def fitted(
    x: Tensor,
    shrink: float | None = 0.0,
    cell: Tensor | None = None,
    at_once: int = 10_000,
    *,
    coarse: bool = False,
    ignored: Tensor | None = None,
    context: int = 0,
) -> Patches:
    """Patches of features x, of the cells 0 … K − 1 that one-hot conditions tell; `ignored` is (K, h, w)."""
    cell = torch.zeros(len(x), dtype=torch.int64) if cell is None else cell
    cells = int(cell.max()) + 1
    keys = torch.eye(cells) if cells > 1 else None
    patches = Patches(tuple(x.shape[1:]), keys, shrink=shrink, coarse=coarse, context=context)  # type: ignore[arg-type]
    if ignored is not None:
        patches.ignored.copy_(ignored.flatten(1))

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(x.split(at_once), cell.split(at_once), strict=True)

    return patches.fit(chunks)


def one_cell(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def patch_model(
    products: int = 1, seed: int = 0, n: int = 30, *, coarse: bool = False, ignored: Tensor | None = None
) -> ConditionalVAE:
    """Random nets on fitted Gaussians of so many products, each with features of its own; one has no conditions."""
    x = torch.cat([product_features(k, n) for k in range(products)])
    patches = fitted(x, 0.1, torch.arange(products).repeat_interleave(n), coarse=coarse, ignored=ignored)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, p_x = MLP(hidden=(16,)), Gaussian(sigma="input")
        model = ConditionalVAE((F,), 3, patches.condition_width, net, p_x, "learned", nuisance_dim=1)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.patches = patches
    return model.eval().requires_grad_(False)


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
    """(n, 32, 32) uint8 good parts: a disc, or bars, lit a little differently, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    shape = 150.0 * ((y - 15.5) ** 2 + (x - 15.5) ** 2 < 100) if product == "disc" else 110.0 * (x // 4 % 2)
    gain = light * rng.normal(1, 0.03, (n, 1, 1))
    return (40 + gain * shape + rng.normal(0, noise, (n, 32, 32))).clip(0, 255).astype(np.uint8)


def holed(images: np.ndarray, top: int = 12, left: int = 8) -> np.ndarray:
    """The parts with a bright square of 6×6 pixels in a place that is dark, or a dark one where it is bright."""
    out = images.copy()
    out[:, top : top + 6, left : left + 6] = 255 - out[:, top : top + 6, left : left + 6]
    return out
