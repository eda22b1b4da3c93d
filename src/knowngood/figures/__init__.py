"""Figures: one function each, arrays in, `matplotlib.figure.Figure` out. No pyplot, so no global state."""

from knowngood.figures.calibration import calibration, false_alarm_rates
from knowngood.figures.loss_curves import loss_curves
from knowngood.figures.roc import roc
from knowngood.figures.score_histogram import score_histogram
from knowngood.figures.triptychs import triptychs

__all__ = [
    "calibration",
    "false_alarm_rates",
    "loss_curves",
    "roc",
    "score_histogram",
    "triptychs",
]
