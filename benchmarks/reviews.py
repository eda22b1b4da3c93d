"""`python -m benchmarks reviews`: what a model learns from 10 marked false alarms and 5 marked missed defects.

On the dev form of an inspection set, so that no test image is looked at: normal images are training images, and
defects are drawn on held-out training images. Some of the held-out images are reviewed, others are judged, drawn anew
in each repeat. False alarms come from another light: held-out normal images under a corruption of full strength. Of
those that the model flags 10 are marked as good; of the defects of one kind that it misses 5 are marked, with the box
around each, as a person draws it. The model learns from the marks as `knowngood update --reviews` does. Judged are
the others: in the other light, as they are, with defects of the kind, and with defects of other kinds.

Ways: "fit-only" is the product: what was chosen by its score never calibrates. "calibrating" adds the false alarms to
the normal images, as if they had been drawn: what a retraining without that care does.
"""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.corruption_kinds import corrupted
from benchmarks.inspection_data import inspection_set
from benchmarks.synthetic_defects import defective
from benchmarks.tables import write_csv
from knowngood import Detector
from knowngood.config.representations import EfficientNetLite0
from knowngood.data import ImageSet
from knowngood.data.joined import joined
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS
from knowngood.representations.backbones.efficientnet_lite import load_lite

Row = dict[str, Any]
WAYS = ("fit-only", "calibrating")
JUDGED = ("false alarms, other light", "false alarms, as they are", "detected, of the kind", "detected, other kinds")


class Remembered:
    """The default backbone, which computes the maps of each image once."""

    def __init__(self) -> None:
        self.net: Any = load_lite(EfficientNetLite0()).eval()
        self.known: dict[bytes, list[Tensor]] = {}

    def fingerprint(self) -> str:
        return str(self.net.fingerprint())

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        keys = [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in images]
        for key, image in zip(keys, images, strict=True):
            if key not in self.known:
                self.known[key] = [maps[0] for maps in self.net.features(image[None])]
        return [torch.stack(maps) for maps in zip(*(self.known[key] for key in keys), strict=True)]


def main(
    source: str = "tile",
    lights: tuple[str, ...] = ("brighter",),
    kinds: tuple[str, ...] = ("blur",),
    ways: tuple[str, ...] = WAYS[:1],
    repeats: int = 5,
    normals: int = 60,
    reviewed: int = 100,
    judged: int = 60,
    false_alarms: int = 10,
    missed: int = 5,
    size: int = 128,
    out: Path = Path("out/benchmarks/reviews"),
) -> list[Row]:
    """Alarm rates before and after, means and standard deviations over repeats. Prints a table.

    Args:
        lights, kinds: corruptions of the normal images, at full strength, and kinds of synthetic defects, in pairs.
        normals: images to fit to, evenly spaced. reviewed, judged: held-out images, at most.
        size: of the sides of images. out: for the table of all repeats.

    Raises:
        SettingsError: an unknown way, or lights and kinds that are no pairs. DataError: the data are missing.
    """
    if unknown := set(ways) - set(WAYS):
        raise SettingsError(f"ways = {', '.join(unknown)}; expected {' or '.join(WAYS)}")
    if len(lights) != len(kinds):
        raise SettingsError(f"{len(lights)} lights and {len(kinds)} kinds; expected pairs")
    parts = inspection_set(source, form="dev", size=size)
    if isinstance(parts, str):
        raise DataError(f"{source}: {parts}")
    features = {"name": "features", "backbone": "own", "image_size": size}
    settings: dict[str, Any] = {"representation": features, "calibration": {"method": "cross"}}
    fitted = parts.train[np.linspace(0, len(parts.train) - 1, min(normals, len(parts.train))).astype(int)]
    backbone, good = Remembered(), parts.test[parts.labels == 0]
    before = Detector(**settings).fit(fitted, backbone=backbone)
    rows: list[Row] = []
    for light, kind in zip(lights, kinds, strict=True):
        for repeat in range(repeats):
            order = np.random.default_rng(repeat).permutation(len(good))
            seen, others = good[np.sort(order[judged:][:reviewed])], good[np.sort(order[:judged])]
            marked = marks(before, seen, light, kind, false_alarms, missed, repeat)
            tests = judged_sets(others, light, kind, repeat)
            rates = {"before": [alarms(before, some) for some in tests]}
            for way in ways:
                started = time.perf_counter()
                normal, chosen = fitted, marked
                if way == "calibrating":
                    normal, chosen = joined(fitted, marked[marked.labels == 0]), marked[marked.labels == 1]
                after = Detector(**settings).fit(normal, fit_only=chosen, backbone=backbone)
                rates[way] = [alarms(after, some) for some in tests]
                learned = after.about_.get("labels", {}).get("used", 0)
                seconds = time.perf_counter() - started
                print(f"{light}, {kind}, {repeat + 1}/{repeats}, {way}: {seconds:.0f} s", file=sys.stderr)
                print(
                    ", ".join(f"{old:.3f} to {new:.3f}" for old, new in zip(rates["before"], rates[way], strict=True)),
                    file=sys.stderr,
                )
                for what, old, new in zip(JUDGED, rates["before"], rates[way], strict=True):
                    heading = {"light": light, "kind": kind, "way": way, "repeat": repeat, "judged": what}
                    rows.append(heading | {"before": old, "after": new, "learned": learned})
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "repeats.csv", rows)
    print(markdown(rows))
    return rows


