"""The one path from items to scores: read, represent, encode conditions, score; a batch of items at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.config import counted
from knowngood.config.installed import naming_plugins
from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded, Unknown
from knowngood.data.pose.part import Posed
from knowngood.detector.added_groups import IS, memberships
from knowngood.detector.ignored import Ignored
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import DataError
from knowngood.models.base import Model
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations import Pixels, Table
from knowngood.representations.alignment.warping import Transform
from knowngood.scores import Score, ScoreResult
from knowngood.scores.adjustment import scored
from knowngood.scores.condition_density import CodeDensity, condition_density
from knowngood.scores.elbo import ElboScore
from knowngood.training.memory import out_of_memory

READERS = 4  # threads
MOST_ROWS = 512  # scored at a time, fewer where items are large
VALUES = 1 << 22  # of all rows scored at a time
CHUNKS = 4  # of rows in a batch of items
MOST_EXPANDED = 1 << 15  # rows of a batch, should all conditions be unknown
BEYOND = 1e30  # the score of an item so far outside that a model overflows, and the largest of any


@dataclass(frozen=True, eq=False)
class Scored:
    """Raw scores of a batch of N items. An item has one row, or one for each condition that it may have.

    first: position of the first item in the whole set. expanded: the M rows. values: (M,) raw scores, NaN for items
    that cannot be read, and finite for all others: 1e30 where the model overflows. parts: named parts of the score
    (M,). errors: reasons, by position in the batch. grids: anomaly maps (M, h, w) over what the model sees, if asked
    for. energies: (M,) −log p(x|c) up to what is the same for all rows of an
    item, where stated conditions are checked. transforms: where each image lay.
    """

    first: int
    items: Items
    expanded: Expanded
    values: np.ndarray
    parts: dict[str, np.ndarray]
    errors: dict[int, str]
    transforms: tuple[Transform | Posed | None, ...]
    grids: np.ndarray | None = None
    energies: np.ndarray | None = None


class Rows(NamedTuple):
    """Some rows as the model sees them."""

    at: slice  # in the expanded conditions
    x: Tensor  # (R, *shape), scaled, on the device
    c: Tensor | None  # (R, W)
    stratum: Tensor  # (R,)


def score_batches(
    pipeline: Pipeline,
    items: Items,
    *,
    unknown: Unknown | None = None,
    maps: bool = False,
    start: int = 0,
    alternatives: bool = False,
) -> Iterator[Scored]:
    """Score items a batch at a time, in order and in constant memory. Items that cannot be read are NaN and named.

    Args:
        unknown: "infer" gives an item that lacks a condition one row for each condition it may have; "error" refuses.
            Default: as fitted.
        maps: keep the anomaly maps.
        start: the first item to score, at which a batch begins.
        alternatives: where stated conditions are checked, score items under all others too, as `decide` needs it.

    Raises:
        DataError: a condition is missing or new and not to be inferred; images where the model takes a table; memory
            ran out, and again with half the rows at a time.
    """
    if isinstance(items, ImageSet) == isinstance(pipeline.representation, Table):
        if isinstance(items, ImageSet):
            features = counted(pipeline.representation.shape[0], "feature")
            raise DataError(f"images given; this model was fitted to a table of {features}; give a table")
        raise DataError(
            "a table given, as a 2-D array is one; this model was fitted to images; give images, (N, H, W) or "
            "(N, H, W, C), and one picture X as X[None]"
        )
    unknown = unknown or pipeline.settings.conditioning.unknown
    beyond = 0
    size, at_once = items_at_once(pipeline), rows_at_once(pipeline.representation.shape)
    for first in range(start, len(items), size):
        if isinstance(items, ImageSet):
            items.expect(np.arange(first, min(first + 2 * size, len(items))))
        part = items[first : first + size]
        expanded = expand(pipeline, part, unknown, alternatives=alternatives)
        batch = None
        while batch is None:
            try:
                batch, outside = score_rows(pipeline, part, expanded, first=first, maps=maps, at_once=at_once)
                beyond += outside
            except (MemoryError, RuntimeError) as error:
                at_once = _halved(error, at_once, rows_at_once(pipeline.representation.shape))
        yield batch
    if beyond and isinstance(pipeline.representation, Pixels):
        warnings.warn(
            f"{beyond} of {len(items)} images have values outside the recorded range "
            f"({pipeline.representation.rule}); they are scored as they are, not clipped",
            stacklevel=2,
        )


def _halved(error: Exception, at_once: int, most: int) -> int:
    """Half the rows at a time if memory ran out for the first time; else the error, or a DataError."""
    if not out_of_memory(error):
        raise error
    if at_once < most or at_once == 1:
        raise DataError(
            f"out of memory with {at_once} rows scored at a time{f', and with {most} before' * (at_once < most)}; free "
            "some memory, compute elsewhere (device='cpu', --device cpu), or fit to smaller images (image_size)"
        ) from error
    warnings.warn(f"out of memory with {at_once} rows scored at a time; going on with {at_once // 2}", stacklevel=3)
    return at_once // 2


def expand(pipeline: Pipeline, items: Items, unknown: Unknown, *, alternatives: bool = False) -> Expanded:
    """The rows of items under the conditions of the fit; with `alternatives` under the others of checked columns too.

    A value that only an added group of the calibration knows counts as unknown, whatever `unknown` says.
    """
    known = {column.name for column in pipeline.schema.columns}
    columns = {name: values for name, values in items.conditions.items() if name in known}
    added = (memberships(pipeline.added, items.conditions, len(items)) == IS).any(axis=0)
    if unknown == "error" and added.any():
        others = {name: np.asarray(values)[~added] for name, values in columns.items()}
        pipeline.schema.expand(others, int((~added).sum()), unknown="error")
        unknown = "infer"
    if alternatives and pipeline.checked:
        return pipeline.schema.with_alternatives(columns, len(items), pipeline.checked, unknown=unknown)
    return pipeline.schema.expand(columns, len(items), unknown=unknown)


@naming_plugins()
@torch.no_grad()
def score_rows(
    pipeline: Pipeline,
    items: Items,
    expanded: Expanded,
    *,
    first: int = 0,
    maps: bool = False,
    at_once: int | None = None,
) -> tuple[Scored, int]:
    """Score items under the rows given; and how many images have values outside the recorded range.

    Args:
        at_once: rows that go through the model together; default by their size.
    """
    pipeline.model.eval()
    reader = Reader(pipeline, items, expanded, at_once)
    values, grids, parts, energy = [], [], [], []
    compares = Comparison.of(pipeline) if expanded.stated is not None else None
    for some in reader:
        fitted = pipeline.model, pipeline.score, pipeline.adjustments, pipeline.state
        result = scored(*fitted, some.x, some.c, some.stratum, want_map=maps)
        values.append(result.values.cpu().numpy())
        parts.append({name: part.cpu().numpy() for name, part in result.parts.items()})
        if compares is not None:
            energy.append(compares(some, result).cpu().numpy())
        if maps and result.map is not None:
            ignored = BEYOND if pipeline.ignore is None else np.nan  # NaN is where a region is ignored, if one is
            grids.append(finite(result.map.float().cpu().numpy(), nan=ignored))
    joined = np.concatenate(values) if values else np.empty(0)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    joined, columns = finite(joined), {name: finite(column) for name, column in columns.items()}
    if getattr(pipeline.representation, "pose", None) is not None:
        found = [one.quality.after if isinstance(one, Posed) else np.nan for one in reader.transforms]
        columns["pose"] = np.array(found)[expanded.item]
    errors = reader.errors
    unread = np.isin(expanded.item, list(errors))
    for column in (joined, *columns.values()) if errors else ():
        column[unread] = np.nan
    batch = Scored(
        first=first,
        items=items,
        expanded=expanded,
        values=joined,
        parts=columns,
        errors=errors,
        grids=np.concatenate(grids) if grids else None,
        energies=finite(np.concatenate(energy)) if energy else None,
        transforms=tuple(reader.transforms),
    )
    return batch, reader.outside


class Comparison(NamedTuple):
    """What the conditions of an item are compared by, with its state."""

    pipeline: Pipeline
    density: Score
    state: dict[str, Tensor]

    @classmethod
    def of(cls, pipeline: Pipeline) -> Comparison:
        schema = pipeline.schema
        strata = schema.n_strata if schema.each_cell_a_stratum else 0
        found = condition_density(pipeline.model, pipeline.score, pipeline.state, strata)
        assert found is not None  # or no condition is checked
        return cls(pipeline, *found)

    def __call__(self, rows: Rows, result: ScoreResult) -> Tensor:
        """(B,) energies; those that the pipeline's own score gives are not computed again."""
        pipeline, density = self.pipeline, self.density
        known = {**result.parts, pipeline.score.options.name: result.values} if not pipeline.adjustments else {}
        if isinstance(density, ElboScore) and "elbo" in known:
            return known["elbo"]
        if isinstance(density, CodeDensity) and density.name in known:
            return density.of(pipeline.model, self.state, known[density.name])
        return self.density.score(pipeline.model, self.state, rows.x, rows.c, rows.stratum).values


