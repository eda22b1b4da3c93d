"""Small pieces that several nets share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.errors import SettingsError

# Which of the three weights along a side meet a pixel, by its position among the four that two output pixels depend on.
TAPS = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])

DECODING = ("decoder", "from_latent", "up")  # modules of a net


def join(h: Tensor, c: Tensor | None) -> Tensor:
    """(B, F) and (B, W) side by side; h alone without a condition."""
    return h if c is None else torch.cat((h, c.to(h.dtype)), dim=1)


def half(net: nn.Module, *, encodes: bool) -> nn.Module:
    """A net without the modules of its decoder, or of its encoder."""
    for name in [name for name, _ in net.named_children() if (name in DECODING) == encodes]:
        delattr(net, name)
    return net


def image_shape(net: str, shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """(C, H, W), or an error that names the net that cannot take this shape."""
    if len(shape) != 3:
        raise SettingsError(
            f"net '{net}' takes images (C, H, W), and these are tables of {shape[0]} columns; use net 'mlp'"
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise SettingsError(
            f"net '{net}' needs images of at least {smallest} × {smallest} px, these are {width} × {height}; "
            "use net 'mlp' or a larger image_size"
        )
    return channels, height, width


def halvings(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Sizes of a map through `times` stride-2 stages, rounded up: [(28, 28), (14, 14), (7, 7)] for 28×28 and 2."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class Upsample(nn.Module):
    """Nearest-neighbour resize to one fixed size, the way back from a stride-2 stage also where sizes are not even."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        return F.interpolate(h, size=self.size, mode="nearest")


class Upward(nn.Sequential):
    """Modules one after the other; an `Upsample` that doubles and the convolution after it are one, see `doubled`."""

    def forward(self, h: Tensor) -> Tensor:
        modules = iter(self)
        for module in modules:
            if isinstance(module, Upsample) and module.size == (2 * h.shape[2], 2 * h.shape[3]):
                h = doubled(h, next(modules))  # type: ignore[arg-type]
            else:
                h = module(h)
        return h


def doubled(h: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv`, 3×3 with padding 1, of h (B, C, H, W) at twice its size: (B, O, 2H, 2W).

    Repeated pixels meet several of its nine weights. Those are added up first, so that an output pixel takes four
    products: a transposed 4×4 convolution of stride 2.
    """
    taps = TAPS.to(conv.weight)
    weight = torch.einsum("tk,ul,ockl->cotu", taps, taps, conv.weight)
    return F.conv_transpose2d(h, weight, conv.bias, stride=2, padding=1)


class ConditionBias(nn.Module):
    """Adds a learned channel offset for c: what constant condition maps beside the image would add in a convolution."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(condition_dim, channels, bias=False) if condition_dim else None

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        return h if self.weight is None or c is None else h + self.weight(c)[:, :, None, None]
