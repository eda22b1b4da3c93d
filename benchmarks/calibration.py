"""`python -m benchmarks calibration`: whether false-alarm rates are what is promised, through `Detector` itself.

A detector is fitted once. Then the other normal items are divided at random, again and again, into calibration items
and new ones. With k = ⌊α(n + 1)⌋ and n calibration items the number of m new normal items that are flagged follows the
beta-binomial law BetaBinomial(m, k, n + 1 − k), whatever the scores (Vovk, arXiv:1209.2673), with mean k/(n + 1).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.datasets import load_digits

from knowngood import Detector
from knowngood.calibration import alarm_rank
from knowngood.evaluation.figures import style

Row = dict[str, Any]
ALPHAS = (0.001, 0.01, 0.05, 0.1)
CALIBRATION, NEW = 1200, 400  # items, in every division
KINDS = {"a": 800, "b": 300, "c": 40}  # calibration items
CLOSE, LEVEL = 0.002, 0.01  # of mean rates; of p-values of tests
Q, SHARES = 0.1, (0.01, 0.05, 0.2)
FITTED = 120  # digits that a recipe is fitted to and calibrated with
SMALL_ALPHA = 0.1
TABLE: dict[str, Any] = {"model": "memory_bank", "calibration": {"method": "split"}}
TINY = {"name": "vae", "net": {"name": "mlp", "hidden": [32]}, "latent_dim": 4}
RECIPES: dict[str, dict[str, Any]] = {
    "pixels, VAE": {"representation": "pixels", "model": TINY, "training": {"epochs": 20}},
    "HOG, VAE": {"representation": "hog", "model": TINY, "training": {"epochs": 20}},
    "HOG, nearest neighbours": {"representation": "hog", "model": "memory_bank"},
    "table, VAE": {"representation": "table", "model": TINY, "training": {"epochs": 20}},
    "table, nearest neighbours": {"representation": "table", "model": "memory_bank"},
}


def main(
    resplits: int = 1000,
    fits: int = 100,
    parts: tuple[str, ...] = ("split", "groups", "unknown", "fdr", "fits"),
    seed: int = 0,
    out: Path = Path("out/benchmarks/calibration"),
) -> list[Row]:
    """Promised and measured false-alarm rates. Prints the table; writes it and a picture to `out`.

    Args:
        resplits: random divisions into calibration and new items.
        fits: of each recipe, on digits.
        parts: split, groups, unknown (conditions), fdr, fits.
    """
    out.mkdir(parents=True, exist_ok=True)
    measure: dict[str, Callable[[], list[Row]]] = {
        "split": lambda: one_group(resplits, seed, out),
        "groups": lambda: groups(resplits, seed),
        "unknown": lambda: unknown_conditions(resplits, seed),
        "fdr": lambda: false_discoveries(resplits, seed),
        "fits": lambda: [row for name in RECIPES for row in refitted(name, fits, seed)],
    }
    rows: list[Row] = []
    for part in parts:
        print(part, file=sys.stderr)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of groups that are too small on purpose
            rows += measure[part]()
        (out / "calibration.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(markdown(rows))
    return rows


def normal_items(rng: np.random.Generator, kind: int, count: int) -> np.ndarray:
    """(count, 5) normal items with heavy tails; each kind is shifted and wider than the one before."""
    return rng.standard_t(4, (count, 5)) * (1 + kind) + 2 * kind


def fitted_to_kinds(rng: np.random.Generator) -> tuple[Detector, dict[str, np.ndarray]]:
    """A detector fitted to items of known kinds, and further items of each kind to calibrate and test with."""
    x, of = stacked({name: normal_items(rng, i, 150) for i, name in enumerate(KINDS)})
    pool = {name: normal_items(rng, i, size + size // 4) for i, (name, size) in enumerate(KINDS.items())}
    return Detector(**TABLE, conditioning={"unknown": "infer"}).fit(x, conditions=of), pool


def stacked(parts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The items of all kinds, and their condition."""
    kind = np.repeat(list(parts), [len(part) for part in parts.values()])
    return np.concatenate(list(parts.values())), {"kind": kind}