class Reader:
    """Reads items and yields them as rows for the model, some at a time.

    errors: reasons by position, of items that cannot be read; their rows are blank. transforms: where each item lay.
    outside: how many images had values outside the recorded range.
    """

    def __init__(self, pipeline: Pipeline, items: Items, expanded: Expanded, at_once: int | None = None) -> None:
        self.pipeline, self.items, self.expanded = pipeline, items, expanded
        self.at_once = at_once or rows_at_once(pipeline.representation.shape)
        self.errors: dict[int, str] = {}
        self.transforms: list[Transform | Posed | None] = [None] * len(items)
        self.outside = 0

    def __iter__(self) -> Iterator[Rows]:
        pipeline, expanded = self.pipeline, self.expanded
        representation, device = pipeline.representation, pipeline.device
        images, owner, at = self._views()
        at_once = self.at_once
        starts = np.searchsorted(expanded.item, np.arange(len(self.items) + 1))
        views = np.searchsorted(owner, np.arange(len(self.items) + 1))
        channels_last = len(representation.shape) == 3
        for first in range(0, len(self.items), CHUNKS * at_once):
            stop = min(first + CHUNKS * at_once, len(self.items))
            native = self._read(images, np.arange(views[first], views[stop]), owner)
            if isinstance(representation, Pixels):
                read = ~np.isin(np.arange(first, stop), list(self.errors))  # the others are blank
                self.outside += representation.out_of_range(native[read] if self.errors else native)
            values = torch.from_numpy(native).to(device)
            for start in range(starts[first], starts[stop], at_once):
                rows = slice(start, min(start + at_once, starts[stop]))
                view = at[rows] - views[first]
                if (np.diff(view) == 1).all():  # one row an item: a view, no copy
                    x = representation.scale(values[view[0] : view[-1] + 1])
                else:  # an item of several rows is represented once
                    each, of = (torch.from_numpy(i).to(device) for i in np.unique(view, return_inverse=True))
                    x = representation.scale(values[each])[of]
                x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
                c = torch.from_numpy(expanded.c[rows]).to(device) if pipeline.model.condition_dim else None
                yield Rows(rows, x, c, torch.from_numpy(expanded.stratum[rows]).to(device))

    def _views(self) -> tuple[Items, np.ndarray, np.ndarray]:
        """The images to read, of which item each one is, and which of them each row sees."""
        pipeline, items = self.pipeline, self.items
        ignored = Ignored.of_model(pipeline.ignore, pipeline.schema, pipeline.model)
        # Regions are drawn on aligned images, and pixels are read before that.
        if ignored is None or not isinstance(items, ImageSet) or pipeline.representation.options.align != "none":  # type: ignore[union-attr]
            return items, np.arange(len(items)), self.expanded.item
        cell = cells_of(pipeline.model, self.expanded.c)
        return ignored.views(items, self.expanded.item, cell, pipeline.representation.pixels.low)  # type: ignore[union-attr]

    def _read(self, images: Items, index: np.ndarray, owner: np.ndarray) -> np.ndarray:
        representation: Any = self.pipeline.representation
        if hasattr(representation, "read_and_locate"):
            native, errors, transforms = representation.read_and_locate(images, index, workers=READERS)
            for i, transform in zip(index.tolist(), transforms, strict=True):
                self.transforms[int(owner[i])] = transform
        else:
            native, errors = representation.read(images, index, workers=READERS)
        self.errors.update({int(owner[i]): why for i, why in errors.items()})
        return native


