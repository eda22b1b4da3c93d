"""Self-made conditions: an image turned, mirrored and shifted, each of these views a condition that no one has to tell.

A model that knows good images in every view knows more of them than from one alone, and an odd image is odd in many:
the views of Golan & El-Yaniv, arXiv:1805.10917, who tell them apart by a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from knowngood.errors import SettingsError

GROUPS = ("flip", "rotate", "shift")  # in the order in which they are applied
SHIFT = 4  # a quarter of the side


class Views:
    """K ways to see an image, all combinations of the groups named; the first leaves it as it is.

    - flip: as it is, and mirrored left to right.
    - rotate: by 0, 90, 180 and 270 degrees; by 0 and 180 where images are not square.
    - shift: by nothing or a quarter of the side, up or down and left or right. What comes in is the image mirrored at
      its edge, so that over all shifts each pixel is seen equally often.

    Pixels only change places: flip and rotate together are the eight symmetries of the square.

    Args:
        names: of groups, each of `GROUPS`.
        shape: (C, H, W) of an image.

    Attributes:
        names: the groups, in the order in which they are applied.
        labels: of each view, K words.

    Raises:
        SettingsError: items are no images, or there is only one way to see them.
    """

    def __init__(self, names: Sequence[str], shape: Sequence[int]) -> None:
        self.names = tuple(name for name in GROUPS if name in names)
        if len(shape) != 3:
            raise SettingsError(
                f"augment_condition = {','.join(self.names)}: items of shape {tuple(shape)} are no images to turn or "
                "shift; leave it out"
            )
        self.size = height, width = int(shape[1]), int(shape[2])
        places = torch.arange(height * width).view(height, width)
        seen = {label: _seen(places, *change) for label, change in _changes(self.names, height, width).items()}
        kept: dict[str, Tensor] = {}
        for label, one in seen.items():
            if not any(one.equal(other) for other in kept.values()):
                kept[label] = one
        if len(kept) < 2:
            raise SettingsError(
                f"augment_condition = {','.join(self.names)}: images of {height}×{width} pixels have no second view; "
                "leave it out"
            )
        self.labels = tuple(kept)
        # Pixel (i, j) of a view is pixel row[i] + column[j] of the image, in either order of its axes.
        row = torch.stack([one[:, 0] for one in kept.values()])  # (K, H)
        column = torch.stack([one[0] - one[0, 0] for one in kept.values()])  # (K, W)
        self._on = {row.device: (row, column)}  # by device, since a copy makes the device wait

    def __len__(self) -> int:
        return len(self.labels)

    def apply(self, x: Tensor, view: int | Tensor) -> Tensor:
        """Images x (B, C, H, W) in one view, or each in its own, (B,) int64; in the memory layout of x."""
        if isinstance(view, int):
            if view == 0:
                return x
            found = x.flatten(2)[..., self._places(slice(view, view + 1), x.device)[0]]
        else:
            places = self._places(view, x.device)[:, None].expand(-1, x.shape[1], -1)
            found = x.flatten(2).gather(2, places)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return found.view(x.shape).contiguous(memory_format=layout)

    def every(self, x: Tensor) -> Tensor:
        """(K·B, C, H, W): all images x (B, C, H, W) in the first view, then all in the second, …"""
        return torch.cat([self.apply(x, view) for view in range(len(self))])

    def back(self, values: Tensor, view: int) -> Tensor:
        """Values at the pixels of a view, (B, H, W), put where these pixels lie in the image, (B, H, W).

        Of pixels that the view shows twice they are added up, and those that it does not show get 0: the sum stays.
        """
        places = self._places(slice(view, view + 1), values.device)[0]
        found = torch.zeros_like(values, memory_format=torch.contiguous_format).flatten(1)
        return found.index_add(1, places, values.flatten(1)).view(values.shape)

    def told(self, c: Tensor | None, view: int | Tensor, like: Tensor) -> Tensor:
        """Conditions c (B, W), or none, with the view beside them, one-hot: (B, W + K), like c or `like` (B, …)."""
        like = like if c is None else c
        if isinstance(view, int):
            hot = like.new_zeros(len(like), len(self))
            hot[:, view] = 1
        else:
            hot = torch.nn.functional.one_hot(view, len(self)).to(like)
        return hot if c is None else torch.cat((c, hot), dim=1)

    def stratum(self, stratum: Tensor, view: int | Tensor) -> Tensor:
        """Strata (B,) of conditions and views together: those of one stratum lie side by side; −1 stays unknown."""
        return torch.where(stratum < 0, stratum, stratum * len(self) + view)

    def _places(self, view: slice | Tensor, device: torch.device) -> Tensor:
        """(B, H·W) the pixel of the image that each pixel of a view shows."""
        if device not in self._on:
            row, column = self._on[torch.device("cpu")]
            self._on[device] = row.to(device), column.to(device)
        row, column = self._on[device]
        return (row[view][:, :, None] + column[view][:, None, :]).flatten(1)


Change = tuple[bool, int, int, int]  # mirrored, quarter turns, pixels down, pixels to the right


def _changes(names: tuple[str, ...], height: int, width: int) -> dict[str, Change]:
    """Every combination by a label, the one that changes nothing first."""
    turns = (0, 1, 2, 3) if height == width else (0, 2)
    down, right = (max(1, side // SHIFT) for side in (height, width))
    shifts = [(0, 0), *(at for at in product((0, -down, down), (0, -right, right)) if at != (0, 0))]
    every = product(
        (False, True) if "flip" in names else (False,),
        turns if "rotate" in names else (0,),
        shifts if "shift" in names else [(0, 0)],
    )
    found = {}
    for mirrored, turned, (y, x) in every:
        words = (
            ["mirrored"] * mirrored + [f"turned {90 * turned}°"] * bool(turned) + [f"shifted ({y}, {x})"] * any((y, x))
        )
        found[", ".join(words) or "as it is"] = (mirrored, turned, y, x)
    return found


def _seen(image: Tensor, mirrored: bool, turned: int, down: int, right: int) -> Tensor:
    """One image (H, W) mirrored, turned anticlockwise and shifted."""
    image = torch.rot90(image.flip(1) if mirrored else image, turned)
    return image[_mirrored(len(image), down)][:, _mirrored(image.shape[1], right)]


def _mirrored(side: int, shift: int) -> Tensor:
    """(side,) what each place shows when all is shifted: beyond its edge a line goes on as its mirror image."""
    at = (torch.arange(side) - shift) % (2 * side)
    return torch.minimum(at, 2 * side - 1 - at)
