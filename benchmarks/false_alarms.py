"""`python -m benchmarks false-alarms`: the false-alarm rate of the features recipe on new normal images.

The model is fitted to a subset of n normal images, which also calibrate, cross-conformally. Other normal images are
tested. Only training images are used, so that nothing is learned from images that other results are stated for. The
features of all images are computed once, so a subset costs only the refits of its folds.

`python -m benchmarks few-images` does the same with the dev form of a set, and adds the AUROC on its synthetic defects.

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
from benchmarks.inspection_parts import InspectionSet
from benchmarks.protocols import Form
from benchmarks.runner import RESULTS, append, code_version, read_results
from benchmarks.settings import merged
from knowngood.calibration import minimum_normals
from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet
from knowngood.data.joined import joined
from knowngood.detector.calibrate import NormalScores, with_calibration
from knowngood.detector.decide import Decisions, decide
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.learn import learn, learns, out_of_fold, represent
from knowngood.detector.fit.plan import make_plan
from knowngood.detector.scoring import score_batches
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc

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
    *,
    form: Form = "test",
) -> list[Row]:
    """Realised false alarms, mean and standard deviation over random subsets. Prints and returns the table.

    Args:
        sets: bottle, tile, or any other set that `inspection` takes.
        sizes: n, the numbers of normal images that are fitted to.
        subsets: number of random subsets of each size.
        folds: of the cross-conformal calibration; default that of the recipe.
        show: only the tables of finished measurements; nothing is measured.
        form: "test" tests other normal training images; "dev" tests the test images of the dev form, with defects.

    Raises:
        SettingsError: fewer than one subset.
    """
    if subsets < 1:
        raise SettingsError(f"subsets = {subsets}; expected at least 1")
    settings = parse_settings(merged(RECIPE, {} if folds is None else {"calibration": {"folds": folds}}))
    done, records = read_results(out / RESULTS), []
    for name in sets:
        parts = inspection_set(name, form=form)
        if isinstance(parts, str):
            print(f"{name}: {parts}", file=sys.stderr)
            continue
        normals, data = parts.train, parts.train.fingerprint()
        tested = thinned_test(parts) if form == "dev" else None
        features = None
        for n in sizes:
            if n >= len(normals):
                print(f"{name}: n = {n} leaves none of {len(normals)} images to judge", file=sys.stderr)
                continue
            for subset in range(subsets):
                key = key_of(f"{name} {form}" if tested else name, n, subset, settings, data)
                if key not in done and show:
                    continue
                if key not in done:
                    features = features or all_features(normals, settings, tested)
                    heading = {"key": key, "set": name, "n": n, "subset": subset}
                    out.mkdir(parents=True, exist_ok=True)
                    done[key] = append(
                        out / RESULTS, {**heading, **measure(normals, features, settings, n, subset, tested)}
                    )
                    print(f"{name} n = {n} {subset + 1}/{subsets}: {done[key]['seconds']:.1f} s", file=sys.stderr)
                records.append(done[key])
    table = summary(records)
    print(markdown(table))
    return table


def few_images(
    sets: tuple[str, ...] = SETS,
    sizes: tuple[int, ...] = (5, 10, 20, 50),
    subsets: int = 5,
    show: bool = False,
    out: Path = Path("out/benchmarks/few-images"),
) -> list[Row]:
    """AUROC and false alarms of few normal images, on the dev form: means and deviations over random subsets.

    Args:
        sets: bottle, tile, or any other set that `inspection` takes.
        sizes: n, the numbers of normal images that are fitted to.
        subsets: number of random subsets of each size.
        show: only the tables of finished measurements; nothing is measured.
    """
    return main(sets, sizes, subsets, None, show, out, form="dev")


def thinned_test(parts: InspectionSet) -> ImageSet:
    """At most 80 normal and 80 anomalous test images, evenly spaced."""
    each = [np.flatnonzero(parts.labels == label) for label in (0, 1)]
    some = [at[np.unique(np.linspace(0, len(at) - 1, JUDGED).astype(int))] for at in each]
    return parts.test[np.concatenate(some)]


def all_features(normals: ImageSet, settings: Settings, tested: ImageSet | None = None) -> CachedFeatures:
    """The features of all images, and of those tested, computed once.

    Raises:
        SettingsError: the features depend on the images fitted to, and so differ from fold to fold.
    """
    resolved, _ = resolve(settings, normals)
    plan = make_plan(normals, normals[NONE], resolved, 0)
    base: Any = represent(plan, np.arange(len(normals)))
    if learns(base):
        raise SettingsError("these features learn from the images fitted to; leave align, illumination and scaling out")
    every = normals if tested is None else joined(normals, tested)
    return CachedFeatures.of(base, every, resolved.training.memory_gb)


def measure(
    normals: ImageSet,
    features: CachedFeatures,
    settings: Settings,
    n: int,
    subset: int,
    tested: ImageSet | None = None,
) -> Row:
    """One subset of n images: shares of other normal images that are flagged.

    Args:
        tested: other images, with labels; default at most 80 of the other normal ones.

    Returns:
        Plain data: judged, the number of tested normal images; rates, by α as text; auroc, if anomalous images are
        tested; seconds, of fit, calibration and scoring.
    """
    order = np.random.default_rng([n, subset]).permutation(len(normals))
    fitted = normals[np.sort(order[:n])]
    others = normals[np.sort(order[n : n + JUDGED])] if tested is None else tested
    good = others.labels == 0
    started = time.perf_counter()
    resolved, _ = resolve(settings, fitted)
    plan = make_plan(fitted, fitted[NONE], resolved, subset)
    learned = learn(plan, plan.split["fit"], NONE, features)
    folds = [fold()[1] for fold in out_of_fold(plan, plan.split["fit"], features)]
    pipeline = with_calibration(learned.pipeline, NormalScores.concat(folds), "cross")
    scored = list(score_batches(pipeline, others))
    rates = {}
    for alpha, fewest in ALPHAS.items():
        if n >= (fewest if tested is None else minimum_normals(alpha)):
            p_values = Decisions.concat([decide(pipeline, batch, alpha) for batch in scored]).p_values
            rates[f"{alpha:g}"] = float((p_values[good] <= alpha).mean())
    found = {"judged": int(good.sum()), "rates": rates, "seconds": time.perf_counter() - started}
    if good.all():
        return found
    scores = np.concatenate([batch.values for batch in scored])
    return found | {"auroc": roc_auc(others.labels, scores)}


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
        for alpha in record["rates"] or ["none within reach"]:
            groups.setdefault((record["set"], record["n"], alpha), []).append(record)
    for (name, n, alpha), some in groups.items():
        rates = np.array([record["rates"].get(alpha, np.nan) for record in some])
        aurocs = [record["auroc"] for record in some if "auroc" in record]
        rows.append(
            {
                "set": name,
                "n": n,
                "alpha": alpha,
                "subsets": len(some),
                "judged": some[0]["judged"],
                "mean": float(rates.mean()),
                "sd": float(rates.std(ddof=1)) if len(rates) > 1 else None,
                "seconds": float(np.mean([record["seconds"] for record in some])),
                "auroc": float(np.mean(aurocs)) if aurocs else None,
                "auroc_sd": float(np.std(aurocs, ddof=1)) if len(aurocs) > 1 else None,
            }
        )
    return rows


def markdown(table: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| set | n | α | subsets | tested | false alarms, mean | sd | seconds a subset | AUROC | sd |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table:
        mean, sd, auroc, spread = (
            "" if row[name] is None or np.isnan(row[name]) else f"{row[name]:.3f}"
            for name in ("mean", "sd", "auroc", "auroc_sd")
        )
        lines.append(
            f"| {row['set']} | {row['n']} | {row['alpha']} | {row['subsets']} | {row['judged']} "
            f"| {mean} | {sd} | {row['seconds']:.1f} | {auroc} | {spread} |"
        )
    return "\n".join(lines)