def finite(values: np.ndarray, nan: float = BEYOND) -> np.ndarray:
    """Values of items that were read: what overflowed is far outside, and so as anomalous as can be."""
    return np.nan_to_num(values, nan=nan, posinf=BEYOND, neginf=BEYOND).clip(-BEYOND, BEYOND)


def one_row_each(pipeline: Pipeline, items: Items, expanded: Expanded) -> Iterator[Rows]:
    """Items under their one row each, as the model sees them.

    Raises:
        DataError: an item cannot be read.
    """
    pipeline.model.eval()
    size = items_at_once(pipeline)
    for first in range(0, len(items), size):
        at = np.arange(first, min(first + size, len(items)))
        reader = Reader(pipeline, items[at], expanded.take(at))
        for rows in reader:
            refuse_unread(reader.items, reader.errors)
            yield rows._replace(at=slice(first + rows.at.start, first + rows.at.stop))


def refuse_unread(items: Items, errors: Mapping[int, str]) -> None:
    """Raise DataError for the first of the items that cannot be read."""
    if errors:
        i, reason = next(iter(errors.items()))
        why = reason.rstrip(".")
        raise DataError(f"{items.ids[i]}: {why}. `detect` sets such images aside; leave them out here.")


def cells_of(model: Model, c: np.ndarray) -> np.ndarray:
    """(M,) the cell of each condition vector (M, W), which says what is ignored; 0 for models without cells."""
    if not isinstance(model, PatchGaussian):
        return np.zeros(len(c), dtype=np.int64)
    vectors = torch.from_numpy(c).to(model.keys.device) if model.condition_dim else None
    return model.cell(vectors, len(c)).cpu().numpy()


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many items of this shape go through the model together."""
    return max(1, min(MOST_ROWS, VALUES // math.prod(shape)))


def items_at_once(pipeline: Pipeline) -> int:
    """How many items are in a batch."""
    most = MOST_EXPANDED // max(1, len(pipeline.schema.cells))
    return max(1, min(CHUNKS * rows_at_once(pipeline.representation.shape), most))
