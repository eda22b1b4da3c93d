"""`python -m benchmarks false-alarms`: does the false-alarm rate hold, from how many normal images on?

The features recipe is fitted to random subsets of n normal images, calibrated as it calibrates by itself, and judges
other normal images of the same folder. Nothing but training images takes part: there is no test split in it. Features
are computed once for all images; a subset costs the refits alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inspection_data import inspection_set
from benchmarks.runner import RESULTS, append, code_version, read_results
from benchmarks.settings import merged
from benchmarks.tables import print_table
from knowngood.calibration import minimum_normals
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.detector.calibrate import calibrate
from knowngood.detector.decide import decide
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.cross import cross_calibrate
from knowngood.detector.fit.learn import learn, represent
from knowngood.detector.fit.plan import make_plan
from knowngood.detector.scoring import score_batches
from knowngood.errors import DataError

JUDGED = 80  # other normal images, at most
ALPHAS = (0.1, 0.05)


class Case(NamedTuple):
    """One subset: which set, how many images, which draw."""

    source: str
    n: int
    draw: int


def main(
    *,
    sets: tuple[str, ...] = ("bottle", "tile"),
    n: tuple[int, ...] = (16, 24, 60, 120),
    subsets: int = 100,
    method: str = "cross",
    folds: int = 5,
    show: bool = False,
    out: Path = Path("out/benchmarks/false-alarms"),
) -> list[dict[str, Any]]:
    """Measure, append to OUT/results.jsonl, and print a table.

    Args:
        sets: of `benchmarks.inspection_data`; their normal training images.
        n: sizes of the subsets that are fitted to.
        subsets: random subsets of each size.
        method: of the calibration, "cross" or "split".
        folds: of cross-conformal calibration.
        show: print what is done and measure nothing.
    """
    settings = merged({"representation": "features"}, {"calibration": {"method": method, "folds": folds}})
    file = out / RESULTS
    out.mkdir(parents=True, exist_ok=True)
    done, rows = read_results(file), []
    for source in sets:
        cached: CachedFeatures | None = None
        images: ImageSet | None = None
        for size in n:
            for draw in range(subsets):
                case = Case(source, size, draw)
                key = _key(case, settings)
                if key not in done and not show:
                    if images is None:
                        images = _normals(source)
                        cached = _cached(images, settings)
                    assert cached is not None
                    done[key] = append(file, {"key": key, **case._asdict(), **measure(case, images, cached, settings)})
                    print(f"{source}, n = {size}, subset {draw + 1} of {subsets}", file=sys.stderr)
                if key in done:
                    rows.append(done[key])
    summary = summarised(rows)
    print_table(f"False alarms, {method} calibration", summary)
    return summary


def measure(case: Case, images: ImageSet, cached: CachedFeatures, settings: dict[str, Any]) -> dict[str, Any]:
    """Realised false-alarm rates on normal images that the subset leaves out, by α; and seconds of the fit."""
    order = np.random.default_rng([case.n, case.draw]).permutation(len(images))
    own, others = images[np.sort(order[: case.n])], images[np.sort(order[case.n : case.n + JUDGED])]
    started = time.perf_counter()
    resolved, _ = resolve(parse_settings(settings), own)
    plan = make_plan(own, own[:0], resolved, case.draw)
    fit = plan.split["fit"]
    pipeline = learn(plan, fit, plan.split["select"], cached).pipeline
    if resolved.calibration.method == "cross":
        pipeline = cross_calibrate(pipeline, plan, fit, cached)
    else:
        pipeline = calibrate(pipeline, own[plan.split["calibrate"]], "split")
    seconds = time.perf_counter() - started
    calibration = pipeline.calibration
    assert calibration is not None
    rates = {}
    for alpha in ALPHAS:
        if len(calibration) >= minimum_normals(alpha):
            p = np.concatenate([decide(pipeline, batch, alpha).p_values for batch in score_batches(pipeline, others)])
            rates[f"{alpha:g}"] = float((p <= alpha).mean())
    return {"judged": len(others), "seconds": seconds, "rates": rates}


def summarised(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each set, size and α: mean and standard deviation over subsets."""
    groups: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        for alpha, rate in row["rates"].items():
            groups.setdefault((row["source"], row["n"], alpha), []).append(rate)
    return [
        {
            "set": source,
            "n": n,
            "α": alpha,
            "subsets": len(rates),
            "mean": f"{np.mean(rates):.3f}",
            "sd": f"{np.std(rates):.3f}",
            "highest": f"{np.max(rates):.3f}",
        }
        for (source, n, alpha), rates in groups.items()
    ]


def _normals(source: str) -> ImageSet:
    parts = inspection_set(source)
    if isinstance(parts, str):
        raise DataError(f"{source}: {parts}")
    return parts.train.replace(conditions={}, splits=None)


def _cached(images: ImageSet, settings: dict[str, Any]) -> CachedFeatures:
    resolved, _ = resolve(parse_settings(settings), images)
    plan = make_plan(images, images[:0], resolved, 0)
    return CachedFeatures.of(represent(plan, np.arange(len(images))), images, 4.0)  # type: ignore[arg-type]


def _key(case: Case, settings: dict[str, Any]) -> str:
    content = json.dumps([*case, settings, code_version()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]