def one_group(resplits: int, seed: int, out: Path) -> list[Row]:
    """All items together: the mean rate, and the law of the number flagged."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (400 + CALIBRATION + NEW, 5))
    detector, pool = Detector(**TABLE).fit(x[:400]), x[400:]
    counts: dict[float, list[int]] = {alpha: [] for alpha in ALPHAS}
    for _ in range(resplits):
        order = rng.permutation(len(pool))
        detector.calibrate(pool[order[:CALIBRATION]])
        p = detector.detect(pool[order[CALIBRATION:]])["p_value"]
        for alpha in ALPHAS:
            counts[alpha].append(int((p <= alpha).sum()))
    draw(counts, out / "calibration.png")
    return [exact(f"α = {alpha:g}", counts[alpha], CALIBRATION, NEW, alpha, rng) for alpha in ALPHAS]


def groups(resplits: int, seed: int) -> list[Row]:
    """Mondrian groups of unequal size, each by itself."""
    rng = np.random.default_rng(seed + 1)
    detector, pool = fitted_to_kinds(rng)
    alpha = 0.05
    tested = {name: size // 4 for name, size in KINDS.items()}
    counts: dict[str, list[int]] = {name: [] for name in KINDS}
    for _ in range(resplits):
        new, of = calibrated_anew(detector, pool, rng)
        flagged = detector.detect(new, conditions=of, alpha=alpha)["is_anomalous"].to_numpy()
        for name in KINDS:
            counts[name].append(int(flagged[of["kind"] == name].sum()))
    return [exact(f"kind {name}, α = {alpha:g}", counts[name], KINDS[name], tested[name], alpha, rng) for name in KINDS]


def calibrated_anew(
    detector: Detector, pool: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Calibrate the detector on items of each kind, drawn at random; the others, and their condition."""
    parts = {name: np.split(rng.permutation(x), [KINDS[name]]) for name, x in pool.items()}
    x, of = stacked({name: part[0] for name, part in parts.items()})
    detector.calibrate(x, conditions=of)
    return stacked({name: part[1] for name, part in parts.items()})


def unknown_conditions(resplits: int, seed: int) -> list[Row]:
    """Items whose kind is unknown: p is the largest over the kinds, so the rate is at most that of the item's own."""
    rng = np.random.default_rng(seed + 2)
    detector, pool = fitted_to_kinds(rng)
    rates: dict[float, list[float]] = {alpha: [] for alpha in (0.05, 0.1)}
    for _ in range(resplits):
        new, _ = calibrated_anew(detector, pool, rng)
        for alpha, found in rates.items():
            flagged = detector.detect(new, conditions={"kind": [None] * len(new)}, alpha=alpha)["is_anomalous"]
            found.append(float(flagged.mean()))
    return [at_most(f"kind unknown, α = {alpha:g}", found, alpha) for alpha, found in rates.items()]


def false_discoveries(resplits: int, seed: int) -> list[Row]:
    """Benjamini–Hochberg over a batch of which some are anomalous: the share of normal ones among the flagged."""
    rng = np.random.default_rng(seed + 3)
    x = rng.standard_t(4, (400 + CALIBRATION + NEW, 5))
    detector, pool = Detector(**TABLE).fit(x[:400]), x[400:]
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(resplits):
        order = rng.permutation(len(pool))
        detector.calibrate(pool[order[:CALIBRATION]])
        for share in SHARES:
            anomalous, new = int(share * NEW), pool[order[CALIBRATION:]].copy()
            new[:anomalous] += rng.choice([-1, 1], (anomalous, 5)) * rng.uniform(3, 12, (anomalous, 1))
            flagged = detector.detect(new, fdr=Q)["is_anomalous"].to_numpy()
            found[share].append(float(flagged[anomalous:].sum() / max(flagged.sum(), 1)))
    return [at_most(f"FDR at q = {Q:g}, {share:.0%} anomalous", found[share], Q) for share in SHARES]


