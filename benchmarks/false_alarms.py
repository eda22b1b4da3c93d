"""`python -m benchmarks false-alarms`: the false-alarm rate of the features recipe on new normal images.

The model is fitted to a subset of n normal images, which also calibrate, cross-conformally. Other normal images are
tested. Only training images are used, so that nothing is learned from images that other results are stated for. The
features of all images are computed once, so a subset costs only the refits of its folds.

`results.jsonl` in the output folder keeps each subset as soon as it is measured; the next run goes on after them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inspection_data import inspection_set
from benchmarks.runner import RESULTS, append, code_version, read_results
from benchmarks.settings import merged
from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet
from knowngood.detector.calibrate import NormalScores, with_calibration
from knowngood.detector.decide import Decisions, decide
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.learn import learn, learns, out_of_fold, represent
from knowngood.detector.fit.plan import make_plan
from knowngood.detector.scoring import score_batches
from knowngood.errors import SettingsError

Row = dict[str, Any]
SETS = ("bottle", "tile")
SIZES = (16, 24, 60, 120)
RECIPE: dict[str, Any] = {"representation": "features", "calibration": {"method": "cross"}}
JUDGED = 80  # tested images of each subset, at most
ALPHAS = {0.1: 0, 0.05: 40}  # false-alarm rates, and how many images to fit to each one needs
NONE = np.zeros(0, dtype=np.int64)


def main(
    sets: tuple[str, ...] = SETS,
    sizes: tuple[int, ...] = SIZES,
    subsets: int = 100,
    folds: int | None = None,
    show: bool = False,
    out: Path = Path("out/benchmarks/false-alarms"),
) -> list[Row]:
    """Realised false alarms, mean and standard deviation over random subsets. Prints and returns the table.

    Args:
        sets: bottle, tile, or any other set that `inspection` takes.
        sizes: n, the numbers of normal images that are fitted to.
        subsets: number of random subsets of each size.
        folds: of the cross-conformal calibration; default that of the recipe.
        show: only the tables of finished measurements; nothing is measured.

    Raises:
        SettingsError: fewer than one subset.
    """
    if subsets < 1:
        raise SettingsError(f"subsets = {subsets}; expected at least 1")
    settings = parse_settings(merged(RECIPE, {} if folds is None else {"calibration": {"folds": folds}}))
    done, records = read_results(out / RESULTS), []
    for name in sets:
        parts = inspection_set(name)
        if isinstance(parts, str):
            print(f"{name}: {parts}", file=sys.stderr)
            continue
        normals, data = parts.train, parts.train.fingerprint()
        features = None
        for n in sizes:
            if n >= len(normals):
                print(f"{name}: n = {n} leaves none of {len(normals)} images to judge", file=sys.stderr)
                continue
            for subset in range(subsets):
                key = key_of(name, n, subset, settings, data)
                if key not in done and show:
                    continue
                if key not in done:
                    features = features or all_features(normals, settings)
                    heading = {"key": key, "set": name, "n": n, "subset": subset}
                    out.mkdir(parents=True, exist_ok=True)
                    done[key] = append(out / RESULTS, {**heading, **measure(normals, features, settings, n, subset)})
                    print(f"{name} n = {n} {subset + 1}/{subsets}: {done[key]['seconds']:.1f} s", file=sys.stderr)
                records.append(done[key])
    table = summary(records)
    print(markdown(table))
    return table


def all_features(normals: ImageSet, settings: Settings) -> CachedFeatures:
    """The features of all images, computed once.

    Raises:
        SettingsError: the features depend on the images fitted to, and so differ from fold to fold.
    """
    resolved, _ = resolve(settings, normals)
    plan = make_plan(normals, normals[NONE], resolved, 0)
    base: Any = represent(plan, np.arange(len(normals)))
    if learns(base):
        raise SettingsError("these features learn from the images fitted to; leave align, illumination and scaling out")
    return CachedFeatures.of(base, normals, resolved.training.memory_gb)


def measure(normals: ImageSet, features: CachedFeatures, settings: Settings, n: int, subset: int) -> Row:
    """One subset of n images: shares of other images that are flagged.

    Returns:
        Plain data: judged, the number of tested images; rates, by α as text; seconds, of fit, calibration and scoring.
    """
    order = np.random.default_rng([n, subset]).permutation(len(normals))
    fitted, others = normals[np.sort(order[:n])], normals[np.sort(order[n : n + JUDGED])]
    started = time.perf_counter()
    resolved, _ = resolve(settings, fitted)
    plan = make_plan(fitted, fitted[NONE], resolved, subset)
    learned = learn(plan, plan.split["fit"], NONE, features)
    folds = [fold()[1] for fold in out_of_fold(plan, plan.split["fit"], features)]
    pipeline = with_calibration(learned.pipeline, NormalScores.concat(folds), "cross")
    scored = list(score_batches(pipeline, others))
    rates = {}
    for alpha, fewest in ALPHAS.items():
        if n >= fewest:
            p_values = Decisions.concat([decide(pipeline, batch, alpha) for batch in scored]).p_values
            rates[f"{alpha:g}"] = float((p_values <= alpha).mean())
    return {"judged": len(others), "rates": rates, "seconds": time.perf_counter() - started}


def key_of(name: str, n: int, subset: int, settings: Settings, data: str) -> str:
    """Hash (hex) of all that a subset's numbers depend on."""
    shown = settings.model_dump(mode="json")
    text = json.dumps([name, n, subset, shown, data, JUDGED, list(ALPHAS.items()), code_version()], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def summary(records: list[Row]) -> list[Row]:
    """A row for each set, n and α: mean and standard deviation over subsets of the share that is flagged."""
    rows = []
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for record in records:
        for alpha in record["rates"]:
            groups.setdefault((record["set"], record["n"], alpha), []).append(record)
    for (name, n, alpha), some in groups.items():
        rates = np.array([record["rates"][alpha] for record in some])
        rows.append(
            {
                "set": name,
                "n": n,
                "alpha": float(alpha),
                "subsets": len(some),
                "judged": some[0]["judged"],
                "mean": float(rates.mean()),
                "sd": float(rates.std(ddof=1)) if len(rates) > 1 else None,
                "seconds": float(np.mean([record["seconds"] for record in some])),
            }
        )
    return rows


def markdown(table: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| set | n | α | subsets | tested | false alarms, mean | sd | seconds a subset |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table:
        sd = "" if row["sd"] is None else f"{row['sd']:.3f}"
        lines.append(
            f"| {row['set']} | {row['n']} | {row['alpha']:g} | {row['subsets']} | {row['judged']} "
            f"| {row['mean']:.3f} | {sd} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)
