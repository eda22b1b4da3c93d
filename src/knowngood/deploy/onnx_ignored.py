"""What an exported graph ignores of a picture: masks are constants of it, polygons are drawn before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.data.regions.ignore import Outlines, Painted
from knowngood.detector.ignored import Ignored
from knowngood.detector.pipeline import Pipeline
from knowngood.representations import Pixels


def ignored_mask(pipeline: Pipeline) -> np.ndarray | None:
    """(H, W) True where pictures are ignored; pictures of other sizes of these proportions take its nearest pixel."""
    area, pixels = _ignored_area(pipeline), pixels_of(pipeline.representation)
    if area is None or pixels is None or drawn_outlines(pipeline) is not None:
        return None
    return area.whole if isinstance(area, Painted) else area.mask(*pixels.size)


def drawn_outlines(pipeline: Pipeline) -> Outlines | None:
    """Polygons to ignore in pictures of any size: drawn for each picture, before the graph."""
    area, pixels = _ignored_area(pipeline), pixels_of(pipeline.representation)
    return area if isinstance(area, Outlines) and pixels is not None and pixels.resize else None


def _ignored_area(pipeline: Pipeline) -> Outlines | Painted | None:
    if Ignored.of_model(pipeline.ignore, pipeline.schema, pipeline.model) is None:
        return None
    assert pipeline.ignore is not None
    (area,) = pipeline.ignore.areas.values()
    return area


class IgnoredGraph(nn.Module):
    """Where pictures (B, H, W, C) are ignored: (1, H, W), as `Painted.mask`."""

    whole: Tensor

    def __init__(self, whole: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("whole", torch.from_numpy(whole.copy()))

    def forward(self, image: Tensor) -> Tensor:
        at = [
            torch.div((2 * torch.arange(n) + 1) * m, 2 * n, rounding_mode="floor")
            for n, m in zip(image.shape[1:3], self.whole.shape, strict=True)
        ]
        return self.whole[at[0]][None, :, at[1]]


def pixels_of(representation: Any) -> Pixels | None:
    return representation if isinstance(representation, Pixels) else getattr(representation, "pixels", None)
