"""What a page shows of judged images: thumbnails, and maps as colours that lie over them."""

from __future__ import annotations

import base64
import io
import logging
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from knowngood.calibration.map_scale import MapScale, legend
from knowngood.data import ImageSet
from knowngood.data.findings import Unreadable
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.files import SUFFIXES
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judged_store import JudgedStore, Judgement
from knowngood.deploy.judgement import Kept, Row
from knowngood.deploy.logs import event
from knowngood.deploy.map_png import scale_of
from knowngood.deploy.served_model import ServedModel
from knowngood.errors import OutputError
from knowngood.evaluation.figures.pixels import as_picture, map_png, reduced, reduced_map
from knowngood.files import plain

THUMBNAIL, MAP, LARGE = 320, 256, 1600  # pixels of the longer side
SMALL = 96  # up to this every pixel counts
Drawn = tuple[str, bytes]  # png or jpeg, and the file


class Shown(NamedTuple):
    """What is kept of a picture to show it; size: (H, W)."""

    size: tuple[int, int]
    thumbnail: bytes


class ShownPixels(FilePixels):
    """Files that a page will show: their size and thumbnail are made where they are read first, beside the scoring."""

    def __init__(
        self, paths: tuple[Path, ...], limits: Limits | None = None, seen: dict[Path, Shown] | None = None
    ) -> None:
        super().__init__(paths, limits)
        self._seen = {} if seen is None else seen

    def read(self, i: int) -> np.ndarray:
        image = super().read(i)
        if self.paths[i] not in self._seen:
            self._seen[self.paths[i]] = Shown(image.shape[:2], drawn(image, THUMBNAIL)[1])
        return image

    def shown(self, i: int) -> Shown | None:
        """None of a file that cannot be read, or is gone."""
        if self.paths[i] not in self._seen:
            with suppress(Unreadable):
                self.read(i)
        return self._seen.get(self.paths[i])

    def _of(self, paths: tuple[Path, ...], limits: Limits | None) -> ShownPixels:
        return ShownPixels(paths, limits, self._seen)


def keep(
    store: JudgedStore | None,
    model: ServedModel,
    images: ImageSet,
    rows: Sequence[Row],
    source: str,
    keys: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Keep images that were judged with `Asked.keep`, and give what the page shows of each; `kept` leaves the rows.

    Args:
        images: of `ShownPixels`, one a row. keys: of the judgements, by which one that is there already is recognised.
    """
    kept: list[Kept | None] = [row.pop("kept", None) for row in rows]
    marks = [uuid.uuid4().hex for _ in rows] if keys is None else keys
    judgements = [
        _judgement(model, images, i, row, one, source, mark)
        for i, (row, one, mark) in enumerate(zip(rows, kept, marks, strict=True))
    ]
    views = []
    for number, one in zip(_numbers(store, judgements), judgements, strict=True):
        view = {"number": number, "verdict": one.verdict, "size": one.size}
        view |= {"regions": one.regions, "reference": one.reference, "map": None, "legend": one.legend}
        if one.map is not None and number is None:
            view["map"] = base64.b64encode(coloured(one.map, one.scale)).decode()
        views.append(view)
    return views


def coloured(levels: bytes, scale: Sequence[Any]) -> bytes:
    """A kept map as a PNG of colours; scale: as `Judgement` has it."""
    offset, factor, begins, full = scale[:4]
    with Image.open(io.BytesIO(levels)) as picture:
        return map_png(offset + factor * np.asarray(picture, float), MapScale(begins, full))


def drawn(image: np.ndarray, most: int) -> Drawn:
    """An image (H, W, C) of any type as a file for a browser, with at most so many pixels a side."""
    picture, file = as_picture(reduced(image, most)).convert("RGB"), io.BytesIO()
    kind = "png" if max(picture.size) <= SMALL else "jpeg"
    picture.save(file, kind, quality=90)
    return kind, file.getvalue()


@contextmanager
def as_images(record: Mapping[str, Any], limits: Limits) -> Iterator[ImageSet]:
    """Within, a judged image of the store as one to judge again, with the conditions it was given."""
    with tempfile.TemporaryDirectory(prefix="knowngood-") as folder:
        path = Path(folder, f"0{record['suffix']}")
        path.write_bytes(record["bytes"])
        conditions = {name: np.array([value, None], dtype=object)[:1] for name, value in record["conditions"].items()}
        yield ImageSet(FilePixels((path,), limits), numbered(1), np.full(1, np.nan), conditions, name="judged")


def large(record: Mapping[str, Any], limits: Limits) -> Drawn:
    """The picture of a judged image for a browser. Raises Unreadable."""
    with as_images(record, limits) as images:
        return drawn(images.read(0), LARGE)


def _numbers(store: JudgedStore | None, judgements: Sequence[Judgement]) -> Sequence[int | None]:
    """The numbers in the store; None where nothing is kept, or where it cannot be: that is logged."""
    try:
        return [None] * len(judgements) if store is None else store.add(judgements)
    except OutputError as error:
        event("not kept", logging.ERROR, images=len(judgements), reason=str(error))
        return [None] * len(judgements)


def _judgement(
    model: ServedModel, images: ImageSet, i: int, row: Row, kept: Kept | None, source: str, key: str
) -> Judgement:
    assert isinstance(images.pixels, ShownPixels)
    path = images.pixels.paths[i]
    facts: dict[str, Any] = {}
    if kept is not None:
        facts |= {"alpha": kept.alpha, "regions": kept.regions, "reference": kept.reference}
        if (shown := images.pixels.shown(i)) is not None:
            facts |= shown._asdict()
        if kept.map is not None and kept.scale is not None:
            levels, offset, factor = _levels(reduced_map(kept.map, MAP))
            scale = offset, factor, kept.scale.begins, kept.scale.full, legend([kept.scale])
            facts |= {"map": levels, "scale": scale}
    suffix = path.suffix.lower()
    return Judgement(
        key=key,
        source=source,
        model=model.name,
        scored_by=model.mark,
        row=row,
        picture=path.read_bytes() if path.is_file() else b"",
        suffix=suffix if suffix in SUFFIXES else ".png",
        conditions={name: plain(values[i]) for name, values in images.conditions.items()},
        why=tuple((row.get("explanation") or {}).get("sentences", ())),
        **facts,
    )


def _levels(values: np.ndarray) -> tuple[bytes, float, float]:
    """A map as a PNG of 256 grey levels, with its offset and the size of a level; NaN has the lowest value."""
    offset = float(np.nanmin(values))
    factor = scale_of(offset, float(np.nanmax(values))) * 257
    grey = np.rint((np.nan_to_num(values, nan=offset) - offset) / factor).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", compress_level=3)
    return file.getvalue(), offset, factor
