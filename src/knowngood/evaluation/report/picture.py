"""The results in one picture: headline, gallery, ROC curve and scores, for a README or a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.curves import roc
from knowngood.evaluation.figures.distributions import score_histogram
from knowngood.evaluation.figures.triptych import draw_panels, name_panels
from knowngood.evaluation.report.gallery import card_strips, positions
from knowngood.evaluation.report.inputs import Card, ReportInputs
from knowngood.evaluation.report.verdict import judge
from knowngood.evaluation.report.words import number


def write_png(path: str | Path, inputs: ReportInputs, *, dpi: int = 150) -> Path:
    """Write the picture: up to four most and four least anomalous images on the left, the curves on the right."""
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
    blocks = {"Most anomalous": list(inputs.most[:4]), "Least anomalous": list(inputs.least[:4])}
    blocks = {title: cards for title, cards in blocks.items() if cards}
    curves = body
    if blocks:
        left, curves = body.subfigures(1, 2, squeeze=False, width_ratios=(5.6, 4.0))[0]
        _draw_gallery(left, inputs, blocks)
    grid = curves.subplots(2 if inputs.both_labels else 1, 1, squeeze=False)[:, 0]
    labels, scores, interval = inputs.labels, inputs.scores, inputs.metrics.get("auroc_interval")
    if inputs.both_labels:
        roc(labels, scores, flagged=inputs.flagged if verdict.attainable else None, interval=interval, axes=grid[0])
    look = {"thresholds": inputs.thresholds(), "names": inputs.names, "unit": inputs.score_unit}
    score_histogram(scores, labels, axes=grid[-1], **look)
    return figure


def _draw_gallery(parent: SubFigure, inputs: ReportInputs, blocks: dict[str, list[Card]]) -> None:
    drawn = card_strips(inputs, [card for cards in blocks.values() for card in cards])
    rows, panels = positions(inputs, []), iter(drawn.panels)
    for block, (title, cards) in zip(parent.subfigures(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        block.suptitle(title, fontsize=10, fontweight="bold", color=style.INK)
        grid = block.subplots(len(cards), 3, squeeze=False)
        for axes, card in zip(grid, cards, strict=True):
            row, label = rows[card.id], inputs.labels[rows[card.id]]
            caption = f"score {number(inputs.scores[row], 3)},  p = {number(inputs.p_values[row], 2)}"
            caption += "" if np.isnan(label) else f",  {inputs.names[int(label)]}"
            draw_panels(axes, next(panels), caption)
        name_panels(grid[-1], drawn.names)
