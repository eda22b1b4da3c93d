"""Items as rows to score: read, prepared and scaled a part at a time, with the conditions they could have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.data import ImageSet, TableSet
from knowngood.data.conditions import Expanded
from knowngood.detector.ignored import Views
from knowngood.errors import DataError
from knowngood.representations import Edges, Features, Pixels, Table
from knowngood.representations.alignment.warping import Transform

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline

Items = ImageSet | TableSet
Representation = Pixels | Edges | Features | Table
Unknown = Literal["error", "infer"]
READERS = 4  # threads
MOST_ROWS = 512  # scored at a time, fewer where images are large
VALUES = 1 << 22  # of all rows scored at a time
ITEMS = 4  # times as many items are read at a time


class Chunk(NamedTuple):
    """Rows to score: an item may have several, one for each condition it could have."""

    rows: slice  # in the expanded conditions
    x: Tensor  # (R, *shape), scaled, on the device
    c: Tensor | None  # (R, W)
    stratum: Tensor  # (R,)
    lay: list[Transform | None]  # where each image lay, if images are aligned


def read_rows(pipeline: Pipeline, items: Items, expanded: Expanded, errors: dict[int, str]) -> Iterator[Chunk]:
    """Read, prepare and scale items a part at a time. Unreadable ones are blank and named in `errors`."""
    check_kind(pipeline.representation, items)
    representation = pipeline.representation
    every = np.arange(len(items) + 1)
    starts = np.searchsorted(expanded.item, every)
    seen, views, at = items, every, expanded.item
    if pipeline.blanks and isinstance(items, ImageSet):
        seen, owner, at = _views(pipeline, items, expanded)
        views = np.searchsorted(owner, every)
    beyond = 0
    at_once = rows_at_once(representation.shape)
    for first in range(0, len(items), ITEMS * at_once):
        stop = min(first + ITEMS * at_once, len(items))
        native, bad, lay = _read(pipeline, seen, np.arange(views[first], views[stop]))
        errors.update({int(np.searchsorted(views, i, side="right")) - 1: why for i, why in bad.items()})
        if isinstance(representation, Pixels):
            beyond += representation.out_of_range(native)
        pixels = torch.from_numpy(native).to(pipeline.device)
        for start in range(starts[first], starts[stop], at_once):
            rows = slice(start, min(start + at_once, starts[stop]))
            item = at[rows] - views[first]
            if (np.diff(item) == 1).all():  # one row an item: a view, no copy
                x = representation.scale(pixels[item[0] : item[-1] + 1])
            else:  # an item of several rows is represented once
                each, of = (torch.from_numpy(i).to(pipeline.device) for i in np.unique(item, return_inverse=True))
                x = representation.scale(pixels[each])[of]
            x = x.contiguous(memory_format=torch.channels_last) if len(pipeline.model.shape) == 3 else x
            c = torch.from_numpy(expanded.c[rows]).to(pipeline.device) if pipeline.conditional else None
            stratum = torch.from_numpy(expanded.stratum[rows]).to(pipeline.device)
            yield Chunk(rows, x, c, stratum, [lay[i] for i in item])
    if beyond and isinstance(representation, Pixels):
        warnings.warn(
            f"{beyond} of {len(items)} images hold values outside the recorded range "
            f"({representation.rule}); they are scored as they are, not clipped",
            stacklevel=2,
        )


def _read(
    pipeline: Pipeline, items: Items, index: np.ndarray
) -> tuple[np.ndarray, dict[int, str], list[Transform | None]]:
    """Prepared items, why some could not be read, by index, and where they lay, if images are aligned."""
    representation = pipeline.representation
    if isinstance(representation, Features) and pipeline.settings.align != "none":
        assert isinstance(items, ImageSet)
        native, errors, lay = representation.read_and_locate(items, index, workers=READERS)
        return native, errors, list(lay)
    native, errors = representation.read(items, index, workers=READERS)  # type: ignore[arg-type]
    return native, errors, [None] * len(index)


def _views(pipeline: Pipeline, images: ImageSet, expanded: Expanded) -> Views:
    """The images as their rows see them, with the pixels blank that a row's condition says to ignore."""
    patches, ignored = pipeline.model.patches, pipeline.ignored
    assert patches is not None
    assert ignored is not None
    assert isinstance(pipeline.representation, Features)
    c = torch.from_numpy(expanded.c).to(patches.keys.device) if pipeline.conditional else None
    cell = patches.cell(c, len(expanded.item)).cpu().numpy()
    return ignored.views(images, expanded.item, cell, pipeline.representation.pixels.low)


def check_kind(representation: Representation, items: Items) -> None:
    """Raise DataError for images where the model was fitted on a table, and the other way round."""
    if isinstance(items, ImageSet) == isinstance(representation, Table):
        given, wanted = ("images", "a table") if isinstance(items, ImageSet) else ("a table", "images")
        raise DataError(f"{given} given; this model was fitted on {wanted} of shape {representation.shape}")


def refuse_unread(items: Items, errors: dict[int, str]) -> None:
    """Raise DataError if an item could not be read."""
    if errors:
        i, reason = next(iter(errors.items()))
        raise DataError(f"{items.ids[i]}: {reason}. `detect` sets such images aside; leave them out here.")


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many items of this shape go through the nets together."""
    return max(1, min(MOST_ROWS, VALUES // math.prod(shape)))


def take(expanded: Expanded, rows: np.ndarray) -> Expanded:
    """The given rows, one an item, in item order."""
    return Expanded(
        c=expanded.c[rows],
        stratum=expanded.stratum[rows],
        item=np.arange(len(rows)),
        log_weight=np.zeros(len(rows)),
        known=expanded.known[expanded.item[rows]],
        label=[expanded.label[row] for row in rows],
    )


def joined(parts: list[Expanded]) -> Expanded:
    """Parts of one row an item, one after the other."""
    return Expanded(
        c=np.concatenate([part.c for part in parts]),
        stratum=np.concatenate([part.stratum for part in parts]),
        item=np.arange(sum(len(part.item) for part in parts)),
        log_weight=np.concatenate([part.log_weight for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        label=[text for part in parts for text in part.label],
    )
