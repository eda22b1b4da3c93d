"""What an exported graph ignores of a picture: masks are constants of it, polygons are drawn before it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.data.regions.ignore import Outlines, Painted
from knowngood.deploy.onnx_scores import CellGraph
from knowngood.detector.ignored import Ignored
from knowngood.detector.pipeline import Pipeline
from knowngood.models.base import Condition
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations import Pixels


class Areas(NamedTuple):
    """What is ignored of pictures.

    column: the condition that regions depend on, if they do. values: those of it that have a region, or "" for all.
    masks: (H, W) by value, constants of the graph; pictures of other sizes of these proportions take the nearest pixel.
    outlines: by value, drawn in each picture, which may be of any size. cells: (K,) the number in `values` that
    each cell of the model has; −1: nothing is ignored.
    """

    column: str | None
    values: tuple[str, ...]
    masks: dict[str, np.ndarray]
    outlines: dict[str, Outlines]
    cells: tuple[int, ...]

    @classmethod
    def of(cls, pipeline: Pipeline) -> Areas | None:
        """Those of a model; None if it ignores nothing."""
        pixels = pixels_of(pipeline.representation)
        ignored = Ignored.of_model(pipeline.ignore, pipeline.schema, pipeline.model)
        if ignored is None or pixels is None:
            return None
        regions, masks, outlines = ignored.regions, {}, {}
        for value, area in regions.areas.items():
            if isinstance(area, Painted):
                masks[value] = area.whole
            elif pixels.resize:
                outlines[value] = area
            else:
                masks[value] = area.mask(*pixels.size)
        values = tuple(regions.areas)
        one = regions.column is None
        cells = [0 if one else values.index(value) if value in values else -1 for value in ignored.values]
        return cls(regions.column, values, masks, outlines, tuple(cells))

    def facts(self, model: PatchGaussian) -> dict[str, Any]:
        """What the metadata says of the image: `ignored` and `polygons` of all pictures, or `regions` by condition."""
        each = [
            {
                "value": value,
                "mask": list(self.masks[value].shape) if value in self.masks else None,
                "polygons": [list(map(list, one)) for one in self.outlines[value].polygons]
                if value in self.outlines
                else None,
            }
            for value in self.values
        ]
        if self.column is None:
            return {"ignored": each[0]["mask"], "polygons": each[0]["polygons"], "regions": None}
        cells = {"keys": model.keys.tolist(), "numbers": model.continuous.tolist(), "cells": list(self.cells)}
        return {"ignored": None, "polygons": None, "regions": {"column": self.column, **cells, "areas": each}}


class IgnoredGraph(nn.Module):
    """Where pictures (B, H, W, C) of conditions are ignored by masks of one size: (B, H, W), or (1, H, W) of all.

    masks: (V, h, w). cells: (K,) which of them each cell of the model has.
    """

    masks: Tensor
    cells: Tensor

    def __init__(self, model: PatchGaussian, masks: np.ndarray, cells: np.ndarray) -> None:
        super().__init__()
        self.cell = CellGraph(model)
        self.register_buffer("masks", torch.from_numpy(masks))
        self.register_buffer("cells", torch.from_numpy(cells))

    def forward(self, image: Tensor, condition: Condition, stratum: Tensor) -> Tensor:
        at = [  # as `Painted.mask`
            torch.div((2 * torch.arange(n) + 1) * m, 2 * n, rounding_mode="floor")
            for n, m in zip(image.shape[1:3], self.masks.shape[1:], strict=True)
        ]
        masks = self.masks[:, at[0]][:, :, at[1]]
        return masks if len(masks) == 1 else masks[self.cells[self.cell(condition, stratum)]]


def ignored_graphs(areas: Areas | None, model: Any) -> list[IgnoredGraph]:
    """One for all masks of a size; without a mask none."""
    graphs = []
    for shape in sorted({mask.shape for mask in areas.masks.values()} if areas is not None else ()):
        assert areas is not None
        own = [value for value in areas.values if value in areas.masks and areas.masks[value].shape == shape]
        place = {areas.values.index(value): i for i, value in enumerate(own)}
        cells = np.array([place.get(k, len(own)) for k in areas.cells], dtype=np.int64)
        masks = [areas.masks[value] for value in own] + ([np.zeros(shape, dtype=bool)] if areas.column else [])
        graphs.append(IgnoredGraph(model, np.stack(masks), cells))
    return graphs


def pixels_of(representation: Any) -> Pixels | None:
    return representation if isinstance(representation, Pixels) else getattr(representation, "pixels", None)
