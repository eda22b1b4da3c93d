"""Requested against realised false-alarm rate: over all rates from p-values, and at one rate by condition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style


def calibration(
    p_values: np.ndarray,
    *,
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    alpha: float | None = None,
) -> Figure:
    """Share of normals with p-value ≤ α, against α: on the diagonal every requested false-alarm rate is realised.

    Args:
        p_values: (m,) conformal p-values of normals that neither trained nor calibrated the model; NaN are excluded.
        band: (rates, low, high), arrays (K,) in 0..1: the 95 % interval of the line.
        alpha: the requested false-alarm rate; marked.
    """
    figure = style.new_figure()
    axes = figure.add_subplot()
    p = np.sort(np.asarray(p_values, float)[np.isfinite(p_values)])
    if band is not None:
        rates, low, high = (100 * np.r_[end[0], values, end[1]] for end, values in zip([(0, 1)] * 3, band, strict=True))
        axes.fill_between(rates, low, high, color=style.UNKNOWN, alpha=0.22, linewidth=0, label="95 % of calibrations")
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="realised = requested")
    share = np.arange(len(p) + 1) / max(len(p), 1)
    axes.step(
        100 * np.r_[0, p, 1], 100 * np.r_[share, share[-1]], where="post", color=style.NORMAL, linewidth=1.8,
        label=f"{len(p):,} normal images",
    )  # fmt: skip
    if alpha is not None:
        axes.axvline(100 * alpha, color=style.ANOMALOUS, linewidth=1.1, label=f"requested: {100 * alpha:g} %")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    style.tidy(axes, xlabel="requested false-alarm rate (%)", ylabel="normal images flagged (%)", grid="both")
    style.legend(axes, loc="lower right")
    return figure


def false_alarm_rates(
    names: Sequence[str],
    flagged: Sequence[int],
    tested: Sequence[int],
    intervals: Sequence[tuple[int, int] | None],
    *,
    alpha: float,
    most: int = 20,
) -> Figure:
    """Realised against requested false-alarm rate, one line a condition, with the expected interval where there is one.

    Args:
        names, flagged, tested: condition, normals flagged in it, normals tested in it.
        intervals: of each condition, the expected number of false alarms (low, high); None without a guarantee.
        alpha: the requested rate.
        most: conditions drawn at most; the ones with most normals are kept, and the title says so.
    """
    tested_, flagged_ = np.asarray(tested), np.asarray(flagged)
    candidates = np.flatnonzero(tested_ > 0)
    kept = np.sort(candidates[np.argsort(-tested_[candidates], kind="stable")[:most]])
    figure = style.new_figure(4.6, max(1.3 + 0.24 * len(kept), 2.2))
    axes = figure.add_subplot()
    rows = np.arange(len(kept))[::-1]
    labelled = False
    for row, i in zip(rows, kept, strict=True):
        if (interval := intervals[i]) is not None:
            low, high = 100 * np.asarray(interval) / tested_[i]
            label = None if labelled else "95 % of calibrations"
            axes.plot(
                [low, high], [row, row], color=style.UNKNOWN, alpha=0.4, linewidth=6, solid_capstyle="butt", label=label
            )
            labelled = True
    rates = 100 * flagged_[kept] / np.maximum(tested_[kept], 1)
    axes.axvline(100 * alpha, color=style.ANOMALOUS, linewidth=1.1, label=f"requested: {100 * alpha:g} %")
    axes.plot(rates, rows, "o", color=style.NORMAL, markersize=5, label="realised")
    axes.set_yticks(rows, [f"{style.short(names[i])} (n = {tested_[i]:,})" for i in kept])
    axes.set_ylim(-0.7, len(kept) - 0.3)
    axes.set_xlim(left=min(-0.5, -0.02 * axes.get_xlim()[1]))
    hidden = len(candidates) - len(kept)
    title = f"the {len(kept)} conditions with most normals, of {len(candidates)}" if hidden else ""
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="", title=title, grid="x")
    style.legend_below(figure)
    return figure
