"""What an inspection page shows of scored images: reduced pictures, their maps, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from knowngood.evaluation.report.inspection import Inspected

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation
    from knowngood.detector.maps import Mapped
    from knowngood.detector.rows import Unknown

MOST = 200  # images on a page
AT_ONCE = 8
PICTURE, MAP = 360, 180  # pixels of the longer side


def inspected(
    detector: Detector,
    images: ImageSet,
    table: DataFrame,
    explanations: Sequence[Explanation] = (),
    *,
    unknown: Unknown | None = None,
    most: int = MOST,
    maps: Mapping[str, np.ndarray] | None = None,
) -> list[Inspected]:
    """The `most` images with the smallest p-values, of equals those with the larger score, each with its map.

    Args:
        table: of `Detector.detect` for these images; rows without a score are left out.
        explanations: of some of them.
        maps: reduced maps of some by id, see `Thumbnails`; those that are missing are made.
    """
    rows = by_p_value(table)[:most]
    said = {one.id: one for one in explanations}
    mapped = detector.pipeline_.score.has_map
    found = []
    for start in range(0, len(rows), AT_ONCE):
        some = images[rows[start : start + AT_ONCE]]
        known = {name: maps[name] for name in some.ids.tolist() if name in maps} if maps else {}
        missing = np.array([i for i, name in enumerate(some.ids.tolist()) if name not in known], dtype=np.int64)
        if mapped and len(missing):
            made = detector.anomaly_maps(some[missing], unknown=unknown)
            known |= {str(some.ids[i]): thinned(values, MAP) for i, values in zip(missing, made, strict=True)}
        for i, name in enumerate(some.ids.tolist()):
            image, one = some.read(i), said.get(name)
            found.append(
                Inspected(
                    id=name,
                    image=thinned(image, PICTURE),
                    map=known.get(name),
                    size=(image.shape[0], image.shape[1]),
                    sentences=() if one is None else one.sentences[1:],
                    boxes=() if one is None else tuple(region.box for region in one.regions),
                )
            )
    return found


class Thumbnails:
    """Reduced maps of the `most` images that score highest, gathered as `Detector.detect` hands them on to `each`."""

    def __init__(self, detector: Detector, images: ImageSet, most: int = MOST) -> None:
        self.pipeline, self.ids, self.most = detector.pipeline_, images.ids, most
        self.maps: dict[str, np.ndarray] = {}
        self._scores: list[tuple[float, str]] = []  # a heap, the smallest first

    def __call__(self, i: int, one: Mapped) -> None:
        value, stratum = np.array([one.value]), np.array([one.stratum])
        score, name = float(self.pipeline.calibrated().anomaly_score(value, stratum)[0]), str(self.ids[i])
        if len(self._scores) == self.most and score <= self._scores[0][0]:
            return
        self.maps[name] = thinned(one.map, MAP)
        heappush(self._scores, (score, name))
        if len(self._scores) > self.most:
            del self.maps[heappop(self._scores)[1]]


def by_p_value(table: DataFrame) -> np.ndarray:
    """Rows that have a score, the smallest p-value first, of equals the highest score."""
    p, score = table["p_value"].to_numpy(float), table["anomaly_score"].to_numpy(float)
    order = np.lexsort((-score, p))
    return order[~np.isnan(score[order])]


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """(H, W) or (H, W, C) → at most so many pixels on the longer side, by means over areas; the same type."""
    import torch
    from torch.nn.functional import interpolate

    longer = max(values.shape[:2])
    if longer <= most:
        return values
    size = [max(1, round(side * most / longer)) for side in values.shape[:2]]
    planes = values[..., None] if values.ndim == 2 else values
    x = torch.from_numpy(np.moveaxis(planes.astype(np.float64), -1, 0).copy())[None]
    small = np.moveaxis(interpolate(x, size=size, mode="area")[0].numpy(), 0, -1)
    small = small.round() if values.dtype.kind in "iu" else small
    return small.astype(values.dtype).reshape(*size, *values.shape[2:])


def pictures(ids: Sequence[str], *sources: ImageSet) -> dict[str, np.ndarray]:
    """(H, W, C) images by id, of those that a source has: by the id itself, or by its end below a folder."""
    found: dict[str, np.ndarray] = {}
    for images in sources:
        known = {str(name): i for i, name in enumerate(images.ids)}
        for wanted in ids:
            parts = PurePosixPath(wanted).parts
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            at = next((known[end] for end in (wanted, *ends) if end in known), None)
            if at is not None:
                found.setdefault(wanted, images.read(at))
    return found