def refitted(recipe: str, fits: int, seed: int) -> list[Row]:
    """Every fit anew, to random digits of all kinds; others are tested."""
    settings = RECIPES[recipe]
    digits = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 8, 8).astype(np.uint8) * 15
    if settings["representation"] == "table":
        digits = digits.reshape(len(digits), -1).astype(np.float64)
    rates, counts = [], []
    for fit in range(fits):
        order = np.random.default_rng([seed, fit]).permutation(len(digits))
        detector = Detector(**settings, alpha=SMALL_ALPHA, random_state=fit).fit(digits[order[:FITTED]])
        rates.append(float(detector.detect(digits[order[FITTED : FITTED + NEW]])["is_anomalous"].mean()))
        counts.append(detector.about_["data"]["calibrate"])
    n, method = counts[0], detector.pipeline_.calibrated_by
    case = f"{recipe}: {method}, n = {n}, α = {SMALL_ALPHA:g}"
    if method == "cross":
        return [at_most(case, rates, SMALL_ALPHA)]
    wanted = alarm_rank(n, SMALL_ALPHA) / (n + 1)
    mean, error = np.mean(rates), np.std(rates, ddof=1) / np.sqrt(fits)
    return [row(case, fits, f"{wanted:.4f}", mean, error, abs(mean - wanted) <= 2 * error)]


def exact(case: str, counts: list[int], n: int, tested: int, alpha: float, rng: np.random.Generator) -> Row:
    """Mean rate against k/(n + 1), and the counts against the beta-binomial law by a Kolmogorov–Smirnov test.

    The distribution function of a discrete law, drawn uniformly within its steps, is uniform under that law.
    """
    k = alarm_rank(n, alpha)
    law: Any = stats.betabinom(tested, k, n + 1 - k)
    flagged = np.array(counts)
    uniform = law.cdf(flagged - 1) + rng.uniform(size=len(flagged)) * law.pmf(flagged)
    test = float(stats.kstest(uniform, "uniform").pvalue)
    rates, wanted = flagged / tested, k / (n + 1)
    mean, error = rates.mean(), rates.std(ddof=1) / np.sqrt(len(rates))
    close = abs(mean - wanted) <= CLOSE and test > LEVEL
    return {**row(f"{case}, n = {n:,}", len(counts), f"{wanted:.4f}", mean, error, close), "ks_p": test}


def at_most(case: str, rates: list[float], bound: float) -> Row:
    """Mean rate against a bound, within two standard errors."""
    mean, error = np.mean(rates), np.std(rates, ddof=1) / np.sqrt(len(rates))
    return row(case, len(rates), f"≤ {bound:g}", mean, error, mean <= bound + 2 * error)


def row(case: str, repeats: int, wanted: str, mean: Any, error: Any, holds: Any) -> Row:
    """One line of the table, as plain data."""
    return {
        "case": case,
        "repeats": repeats,
        "promised": wanted,
        "mean": float(mean),
        "se": float(error),
        "holds": bool(holds),
    }


def markdown(rows: list[Row]) -> str:
    """The table as Markdown."""
    lines = ["| case | repeats | promised | mean ± se | KS p | holds |", "|---|---|---|---|---|---|"]
    for one in rows:
        test = f"{one['ks_p']:.2f}" if "ks_p" in one else ""
        measured = f"{one['mean']:.4f} ± {one['se']:.4f}"
        holds = "yes" if one["holds"] else "**no**"
        lines.append(f"| {one['case']} | {one['repeats']:,} | {one['promised']} | {measured} | {test} | {holds} |")
    return "\n".join(lines)


def draw(counts: dict[float, list[int]], path: Path) -> None:
    """Histograms of the numbers flagged, with the beta-binomial law over them."""
    figure = style.new_figure(9.0, 2.6)
    shown = [alpha for alpha in ALPHAS if alpha >= 0.01]
    for axes, alpha in zip(figure.subplots(1, len(shown)), shown, strict=True):
        k = alarm_rank(CALIBRATION, alpha)
        flagged = np.array(counts[alpha])
        at = np.arange(flagged.min(), flagged.max() + 1)
        axes.bar(at, [(flagged == i).mean() for i in at], color=style.UNKNOWN, alpha=0.5, width=1.0, label="measured")
        law: Any = stats.betabinom(NEW, k, CALIBRATION + 1 - k)
        axes.plot(at, law.pmf(at), color=style.NORMAL, linewidth=1.6, label="beta-binomial")
        axes.axvline(NEW * alpha, color=style.ANOMALOUS, linewidth=1.0, label="α × tested")
        style.tidy(axes, xlabel=f"flagged of {NEW} normal items, α = {alpha:g}", ylabel="share of divisions")
    style.legend_below(figure)
    style.save(figure, path)