def marks(
    detector: Detector, images: ImageSet, light: str, kind: str, false_alarms: int, missed: int, seed: int
) -> ImageSet:
    """Marked images: normal ones in another light that are flagged, and defects that are not, with boxes.

    Raises:
        DataError: there are too few of them.
    """
    rng, good = np.random.default_rng(seed), illuminated(images, light)
    bad, masks = defective(images, seed, kinds=[kind])
    bad = bad.replace(conditions={}, masks=tuple(partial(boxed, mask) for mask in masks))
    found = []
    for some, wanted, number in ((good, True, false_alarms), (bad, False, missed)):
        at = np.flatnonzero(flags(detector, some) == wanted)
        if len(at) < number:
            raise DataError(f"{len(at)} of {len(some)} images are {'flagged' if wanted else 'missed'}; {number} needed")
        found.append(some[np.sort(rng.permutation(at)[:number])])
    return joined(*found)


def boxed(mask: np.ndarray) -> np.ndarray:
    """(H, W) the box around a mask, as a person draws it."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def judged_sets(images: ImageSet, light: str, kind: str, seed: int) -> list[ImageSet]:
    """What is judged, in the order of `JUDGED`."""
    others = [name for name in KINDS if name != kind]
    drawn = (defective(images, seed, kinds=some)[0].replace(conditions={}) for some in ([kind], others))
    return [illuminated(images, light), images, *drawn]


def illuminated(images: ImageSet, light: str) -> ImageSet:
    """The images in another light."""
    changed = np.stack([corrupted(images.read(i), light, 5) for i in range(len(images))])
    return ImageSet.from_arrays(changed, np.zeros(len(images)), ids=[f"{light}-{name}" for name in images.ids])


def flags(detector: Detector, images: ImageSet) -> np.ndarray:
    """(N,) bool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.predict(images) < 0


def alarms(detector: Detector, images: ImageSet) -> float:
    """The share that is flagged."""
    return float(flags(detector, images).mean())


def markdown(rows: list[Row]) -> str:
    """Means ± standard deviations over the repeats, before and after, and of the change."""
    lines = ["| light | kind | way | flagged | before | after | change |", "|---|---|---|---|--:|--:|--:|"]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["light"], row["kind"], row["way"], row["judged"]), []).append(row)
    for key, some in groups.items():
        before, after = (np.array([row[name] for row in some]) for name in ("before", "after"))
        cells = (spread(before), spread(after), spread(after - before, "+"))
        lines.append(f"| {' | '.join([*key, *cells])} |")
    return "\n".join(lines)


def spread(values: np.ndarray, sign: str = "") -> str:
    """Mean ± standard deviation."""
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    return f"{values.mean():{sign}.3f} ± {sd:.3f}"
