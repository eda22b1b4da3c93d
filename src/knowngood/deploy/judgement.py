"""Images in, rows out: those of the command line, as plain data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration.map_scale import MapScale
from knowngood.data import ImageSet
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import JoinedPixels
from knowngood.deploy.map_png import map_record
from knowngood.deploy.served_models import ServedModel
from knowngood.detector.explain import explain as explanations
from knowngood.detector.explain.reference import group_of, groups_of
from knowngood.detector.pipeline import Unknown
from knowngood.detector.results import Detected, flagged
from knowngood.errors import DataError
from knowngood.evaluation.scored_by import MARK

Row = dict[str, Any]
EXTRA = ("map", "explanation", "kept", "view")  # of a row, beside what the command line writes


@dataclass(frozen=True)
class Asked:
    """What is asked for of some images; see `Detector.detect`. keep: what a page shows of them, under `kept`."""

    alpha: float | None = None
    unknown: Unknown | None = None
    maps: bool = False
    explain: bool = False
    keep: bool = False


class Kept(NamedTuple):
    """Of an image that was read. alpha: of the verdict. map: (H, W), where the score has one; scale: of its colours.
    regions: boxes of it. reference: the group of normal images that it is compared with."""

    alpha: float
    map: np.ndarray | None
    scale: MapScale | None
    regions: tuple[tuple[int, int, int, int], ...]
    reference: int | None


def judged(model: ServedModel, images: ImageSet, asked: Asked) -> list[Row]:
    """A row an image, as `knowngood score` writes it, with `error` (None if it was read) and what else was asked for.

    Unlike the command line it warns of no batch: the images of a request are few.

    Raises:
        SettingsError, DataError: as `Detector.detect`, but not where no image can be read.
    """
    rows: list[Row] = []
    pipeline = model.detector.pipeline_
    located = asked.keep and pipeline.score.has_map
    options: Any = {"unknown": asked.unknown, "alpha": asked.alpha, "maps": asked.maps or located}
    options["regions"] = located and pipeline.map_calibration is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in model.detector.stream(images, **options):
                rows += _records(batch)
                if asked.maps:
                    found = [None if values is None else map_record(values) for values in batch.maps]
                    for row, one in zip(rows[-len(found) :], found, strict=True):
                        row["map"] = one
                if asked.explain:
                    _explain(model, batch, asked, rows)
                if asked.keep:
                    for row, one in zip(rows[-len(batch.index) :], _kept(model, batch, asked), strict=True):
                        row["kept"] = one
    except DataError:
        if len(rows) < len(images):
            raise
    return rows


def joined(sets: list[ImageSet]) -> ImageSet:
    """The images of several sets as one, numbered; a condition that a set lacks is unknown there."""
    if len(sets) == 1:
        return sets[0]
    names = dict.fromkeys(name for some in sets for name in some.conditions)
    columns = {
        name: np.concatenate([some.conditions.get(name, np.full(len(some), None)) for some in sets]) for name in names
    }
    pixels = JoinedPixels([some.pixels for some in sets])
    return ImageSet(pixels, numbered(len(pixels)), np.full(len(pixels), np.nan), columns, name=sets[0].name)


def for_sinks(rows: Iterable[Row], model: ServedModel) -> list[Row]:
    """Rows with the time, the model and its version, and without pictures."""
    about = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "model": model.name, MARK: model.mark}
    return [{**{name: row[name] for name in row if name not in EXTRA}, **about} for row in rows]


def plain(value: Any) -> Any:
    """A cell of a table as JSON knows it; what is missing, or no finite number, is None."""
    value = value.item() if isinstance(value, np.generic) else value
    missing = type(value).__name__ == "NAType" or (isinstance(value, float) and not math.isfinite(value))
    return None if missing else value


def _records(batch: Detected) -> list[Row]:
    columns = {str(name): batch.table[name].tolist() for name in batch.table if name != "label"}
    errors = columns.pop("error", [None] * len(batch.table))
    columns["error"] = errors  # last, and in every row
    return [dict(zip(columns, map(plain, cells), strict=True)) for cells in zip(*columns.values(), strict=True)]


def _explain(model: ServedModel, batch: Detected, asked: Asked, rows: list[Row]) -> None:
    """Add to the rows of this batch, the last ones, why they have their scores."""
    detector = model.detector
    level = detector.alpha if asked.alpha is None else asked.alpha
    flags = flagged(batch.decisions.joint_p_values, level)
    own = {row["id"]: row for row in rows[-len(batch.index) :]}
    about = {"alpha": level, "most": len(own), "others": True}
    for row in own.values():
        row["explanation"] = None
    for one in explanations(detector.pipeline_, batch.items, batch.decisions, flags, **about):
        record = one.to_record()
        kept = {name: value for name, value in record.items() if name not in own[one.id] and name != "id"}
        own[one.id]["explanation"] = _without_nan(kept)


def _kept(model: ServedModel, batch: Detected, asked: Asked) -> Iterator[Kept | None]:
    """What is kept of each image of this batch; None of one that cannot be read."""
    pipeline = model.detector.pipeline_
    groups = None if pipeline.reference is None else groups_of(pipeline)
    for i, values in enumerate(batch.maps):
        stratum = int(batch.decisions.best.stratum[i])
        if i in batch.decisions.errors:
            yield None
            continue
        boxes = tuple(region.box for region in batch.regions[i] or ())
        reference = None if groups is None else int(group_of(groups, np.array([stratum]))[0])
        alpha = model.detector.alpha if asked.alpha is None else asked.alpha
        yield Kept(alpha, values, batch.scales[i], boxes, reference)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return plain(value)
