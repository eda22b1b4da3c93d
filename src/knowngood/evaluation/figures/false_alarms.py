"""Requested against realised false-alarm rate: over all rates from p-values, and at one rate by condition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.evaluation.conditions import ConditionRow, expected_band
from knowngood.evaluation.figures import style
from knowngood.evaluation.results import Results


def calibration(results: Results, groups: tuple[list[int], list[int]]) -> Figure:
    """Share of normals with p-value ≤ α, against α: on the diagonal every requested false-alarm rate is realised.

    Args:
        groups: see `sharing_groups`. The grey band, where 95 % of the lines lie, is drawn if they hold all normals.
    """
    normal, (calibrated, tested) = results.labels == 0, groups
    p = np.sort(results.p_values[normal & np.isfinite(results.p_values)])
    figure = style.new_figure()
    axes = figure.add_subplot()
    if calibrated and sum(tested) == normal.sum():
        rates, low, high = (100 * np.r_[0, values, 1] for values in expected_band(calibrated, tested))
        axes.fill_between(rates, low, high, color=style.UNKNOWN, alpha=0.22, linewidth=0, label="95 % of calibrations")
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="realised = requested")
    share = np.arange(len(p) + 1) / max(len(p), 1)
    axes.step(
        100 * np.r_[0, p, 1], 100 * np.r_[share, share[-1]], where="post", color=style.NORMAL, linewidth=1.8,
        label=f"{len(p):,} normal images",
    )  # fmt: skip
    requested = 100 * results.alpha
    axes.axvline(requested, color=style.ANOMALOUS, linewidth=1.1, label=f"requested: {requested:g} %")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    style.tidy(axes, xlabel="requested false-alarm rate (%)", ylabel="normal images flagged (%)", grid="both")
    style.legend(axes, loc="lower right")
    return figure


def false_alarm_rates(rows: Sequence[ConditionRow], *, alpha: float, most: int = 20) -> Figure:
    """Realised against requested false-alarm rate, one line a condition, with the expected interval where there is one.

    Args:
        rows: see `by_condition`; those without normals are not drawn.
        alpha: the requested rate.
        most: conditions drawn at most; the ones with most normals are kept, and the title says so.
    """
    tested = np.array([row.normals for row in rows])
    candidates = np.flatnonzero(tested > 0)
    kept = np.sort(candidates[np.argsort(-tested[candidates], kind="stable")[:most]])
    figure = style.new_figure(4.6, max(1.3 + 0.24 * len(kept), 2.2))
    axes = figure.add_subplot()
    lines = np.arange(len(kept))[::-1]
    look = {"color": style.UNKNOWN, "alpha": 0.4, "linewidth": 6, "solid_capstyle": "butt"}
    label: str | None = "95 % of calibrations"
    for line, i in zip(lines, kept, strict=True):
        if (interval := rows[i].expected) is not None:
            axes.plot(100 * np.array(interval) / tested[i], [line, line], label=label, **look)
            label = None  # named once
    rates = [100 * rows[i].false_alarms / tested[i] for i in kept]
    axes.axvline(100 * alpha, color=style.ANOMALOUS, linewidth=1.1, label=f"requested: {100 * alpha:g} %")
    axes.plot(rates, lines, "o", color=style.NORMAL, markersize=5, label="realised")
    axes.set_yticks(lines, [f"{style.short(rows[i].name)} (n = {tested[i]:,})" for i in kept])
    axes.set_ylim(-0.7, len(kept) - 0.3)
    end = min(axes.get_xlim()[1], 102)
    axes.set_xlim(min(-0.5, -0.02 * end), end)
    hidden = len(candidates) - len(kept)
    title = f"the {len(kept)} conditions with most normals, of {len(candidates)}" if hidden else ""
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="", title=title, grid="x")
    style.legend_below(figure)
    return figure
