"""The results in one picture: verdict, triptychs, ROC and scores, for a README or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.roc import draw_roc
from knowngood.evaluation.figures.score_histogram import draw_score_histogram
from knowngood.evaluation.figures.triptychs import (
    MAP_PANELS,
    PANELS,
    difference_limit,
    draw_panels,
    draw_triptych,
    map_panels,
    name_panels,
    value_range,
)
from knowngood.evaluation.report.gallery import gallery_heat
from knowngood.evaluation.report.inputs import Mapped, ReportInputs, Triptych
from knowngood.evaluation.report.plots import thresholds
from knowngood.evaluation.report.verdict import judge
from knowngood.evaluation.report.words import number


def write_png(path: str | Path, inputs: ReportInputs, *, dpi: int = 150) -> Path:
    """Write the picture: up to four most and four least anomalous triptychs on the left, the curves on the right."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(inputs).savefig(path, dpi=dpi, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    return path


def picture(inputs: ReportInputs) -> Figure:
    """The picture as a figure, 9.6 × 5.6 inches."""
    verdict = judge(inputs)
    figure = style.new_figure(9.6, 5.6)
    (head,), (body,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.6, 5.0))
    facts = "   ·   ".join(f"{name}: {value}" for name, value, _ in verdict.tiles[2:])
    head.text(0, 1, style.plain(verdict.headline), va="top", fontsize=15, fontweight="bold", color=style.INK)
    head.text(0, 0.2, style.plain(facts), va="center", fontsize=9.5, color=style.MUTED)
    groups = [("Most anomalous", inputs.most[:4]), ("Least anomalous", inputs.least[:4])]
    groups = [(title, items) for title, items in groups if items]
    curves = body
    if groups:
        left, curves = body.subfigures(1, 2, squeeze=False, width_ratios=(5.6, 4.0))[0]
        _draw_gallery(left, inputs, groups)
    labels = inputs.labels
    both = bool((labels == 0).any() and (labels == 1).any())
    grid = curves.subplots(2 if both else 1, 1, squeeze=False)[:, 0]
    if both:
        flagged = inputs.flagged if verdict.attainable else None
        draw_roc(grid[0], labels, inputs.scores, flagged=flagged, interval=inputs.metrics.get("auroc_interval"))
    names, lines = (inputs.normal_name, inputs.anomalous_name), thresholds(inputs)
    draw_score_histogram(grid[-1], inputs.scores, labels, thresholds=lines, names=names, unit=inputs.score_unit)
    return figure


def _draw_gallery(
    parent: SubFigure, inputs: ReportInputs, groups: Sequence[tuple[str, Sequence[Triptych | Mapped]]]
) -> None:
    shown = [item for _, items in groups for item in items]
    pairs = [item for item in shown if isinstance(item, Triptych)]
    limits = value_range(item.image for item in pairs)
    full = difference_limit((item.image, item.reconstruction) for item in pairs)
    heat = gallery_heat(inputs)
    rows = {name: row for row, name in enumerate(inputs.texts("id"))}
    columns = parent.subfigures(1, len(groups), squeeze=False)
    for block, (title, items) in zip(columns[0], groups, strict=True):
        block.suptitle(title, fontsize=10, fontweight="bold", color=style.INK)
        grid = block.subplots(max(len(items), 1), 3, squeeze=False)
        for row, item in zip(grid, items, strict=True):
            caption = item.caption
            if item.id is not None:
                place = rows[item.id]
                caption = f"score {number(inputs.scores[place], 3)},  p = {number(inputs.p_values[place], 2)}"
                label = inputs.labels[place]
                if np.isfinite(label):
                    caption += f",  {inputs.anomalous_name if label == 1 else inputs.normal_name}"
            if isinstance(item, Mapped):
                draw_panels(row, map_panels(item.image, item.map, limits=heat), caption)
            else:
                pair = item.image, item.reconstruction
                draw_triptych(row, pair, limits=limits, full=full, caption=caption)
        name_panels(grid[-1], PANELS if pairs else MAP_PANELS)
