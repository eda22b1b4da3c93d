"""What `benchmark paper` measures beyond the inferred class: wrong classes told, another data set, the released AUC.

The released code of the dCVAE paper takes the reconstruction error A as score and, of the classes that were trained on,
one as the anomaly, the rest as normal. That cannot separate methods: AUC(k, j) + AUC(j, k) = 1 for every score and
every pair of classes, and with equally many images a class AUC(k against the rest) is the mean of AUC(k, j) over the
other classes j, so the mean over k is ½ whatever the score. `released` computes it.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from benchmarks import runner
from benchmarks.protocols import CellImages
from knowngood.config import Elbo
from knowngood.detector.estimator import Detector
from knowngood.detector.items import items_to_score
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Reader, refuse_unread
from knowngood.errors import BatchWarning, DataError
from knowngood.metrics import roc_auc
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import item_sum

Floats = NDArray[np.float64]
MOST = 1000  # images of each kind
OTHER = {"mnist": "fashion-mnist"}  # for all other data sets mnist


def told(detector: Detector, parts: CellImages) -> dict[str, float | None]:
    """AUROC of right against wrong classes told, and of the released code; None for a model without classes.

    The first 1,000 normal test images are scored once with their class and once with another known class, drawn by the
    seed of the fit.

    Returns:
        wrong_a, wrong_e: by A and by E given the class told. wrong_mismatch: by E(x|c) − E(x) = −log p(c|x) + constant.
        released: by A given the class told, the released code's mean over classes.
    """
    pipeline = detector.pipeline_
    normal = np.flatnonzero(parts.test.labels == 0)[:MOST]
    classes = parts.test_classes[normal].astype(str)
    names = ("wrong_a", "wrong_e", "wrong_mismatch", "released")
    if not pipeline.model.condition_dim or len(pipeline.schema.cells) < 2:
        return dict.fromkeys(names)
    seen = under_each(pipeline, items_to_score(detector, parts.test[normal]))
    column = {label: k for k, label in enumerate(seen.labels)}
    true = np.array([column[name] for name in classes])
    step = np.random.default_rng([int(detector.about_["seed"]), 17]).integers(1, len(column), len(true))
    wrong, row = (true + step) % len(column), np.arange(len(true))
    mismatch = seen.e + np.asarray(logsumexp(seen.log_weight - seen.e, axis=1, keepdims=True))
    y = np.repeat([0.0, 1.0], len(true))
    found = [
        roc_auc(y, np.concatenate([values[row, true], values[row, wrong]])) for values in (seen.a, seen.e, mismatch)
    ]
    return dict(zip(names, [*found, released(seen.a[row, true], classes)], strict=True))


def released(scores: Floats, classes: np.ndarray) -> float:
    """The mean over classes of AUROC of one class against the rest, with equally many items of each: always ½."""
    names, counts = np.unique(classes, return_counts=True)
    even = np.concatenate([np.flatnonzero(classes == name)[: counts.min()] for name in names])
    return float(np.mean([roc_auc((classes[even] == name).astype(float), scores[even]) for name in names]))


class UnderEach(NamedTuple):
    """A and E of N items under each of K conditions."""

    a: Floats  # (N, K) ‖x − x̂‖₂ on scaled values
    e: Floats  # (N, K) negative ELBO in nats
    log_weight: Floats  # (K,) log of the conditions' shares
    labels: list[str]


@torch.no_grad()
def under_each(pipeline: Pipeline, items: Items) -> UnderEach:
    """A from the posterior mean, and E by the score `elbo`'s defaults, of items under every known condition."""
    model, count = pipeline.model.eval(), len(pipeline.schema.cells)
    assert isinstance(model, ConditionalVAE)
    expanded = pipeline.schema.expand({}, len(items), unknown="infer")
    score, reader, a, e = Elbo().build(), Reader(pipeline, items, expanded), [], []
    state = score.fit(model, ())
    for rows in reader:
        made = model.likelihood.mean(model.decode(model.encode(rows.x, rows.c).mean, rows.c))
        a.append(item_sum((rows.x - made).square()).sqrt().double().numpy())
        e.append(score.score(model, state, rows.x, rows.c, rows.stratum).values.double().numpy())
    refuse_unread(items, reader.errors)
    shape = (len(items), count)
    labels = [str(name).partition("=")[2] for name in expanded.label[:count]]  # "class=7"
    return UnderEach(
        np.concatenate(a).reshape(shape), np.concatenate(e).reshape(shape), expanded.log_weight[:count], labels
    )


def other_set(detector: Detector, parts: CellImages) -> float | None:
    """AUROC of 1,000 normal test images against 1,000 of another data set, by the configured score, class inferred.

    The other one is Fashion-MNIST for MNIST, and MNIST for all others. None where it is not there, or its
    images have another size and the model takes only one.
    """
    try:
        other = runner.open_whole(OTHER.get(parts.test.name, "mnist"), download=False)
    except DataError:
        return None
    normal = parts.test[np.flatnonzero(parts.test.labels == 0)[:MOST]]
    strange = other.replace(conditions={}, splits=None)[np.arange(min(MOST, len(other)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BatchWarning)  # it is right: the images are of another set
        try:
            found = [detector.detect(some, unknown="infer") for some in (normal, strange)]
        except DataError:  # of another size
            return None
    scores = [table["anomaly_score"].to_numpy(float) for table in found]
    return roc_auc(np.repeat([0.0, 1.0], [len(some) for some in scores]), np.concatenate(scores))
