"""Figures: pure functions of arrays that return a `matplotlib.figure.Figure`. No pyplot, so no global state.

`FIGURES` names what `knowngood figure NAME` draws of a detector and images, by the functions of `figures.named`. The
pure functions load when they are asked for, so that the command's help needs no matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

FIGURES = {
    "reconstructions": "normal and anomalous images beside each model's reconstructions, with E and A",
    "triptychs": "input, reconstruction, difference; the most anomalous images first",
    "samples": "draws from the prior, one row a condition",
    "latent": "images in the plane: two dimensions, PCA or t-SNE, by class",
    "manifold": "the plane of two dimensions, decoded, under each condition",
    "traversal": "what each dimension does, one row a dimension",
    "kl": "nats that each dimension carries",
    "correlation": "correlation of the dimensions",
    "histogram": "scores by label on shared bins, with their intersection",
    "box": "quartiles of the scores of each class",
    "roc": "ROC curve, with the point of the verdicts",
    "curves": "ROC and precision-recall of several models, by kind of anomaly",
    "calibration": "requested against realised false-alarm rate",
    "rates": "realised false-alarm rate of each condition",
    "loss": "the loss and its terms over training; needs no data",
}

_MODULES = {
    "curves": ("ranking_grid", "roc"),
    "decoded": ("manifold", "prior_samples", "traversal"),
    "distributions": ("score_histogram", "scores_by_class"),
    "false_alarms": ("calibration", "false_alarm_rates"),
    "latent_dimensions": ("kl_bars", "latent_correlation"),
    "latent_plane": ("latent_scatter", "project"),
    "losses": ("loss_curves",),
    "reconstruction": ("Reconstructed", "reconstructions"),
    "triptych": ("triptychs",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
