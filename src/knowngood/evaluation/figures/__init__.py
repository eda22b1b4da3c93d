"""Figures: one function each, arrays in, `matplotlib.figure.Figure` out. No pyplot, so no global state."""

from knowngood.evaluation.figures.calibration import calibration, false_alarm_rates
from knowngood.evaluation.figures.interpolation import interpolation, interpolation_gif
from knowngood.evaluation.figures.latent_bars import kl_bars
from knowngood.evaluation.figures.latent_correlation import latent_correlation
from knowngood.evaluation.figures.latent_scatter import latent_scatter
from knowngood.evaluation.figures.loss_curves import loss_curves
from knowngood.evaluation.figures.manifold import manifold
from knowngood.evaluation.figures.prior_samples import prior_samples
from knowngood.evaluation.figures.projection import project
from knowngood.evaluation.figures.ranking_grid import ranking_grid
from knowngood.evaluation.figures.reconstructions import Reconstructed, reconstructions
from knowngood.evaluation.figures.roc import roc
from knowngood.evaluation.figures.score_histogram import score_histogram
from knowngood.evaluation.figures.scores_by_class import scores_by_class
from knowngood.evaluation.figures.training_film import training_film
from knowngood.evaluation.figures.traversal import traversal
from knowngood.evaluation.figures.triptychs import triptychs

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
