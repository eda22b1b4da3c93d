"""The evidence for drift over a stream: the wealth of each Mondrian group, and where the alarm was raised."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from knowngood.calibration import DriftMonitor
from knowngood.evaluation.figures import style

COLOURS = (style.NORMAL, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # of Okabe and Ito, without the one for anomalous


def drift(monitor: DriftMonitor, *, most: int = 6) -> Figure:
    """What each group owns of the wealth, against the number of the item; the alarm is raised on their sum.

    Args:
        most: groups drawn; those with most evidence are kept, and the title says so.
    """
    figure = style.new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    named = sorted(monitor.groups.items(), key=lambda one: -max((y for _, y in one[1].path), default=-np.inf))
    for i, (name, group) in enumerate(named[:most]):
        number, evidence = np.array(group.path or [(0, 0.0)], float).T
        axes.plot(number, evidence, color=COLOURS[i % len(COLOURS)], linewidth=1.4, label=style.short(name))
    limit = np.log10(monitor.threshold)
    axes.axhline(limit, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label=f"alarm: {monitor.threshold:g}")
    if (alarm := monitor.alarm) is not None:
        axes.axvspan(alarm.since.number, alarm.at.number, color=style.ANOMALOUS, alpha=0.18, linewidth=0)
        axes.axvline(alarm.at.number, color=style.ANOMALOUS, linewidth=1.1, label="since about … alarm")
    hidden = len(named) - most
    title = f"the {most} conditions with most evidence, of {len(named)}" if hidden > 0 else ""
    style.tidy(axes, xlabel="item of the stream", ylabel="evidence (log10 of the wealth)", title=title, grid="both")
    style.legend(axes)
    return figure
