"""`python -m benchmarks large`: small scratches on large pictures, seen as a whole and in tiles.

Pictures are made, from normal training images alone, so that nothing here is of a test split:

- bottles: four bottles of the dev form (of those trained on, or of those held out), enlarged three times, each within
  4 pixels of its place.
- sheet: a brushed surface without parts, of another texture in every picture.

Noise of σ 3 lies on all. A scratch is 15 to 25 pixels long and 2 wide, in any direction, at any location, and 40 grey
values darker or brighter. Half of the tested pictures have one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from benchmarks.inspection_data import inspection_set
from benchmarks.settings import merged
from benchmarks.tables import write_csv
from knowngood import Detector
from knowngood.cli.console import table
from knowngood.config import nearest
from knowngood.data import ImageSet
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc

SETS = ("bottles", "sheet")
MAX = {"name": "patch_distance", "pooling": "max"}
VIEWS: dict[str, dict[str, Any]] = {
    "one": {"data": {"tile": "none"}},
    "one-max": {"data": {"tile": "none"}, "score": MAX},
    "tiles-top": {"score": "patch_distance"},
    "tiles": {},
}
PART, NEAR, NOISE = 0.375, 4, 3.0  # a bottle's side over the picture's; pixels from its place; grey values
LENGTH, WIDTH, CONTRAST = (15, 25), 2.0, 40.0


def main(
    sets: tuple[str, ...] = SETS,
    views: tuple[str, ...] = tuple(VIEWS),
    seeds: tuple[int, ...] = (0,),
    side: int = 1600,
    train: int = 24,
    test: int = 24,
    quick: bool = False,
    out: Path = Path("out/benchmarks/large"),
) -> list[dict[str, Any]]:
    """Image AUROC, how often the peak of the map lies on the scratch, and milliseconds a picture.

    Args:
        side: of the square pictures, in pixels.
        train, test: pictures to fit to, and to score.
        quick: small pictures; only checks that it runs.
    """
    for given, known in ((sets, SETS), (views, VIEWS)):
        if unknown := [name for name in given if name not in known]:
            raise SettingsError(f"unknown '{unknown[0]}'{nearest(unknown[0], list(known))}")
    if quick:
        side, train, test = 192, 12, 4
    rows = []
    for name in sets:
        for seed in seeds:
            normal, tested, at = pictures(name, side, train, test, seed)
            for view in views:
                given = merged({"data": {"tile_above": min(1500, side - 1)}}, VIEWS[view])
                rows.append({"set": name, "view": view, "seed": seed, **measured(normal, tested, at, given)})
                print(rows[-1], file=sys.stderr)
    write_csv(out / "large.csv", rows)
    table(list(rows[0]), [list(row.values()) for row in rows], title=f"scratches on pictures of {side} px")
    return rows


def measured(normal: ImageSet, tested: ImageSet, at: np.ndarray, given: dict[str, Any]) -> dict[str, Any]:
    """What one view sees; `at` (N, 2) are the middles of the scratches, NaN without one."""
    detector = Detector("features", calibration={"method": "split"}, alpha=0.5, **given)
    start = time.perf_counter()
    detector.fit(normal)
    fitted = time.perf_counter()
    scores = detector.detect(tested)["anomaly_score"].to_numpy(float)
    scored = time.perf_counter()
    bad = np.flatnonzero(tested.labels == 1)
    maps = detector.anomaly_maps(tested[bad])
    peaks = np.array([np.unravel_index(one.argmax(), one.shape) for one in maps])
    return {
        "locations": "×".join(map(str, detector.pipeline_.representation.shape[1:])),
        "auroc": round(float(roc_auc(tested.labels, scores)), 3),
        "located": round(float((np.abs(peaks - at[bad]).max(axis=1) <= 2 * LENGTH[1]).mean()), 3),
        "fit_seconds": round(fitted - start),
        "ms": round(1000 * (scored - fitted) / len(tested)),
    }


def pictures(name: str, side: int, train: int, test: int, seed: int) -> tuple[ImageSet, ImageSet, np.ndarray]:
    """Normal pictures to fit to, those to score with their labels, and where the scratches are (N, 2)."""
    rng = np.random.default_rng([seed, SETS.index(name)])
    fit, held_out = [None, None]
    if name == "bottles":
        parts = inspection_set("bottle", form="dev", seed=seed)
        if isinstance(parts, str):
            raise SettingsError(parts)
        fit, held_out = parts.train, parts.test[parts.test.labels == 0]
    normal = np.stack([_picture(fit, side, rng) for _ in range(train)])
    tested = np.stack([_picture(held_out, side, rng) for _ in range(test)])
    at = np.full((test, 2), np.nan)
    for i in range(1, test, 2):
        at[i] = _scratch(tested[i], rng)
    labels = np.arange(test) % 2
    return ImageSet.from_arrays(normal, name=name), ImageSet.from_arrays(tested, labels, name=name), at


def _picture(parts: ImageSet | None, side: int, rng: np.random.Generator) -> np.ndarray:
    if parts is None:
        values = 128 + 12 * gaussian_filter1d(rng.normal(size=(side, side)), side / 40, axis=1) * (side / 40) ** 0.5
        values = np.repeat(values[..., None], 3, axis=2)
    else:
        large, values = round(PART * side), np.full((side, side, 3), 235.0)
        for place in range(4):
            part = Image.fromarray(parts.read(int(rng.integers(len(parts)))))
            middle = [round((0.25 + 0.5 * n) * side) - large // 2 for n in divmod(place, 2)]
            top, left = np.array(middle) + rng.integers(-NEAR, NEAR + 1, 2)
            enlarged = np.asarray(part.resize((large, large), Image.Resampling.BICUBIC))
            values[top : top + large, left : left + large] = enlarged
    return (values + rng.normal(0, NOISE, (side, side, 1))).round().clip(0, 255).astype(np.uint8)


def _scratch(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one, in place; its middle (row, column)."""
    length, angle = rng.uniform(*LENGTH), rng.uniform(0, np.pi)
    row, column = rng.integers(LENGTH[1], len(picture) - LENGTH[1], 2)
    down, right = np.mgrid[-LENGTH[1] : LENGTH[1] + 1, -LENGTH[1] : LENGTH[1] + 1]
    along = np.abs(down * np.sin(angle) + right * np.cos(angle)) - length / 2
    across = np.abs(down * np.cos(angle) - right * np.sin(angle)) - WIDTH / 2
    covers = np.clip(0.5 - np.maximum(along, across), 0, 1)[..., None]
    box = picture[row - LENGTH[1] : row + LENGTH[1] + 1, column - LENGTH[1] : column + LENGTH[1] + 1]
    sign = -1 if box.mean() > 127 else 1
    box[:] = (box + sign * CONTRAST * covers).round().clip(0, 255)
    return np.array([row, column])
