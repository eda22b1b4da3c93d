"""Figures: one function each, arrays in, `matplotlib.figure.Figure` out. No pyplot, so no global state."""

from knowngood.figures.calibration import calibration, false_alarm_rates
from knowngood.figures.interpolation import interpolation, interpolation_gif
from knowngood.figures.latent_bars import kl_bars
from knowngood.figures.latent_correlation import latent_correlation
from knowngood.figures.latent_scatter import latent_scatter
from knowngood.figures.loss_curves import loss_curves
from knowngood.figures.manifold import manifold
from knowngood.figures.prior_samples import prior_samples
from knowngood.figures.projection import project
from knowngood.figures.ranking_grid import ranking_grid
from knowngood.figures.reconstructions import Reconstructed, reconstructions
from knowngood.figures.roc import roc
from knowngood.figures.score_histogram import score_histogram
from knowngood.figures.scores_by_class import scores_by_class
from knowngood.figures.training_film import training_film
from knowngood.figures.traversal import traversal
from knowngood.figures.triptychs import triptychs

__all__ = [
    "Reconstructed",
    "calibration",
    "false_alarm_rates",
    "interpolation",
    "interpolation_gif",
    "kl_bars",
    "latent_correlation",
    "latent_scatter",
    "loss_curves",
    "manifold",
    "prior_samples",
    "project",
    "ranking_grid",
    "reconstructions",
    "roc",
    "score_histogram",
    "scores_by_class",
    "training_film",
    "traversal",
    "triptychs",
]
