"""What a report shows of the model itself: codes, what its dimensions carry, draws from its prior, reconstructions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from knowngood.evaluation.drawing.subject import Conditions, Subject, spread
from knowngood.evaluation.report.inputs import Inside
from knowngood.representations import Pixels

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.rows import Unknown

CODED = (700, 300)  # normal and anomalous images in the plane of codes, at most
SHOWN = 5  # normal and as many anomalous images beside their reconstructions
DRAWS, FEW_DRAWS, MANY = 8, 5, 16  # from the prior, a condition; fewer of more than so many conditions
CONDITIONS = 64  # with draws
PIXELS = 300_000  # of all draws together: larger ones are reduced
TILE = 96  # pixels of a reconstruction's longer side


def inside(detector: Detector, images: ImageSet, readable: np.ndarray, unknown: Unknown | None = None) -> Inside:
    """Arrays for the report's section on the model.

    Args:
        images: as the detector is shown them.
        readable: (R,) rows of the images that can be read, at least one.
    """
    subject = Subject({"model": detector}, images, unknown=unknown)
    kinds = [readable[images.labels[readable] != 1], readable[images.labels[readable] == 1]]
    coded = np.concatenate([of[spread(len(of), most)] for of, most in zip(kinds, CODED, strict=True)])
    codes = subject.codes(images[coded])
    good = images.labels[coded] != 1
    known = _limited(subject.conditions())
    found = Inside(
        codes=codes.mean,
        coded=coded,
        kl=codes.kl[good if good.any() else slice(None)].mean(0, dtype=float),
        relevance=subject.relevance(),
        conditional=known.names is not None,
    )
    if not isinstance(detector.pipeline_.representation, Pixels):
        return found
    few = np.concatenate([of[spread(len(of), SHOWN)] for of in kinds])
    inputs, made = subject.reconstructed(images[few])
    return replace(
        found,
        shown=few,
        inputs=reduced(inputs, TILE),
        reconstructed=made._replace(images=reduced(made.images, TILE)),
        draws=_draws(subject, known),
        draw_names=known.names or [""] * 2,
        draw_what=known.what,
    )


def _limited(known: Conditions) -> Conditions:
    if known.names is None or known.c is None or len(known.names) <= CONDITIONS:
        return known
    kept = spread(len(known.names), CONDITIONS)
    return known._replace(names=[known.names[i] for i in kept], c=known.c[kept])


def _draws(subject: Subject, known: Conditions, seed: int = 0) -> np.ndarray:
    """(K, S, H, W, C), the same noise under every condition; two rows of an unconditional model."""
    mean, deviation = subject.prior(known)
    rows = 2 if known.names is None else 1
    draws = DRAWS if len(mean) <= MANY else FEW_DRAWS
    noise = np.random.default_rng(seed).standard_normal((rows, draws, mean.shape[1]))
    z = mean[:, None] + deviation[:, None] * noise
    images = subject.decoded(z, None if known.c is None else known.c[:, None])
    side = int(np.sqrt(PIXELS / (images.shape[0] * images.shape[1])))
    return reduced(images, side)


def reduced(images: np.ndarray, most: int) -> np.ndarray:
    """(..., H, W, C) images whose longer side has at most `most` pixels, by means over areas."""
    height, width = images.shape[-3:-1]
    if max(height, width) <= most:
        return images
    size = [max(1, round(side * most / max(height, width))) for side in (height, width)]
    flat = torch.from_numpy(np.moveaxis(images.reshape(-1, *images.shape[-3:]), -1, 1).astype(np.float32))
    small = np.moveaxis(interpolate(flat, size=size, mode="area").numpy(), 1, -1)
    return small.reshape(*images.shape[:-3], *small.shape[1:])
