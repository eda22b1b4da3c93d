"""Cross-conformal calibration: every normal item is scored by a model that was refitted without its fold."""

from __future__ import annotations

import numpy as np

from knowngood.detector.calibrate import NormalScores, with_calibration
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.learn import out_of_fold
from knowngood.detector.fit.plan import Plan
from knowngood.detector.pipeline import Pipeline, Representation


def cross_calibrate(
    pipeline: Pipeline, plan: Plan, index: np.ndarray, representation: Representation | CachedFeatures
) -> Pipeline:
    """The pipeline, fitted to the normals at `index`, calibrated by out-of-fold scores of the same normals.

    In each of K folds all that learns from images is fitted anew to the others: Gaussians, shrinkage, context,
    per-location statistics, global score; a representation that learns from images (alignment, illumination, scaling
    to the data) too. Out-of-fold scores come from models of fewer images than the final one, which scores new items.
    So p-values err on the large side; the guarantee of cross-conformal prediction (Vovk 2015; Barber et al.,
    arXiv:1905.02928, P(p ≤ α) ≤ 2α + 1/n about) is for scoring with all K models, not with one refitted to all items.
    """
    scores = [some for _, some in out_of_fold(plan, index, representation, refit=learns(representation))]
    return with_calibration(pipeline, NormalScores.concat(scores), "cross")


def learns(representation: Representation | CachedFeatures) -> bool:
    """Whether a representation learns more from images than their size and type."""
    base = representation.base if isinstance(representation, CachedFeatures) else representation
    options = getattr(base, "options", None)
    return options is None or options.align != "none" or options.illumination is not None or options.scaling == "data"
