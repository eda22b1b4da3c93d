"""How well scores tell synthetic anomalies from the good images that they were made of; the choices rest on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowngood.data.whole_image_kinds import KINDS, LEAST_SIDE, altered
from knowngood.models.objectives.base import Batch

Floats = NDArray[np.float64]

FEWEST = 30  # good images without which nothing is chosen
MOST, VALUES = 256, 1 << 24  # good images taken, and values of these at most
AT_ONCE = 128  # images
SEED = 0
SURE = 1.0  # standard errors within which two choices are equally good


@dataclass(frozen=True)
class Trial:
    """Good images the model was not fitted on, and of each an anomaly of every kind."""

    x: dict[str, Tensor]  # (n, C, H, W) by kind; "good" are the images themselves
    c: Tensor | None  # (n, W)
    stratum: Tensor  # (n,)

    @classmethod
    def of(cls, held_out: Iterable[Batch], seed: int | Sequence[int] = SEED, most: int = MOST) -> Trial | None:
        """From scaled images, at most so many spread evenly over these; None if they are fewer than 30, or a table."""
        taken = evenly(held_out, 2 * most, 2 * VALUES)
        if taken is None or len(taken.x) < FEWEST or taken.x.ndim != 4 or min(taken.x.shape[2:]) < LEAST_SIDE:
            return None
        some = max(FEWEST, min(len(taken.x), most, VALUES // taken.x[0].numel()))
        rows = torch.linspace(0, len(taken.x) - 1, some, device=taken.x.device).round().long()
        x, stratum = taken.x[rows], taken.stratum[rows]
        pixels, strata = x.cpu().numpy(), stratum.cpu().numpy()
        made = {kind: torch.from_numpy(altered(pixels, kind, seed, strata)).to(x) for kind in KINDS}
        return cls({"good": x, **made}, None if taken.c is None else taken.c[rows], stratum)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in self.x if kind != "good"]

    def __len__(self) -> int:
        return len(self.stratum)

    def values(self, score: Callable[[Tensor, Tensor | None, Tensor], Tensor]) -> dict[str, Floats]:
        """By kind the values (n, …) that `score` gives x (B, C, H, W), c (B, W) and stratum (B,): (B, …)."""
        found: dict[str, list[Tensor]] = {}
        for kind, x in self.x.items():
            for rows in torch.arange(len(x), device=x.device).split(AT_ONCE):
                some = x[rows].contiguous(memory_format=torch.channels_last)
                c = None if self.c is None else self.c[rows]
                found.setdefault(kind, []).append(score(some, c, self.stratum[rows]).cpu())
        return {kind: torch.cat(parts).double().numpy() for kind, parts in found.items()}


def evenly(batches: Iterable[Batch], most: int, values: int) -> Batch | None:
    """At most so many items and values of these, but at least 30 items if there are so many; None of none.

    They are the first of every so many, the same ones whatever the batches.
    """
    kept: list[Batch] = []
    seen, every = 0, 1
    for batch in batches:
        if not len(batch.x):
            continue
        most = max(2 * FEWEST, min(most, values // batch.x[0].numel()))
        kept.append(_thinned(batch, seen, every))
        seen += len(batch.x)
        while -(-seen // every) > most:  # twice as sparse from here on
            every, start, sparser = every * 2, 0, []
            for one in kept:
                sparser.append(_thinned(one, start, 2))
                start += len(one.x)
            kept = sparser
    if not seen:
        return None
    c = None if kept[0].c is None else torch.cat([b.c for b in kept if b.c is not None])
    x, stratum, label, index = (torch.cat([getattr(b, n) for b in kept]) for n in ("x", "stratum", "label", "index"))
    return Batch(x, c, stratum, label, index)


def _thinned(batch: Batch, first: int, every: int) -> Batch:
    """The items at multiples of `every`, the batch's own being first, first + 1, …"""
    rows = slice((-first) % every, None, every)
    c = None if batch.c is None else batch.c[rows]
    return Batch(batch.x[rows], c, batch.stratum[rows], batch.label[rows], batch.index[rows])


def placements(values: dict[str, Floats]) -> Floats:
    """(kinds, n) what each good image and its anomaly say of the AUROC of a kind; their mean is the AUROC.

    Half the share of all anomalies that score above this good image, and half the share of good images below its
    anomaly, ties half. The standard deviation of twice that over images, by √n, is the standard error of the AUROC
    (DeLong et al. 1988, of an image and its anomaly together).
    """
    good = values["good"]
    rows = []
    for kind, bad in values.items():
        if kind != "good":
            rows.append(0.5 * (_share_below(good, bad) + 1 - _share_below(bad, good)))
    return np.stack(rows)


def _share_below(reference: Floats, values: Floats) -> Floats:
    """Of the reference the share below each value, ties half."""
    ordered = np.sort(reference)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def gain(placed: Floats, other: Floats) -> tuple[float, float]:
    """How much higher the mean AUROC over kinds of `placed` (kinds, n) is than that of `other`, and its error."""
    difference = 2 * (placed - other).mean(0)  # an image counts as good and by its anomaly
    spread = float(difference.std(ddof=1)) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
    return float(difference.mean()) / 2, spread


def fitted_weights(surprises: dict[str, Floats]) -> Floats:
    """(K,) weights, not negative and of sum 1, from surprises (K, n) by kind, "good" among them.

    Of an image whose condition is not known there are surprises under each, (K, n, R), and the smallest sum counts.

    Over a coarse grid the mean AUROC over kinds is taken, and of all weights that are within one standard error of the
    best those nearest to equal ones. So few images give equal weights.
    """
    k = len(surprises["good"])
    equal = np.full(k, 1 / k)
    tried = [equal, *simplex(k, 8 if k == 2 else 4)]
    placed = [placements(fused(surprises, weights)) for weights in tried]
    best = placed[int(np.argmax([p.mean() for p in placed]))]
    differences = [gain(best, p) for p in placed]
    as_good = [i for i, (lost, error) in enumerate(differences) if lost <= SURE * error + 1e-12]
    return tried[min(as_good, key=lambda i: (round(float(np.square(tried[i] - equal).sum()), 9), -placed[i].mean()))]


def fused(surprises: dict[str, Floats], weights: Floats) -> dict[str, Floats]:
    """Weighted sums (n,) by kind of surprises (K, n), or of (K, n, R) the smallest over R."""
    sums = {kind: np.tensordot(weights, each, 1) for kind, each in surprises.items()}
    return {kind: each if each.ndim == 1 else each.min(1) for kind, each in sums.items()}


def simplex(k: int, steps: int) -> list[Floats]:
    """Every (K,) of multiples of 1/steps, not negative, of sum 1."""
    cuts = combinations_with_replacement(range(steps + 1), k - 1)
    return [np.diff([0, *cut, steps]) / steps for cut in cuts]
