"""How well anomaly maps find the marked pixels: pixel AUROC, pixel AP and AUPRO, exact, over every distinct threshold.

All take one map (H, W) an image, higher more anomalous, and one bool mask (H, W) an image, True where the defect is,
or None for a normal image. Images may differ in size. Thresholds are shared by all images, and pixels that tie pass one
together.

Curves of millions of pixels need few points: while the threshold falls between two scores of anomalous pixels, only
the false-positive rate moves. So the normal pixels are sorted once and merely counted at the distinct scores of the
anomalous ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError
from knowngood.metrics.ranking import Floats


class _Steps(NamedTuple):
    """What passes at each of the K distinct scores of anomalous pixels, the highest first."""

    above: Floats  # (K,) share of normal pixels scoring higher
    reached: Floats  # (K,) share of normal pixels scoring at least as high
    anomalous: Floats  # (K,) share of the anomalous pixels with this score
    overlap: Floats  # (K,) what those add to the per-region overlap
    odds: float  # normal pixels to an anomalous one


def pixel_metrics(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike | None], limit: float = 0.3) -> dict[str, float]:
    """`pixel_auroc`, `pixel_average_precision` and `aupro` by these names, from one sort. Arguments as in `aupro`."""
    _check_limit(limit)
    steps = _steps(maps, masks)
    return {
        "pixel_auroc": _area(steps, steps.anomalous, 1.0),
        "pixel_average_precision": _average_precision(steps),
        "aupro": _area(steps, steps.overlap, limit) / limit,
    }


def pixel_auroc(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike | None]) -> float:
    """P(anomalous pixel scores above a normal one), ties half, over the pixels of all images. Errors as in `aupro`."""
    steps = _steps(maps, masks)
    return _area(steps, steps.anomalous, 1.0)


def aupro(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike | None], limit: float = 0.3) -> float:
    """Area under the per-region overlap up to a false-positive rate, divided by that rate (10.1007/s11263-020-01400-4).

    A region is an 8-connected component of a mask. Each counts the same, however small. The rate is over the normal
    pixels of all images. The curve is linear between thresholds, so a constant map has limit / 2.

    Args:
        maps: N arrays (H_i, W_i), higher more anomalous; infinities are allowed.
        masks: N bool arrays of the same shapes, True where anomalous; None for a normal image.
        limit: false-positive rate to integrate to, in (0, 1].

    Returns:
        From 0 to 1; 1 when every anomalous pixel scores above every normal one.

    Raises:
        SettingsError: limit is out of range.
        DataError: numbers of maps and masks differ, a map is not 2-d or holds NaN, a mask has another shape than its
            map or is not bool, or there are no anomalous or no normal pixels.
    """
    _check_limit(limit)
    steps = _steps(maps, masks)
    return _area(steps, steps.overlap, limit) / limit


def _area(steps: _Steps, gains: Floats, limit: float) -> float:
    """Area up to `limit` under the curve that rises by `gains` (K,), summed step by step.

    A step rises evenly from `above` to `reached` and stays: alone it has the area of a triangle and a rectangle.
    """
    stop = np.clip(limit, steps.above, steps.reached)
    run = steps.reached - steps.above
    triangle = (stop - steps.above) ** 2 / (2 * np.where(run > 0, run, 1))
    area = gains @ (triangle + np.maximum(limit - steps.reached, 0))
    return min(float(area), limit)


def _average_precision(steps: _Steps) -> float:
    flagged = np.cumsum(steps.anomalous)
    return min(float(steps.anomalous @ (flagged / (flagged + steps.odds * steps.reached))), 1.0)


def _steps(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike | None]) -> _Steps:
    normal, anomalous, weight = _split(maps, masks)
    normal.sort()
    distinct, step = np.unique(anomalous, return_inverse=True)
    lower = [np.searchsorted(normal, distinct, side)[::-1] for side in ("right", "left")]
    above, reached = ((len(normal) - below) / len(normal) for below in lower)
    gains = [np.bincount(step, each)[::-1] for each in (None, weight)]
    share, overlap = (gain / gain.sum() for gain in gains)  # weights add up to 1 over a region
    return _Steps(above, reached, share, overlap, len(normal) / len(anomalous))


def _split(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike | None]) -> tuple[NDArray, NDArray, Floats]:
    """Scores of normal pixels (G,), of anomalous pixels (A,), and 1 / area of the region of each of those (A,)."""
    maps, masks = list(maps), list(masks)
    if len(maps) != len(masks):
        raise DataError(f"{len(maps)} maps and {len(masks)} masks; expected a mask, or None for a normal image, each")
    normal, anomalous, weight = [], [], []
    for index, (each, marks) in enumerate(zip(maps, masks, strict=True)):
        scores, mask = _checked(index, each, marks)
        if mask is None:
            normal.append(scores.ravel())
        else:
            normal.append(scores[~mask])
            anomalous.append(scores[mask])
            weight.append(_region_weights(mask))
    n_normal, n_anomalous = sum(map(len, normal)), sum(map(len, anomalous))
    if not n_normal or not n_anomalous:
        raise DataError(
            f"pixel metrics need normal and anomalous pixels; {n_normal} normal and {n_anomalous} anomalous are given"
        )
    return np.concatenate(normal), np.concatenate(anomalous), np.concatenate(weight)


def _checked(index: int, each: ArrayLike, marks: ArrayLike | None) -> tuple[NDArray, NDArray[np.bool_] | None]:
    """A map as floats of its own precision, for a coarser one would make ties, and its mask."""
    scores = np.asarray(each)
    scores = scores.astype(np.result_type(scores, np.float32), copy=False)
    if scores.ndim != 2:
        raise DataError(f"map {index} has shape {scores.shape}; expected (height, width)")
    if (unknown := int(np.isnan(scores).sum())) > 0:
        raise DataError(f"map {index}: {unknown} of {scores.size} pixels have the score NaN and cannot be ranked")
    if marks is None:
        return scores, None
    mask = np.asarray(marks)
    if mask.shape != scores.shape:
        raise DataError(f"mask {index} has shape {mask.shape} and its map {scores.shape}; expected the same")
    if mask.dtype != bool:
        raise DataError(f"mask {index} has dtype {mask.dtype}; expected bool. Pass mask > 0 to mark all but zero.")
    return scores, mask


def _region_weights(mask: NDArray[np.bool_]) -> Floats:
    """1 / area of the 8-connected region of each marked pixel, in the order of mask's True entries."""
    from scipy import ndimage

    regions = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, structure=np.ones((3, 3)), output=regions)
    region = regions[mask]
    return 1 / np.bincount(region)[region]


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise SettingsError(f"limit = {limit!r}; expected a false-positive rate above 0 and up to 1, such as .3")
