"""False alarms and detections by strength, a panel a corruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Row = dict[str, Any]
ACROSS = 6  # panels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
LINES = {"false_alarms": ("-", "false alarms"), "detected": (":", "detected")}


def write_curves(table: Sequence[Row], path: Path) -> Path:
    """A PNG with a block of panels for each set: strength across, rates up, a colour a method; clean is strength 0."""
    methods = list(dict.fromkeys(row["method"] for row in table))
    blocks: list[tuple[str, list[str]]] = []
    for name in dict.fromkeys(row["set"] for row in table):
        kinds = list(dict.fromkeys(row["kind"] for row in table if row["set"] == name and row["strength"]))
        blocks += [(name, kinds[start : start + ACROSS]) for start in range(0, len(kinds), ACROSS)]
    figure = Figure(figsize=(1.6 * ACROSS, 0.6 + 1.6 * max(1, len(blocks))), layout="constrained")
    panels = figure.subplots(max(1, len(blocks)), ACROSS, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat:
        panel.set_visible(False)
    for line, (name, kinds) in zip(panels, blocks, strict=False):
        for panel, kind in zip(line, kinds, strict=False):
            panel.set_visible(True)
            panel.set_title(kind, fontsize=9)
            panel.tick_params(labelsize=7, labelbottom=True)
            panel.axhline(table[0]["alpha"], color="#999999", linewidth=0.6)
            for order, (colour, method) in enumerate(zip(COLOURS, methods, strict=False)):
                width = max(2.8 - 0.8 * order, 0.8)  # so that equal curves are all seen
                own = [
                    row
                    for row in table
                    if (row["set"], row["method"]) == (name, method) and (row["kind"] == kind or not row["strength"])
                ]
                own.sort(key=lambda row: row["strength"])
                for rate, (style, _) in LINES.items():
                    strengths, values = ([row[key] for row in own] for key in ("strength", rate))
                    panel.plot(strengths, values, style, color=colour, linewidth=width)
        line[0].set_ylabel(f"{name}\nrate", fontsize=8)
        line[0].set_ylim(-0.04, 1.04)
        line[0].set_xticks(np.arange(6))
    shown = [Line2D([], [], color=colour, label=method) for colour, method in zip(COLOURS, methods, strict=False)]
    shown += [Line2D([], [], color="black", ls=style, label=label) for style, label in LINES.values()]
    figure.supxlabel("strength", fontsize=8)
    figure.legend(handles=shown, loc="outside upper center", ncols=len(shown), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    return path
