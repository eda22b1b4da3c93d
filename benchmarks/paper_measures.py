"""What `benchmark paper` measures on a fitted detector beyond `methods.measure`.

Scoring an item under every possible condition is the expensive part. `evaluate` does it once. This module adds one pass
over the test images, under the best condition only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.factor_metrics import gaussian_total_correlation, mutual_information_gap
from benchmarks.paper_told import other_set, told
from benchmarks.protocols import CellImages
from knowngood.config import Elbo
from knowngood.data.conditions import Expanded
from knowngood.detector.estimator import Detector
from knowngood.detector.items import items_to_score
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import one_row_each
from knowngood.errors import DataError
from knowngood.evaluation.evaluate import Evaluation
from knowngood.metrics import roc_auc
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import item_sum

BINS, MOST_CODES = 20, 10_000
ELBO_PARTS = ("elbo_reconstruction", "elbo_kl")

Floats = NDArray[np.float64]


def measure_more(detector: Detector, found: Evaluation, parts: CellImages) -> dict[str, float | None]:
    """A, E, and TC and MIG of the posterior means; where classes were known in training, under the inferred class.

    Returns:
        a_normal, a_anomalous: mean A = ‖x − x̂‖₂, x̂ from the posterior mean, over normal and anomalous test images.
        e_normal, e_anomalous: mean E, the negative ELBO in nats. auroc_a, auroc_e: AUROC of A and of E as scores. tc:
        Gaussian total correlation of the posterior means of the normal test images, None where one of them is a linear
        function of others. mig: mutual information gap of the first 10,000 of these against their class, 20 bins. What
        `paper_told` measures, and auroc_other: `paper_told.other_set`.

    Raises:
        DataError: a test image cannot be read.
    """
    y, pipeline = parts.test.labels, detector.pipeline_
    items = items_to_score(detector, parts.test)
    best = best_conditions(pipeline, items, found.table["condition"].to_numpy(object))
    parts_there = all(name in found.table for name in ELBO_PARTS)
    seen = look(pipeline, items, best, elbo=not parts_there)
    e = found.table[list(ELBO_PARTS)].to_numpy(float).sum(axis=1) if parts_there else seen.e
    codes, classes = seen.codes[y == 0], parts.test_classes[y == 0]
    return {
        **{f"{name}_normal": float(values[y == 0].mean()) for name, values in (("a", seen.a), ("e", e))},
        **{f"{name}_anomalous": float(values[y == 1].mean()) for name, values in (("a", seen.a), ("e", e))},
        "auroc_a": roc_auc(y, seen.a),
        "auroc_e": roc_auc(y, e),
        "tc": total_correlation(codes),
        "mig": gap(codes[:MOST_CODES], classes[:MOST_CODES]),
        **told(detector, parts),
        "auroc_other": other_set(detector, parts),
    }


class Seen(NamedTuple):
    """One row an item."""

    a: Floats  # (N,) ‖x − x̂‖₂ on scaled values
    e: Floats  # (N,) negative ELBO in nats; empty if not asked for
    codes: Floats  # (N, D) posterior means


@torch.no_grad()
def look(pipeline: Pipeline, items: Items, best: Expanded, *, elbo: bool) -> Seen:
    """A, E and the posterior means of items, each under its condition in `best`; E by the score `elbo`'s defaults."""
    model = pipeline.model.eval()
    assert isinstance(model, ConditionalVAE)
    score = Elbo().build()
    state = score.fit(model, ())
    a, e, codes = [], [], []
    for chunk in one_row_each(pipeline, items, best):
        mean = model.encode(chunk.x, chunk.c).mean
        made = model.likelihood.mean(model.decode(mean, chunk.c))
        a.append(item_sum((chunk.x - made).square()).sqrt().cpu().numpy())
        codes.append(mean.double().cpu().numpy())
        if elbo:
            e.append(score.score(model, state, chunk.x, chunk.c, chunk.stratum).values.cpu().numpy())
    return Seen(np.concatenate(a), np.concatenate(e) if e else np.empty(0), np.concatenate(codes))


def best_conditions(pipeline: Pipeline, items: Items, named: np.ndarray) -> Expanded:
    """One row an item: the condition that `named`, column "condition" of a table of these items, says.

    So the result of `evaluate` is recovered without scoring all conditions again.
    """
    size = max(1, (1 << 17) // max(1, len(pipeline.schema.cells)))
    parts = []
    for start in range(0, len(items), size):
        some = items[start : start + size]
        expanded = pipeline.schema.expand(some.conditions, len(some), unknown="infer")
        wanted = np.array([str(text).removesuffix(" (inferred)") for text in named[start : start + size]], object)
        rows = np.flatnonzero(np.array(expanded.label, object) == wanted[expanded.item])
        if not np.array_equal(expanded.item[rows], np.arange(len(some))):
            raise DataError(f"{len(some)} test images name {len(rows)} conditions; an image could not be read")
        parts.append(expanded.take(rows))
    return Expanded.concat(parts)


def total_correlation(codes: Floats) -> float | None:
    """In nats; None where it is infinite, or the items are too few for so many dimensions."""
    if len(codes) <= codes.shape[1]:
        return None
    found = gaussian_total_correlation(codes)
    return found if np.isfinite(found) else None


def gap(codes: Floats, classes: np.ndarray) -> float | None:
    """MIG against the class; None where there is only one class."""
    return mutual_information_gap(codes, classes, bins=BINS).score if len(set(classes)) > 1 else None
