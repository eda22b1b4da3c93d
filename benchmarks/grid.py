"""The grid of generated factors as a training source, and disentanglement metrics of the codes of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import factor_metrics as metrics
from benchmarks.generated_factors import CATEGORICAL, sample_groups, sample_rows
from knowngood.data.datasets.factors import FACTORS, factor_codes, render
from knowngood.data.datasets.sprites import SHAPES
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.training.source import Facts

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

WITHIN, ALL = "within shape", "all factors"
IN_GROUP = 64  # images that share a factor, for the FactorVAE score
ACTIVE = 0.01  # variance of the means of a dimension in use, as in the FactorVAE score


class GridSource:
    """Images of the factor set by their numbers (N,), as a `BatchSource`: drawn when a batch is made, never stored.

    The shape is the condition, one-hot, and the Mondrian group.
    """

    def __init__(self, rows: np.ndarray, size: int) -> None:
        self.rows, self.size = rows, size
        shape = factor_codes(rows)[:, 0]
        self.facts = Facts(len(rows), c=_one_hot(shape), stratum=shape, n_strata=len(SHAPES))
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> GridSource:
        moved = object.__new__(GridSource)
        moved.rows, moved.size, moved.facts, moved.device = self.rows, self.size, self.facts.to(device), device
        return moved

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        for index in rows:
            yield self.facts.batch(drawn(self.rows[index.numpy()], self.size, self.device), index.to(self.device))


def drawn(rows: np.ndarray, size: int, device: torch.device) -> Tensor:
    """Images by their numbers (B,): (B, 1, size, size), 0 to 1."""
    return torch.from_numpy(render(rows, size)).to(device).view(-1, 1, size, size).float() / 255


def encoder(model: ConditionalVAE, size: int, device: torch.device) -> Encode:
    """Numbers of images (...) → mean and standard deviation of their posteriors, each (..., D), in float32."""

    @torch.no_grad()
    def encode(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for block in np.array_split(rows.ravel(), -(-rows.size // 1024)):
            c = torch.from_numpy(_one_hot(factor_codes(block)[:, 0])).to(device)
            q = model.encode(drawn(block, size, device), c)
            found.append(torch.stack((q.mean, (0.5 * q.log_var).exp())).cpu().numpy())
        both = np.concatenate(found, axis=1).reshape(2, *rows.shape, -1)
        return both[0], both[1]

    return encode


def judge(encode: Encode, items: int, groups: int, *, conditional: bool) -> dict[str, Any]:
    """The metrics within each shape and their mean, and those over all factors unless the shape was given."""
    everything = None if conditional else metrics_of(encode, {}, items, groups)
    shapes = {name: metrics_of(encode, {"shape": [level]}, items, groups) for level, name in enumerate(SHAPES)}
    within = {name: float(np.mean([shapes[shape][name] for shape in SHAPES])) for name in shapes[SHAPES[0]]}
    return {WITHIN: within, ALL: everything, "shapes": shapes}


def metrics_of(encode: Encode, levels: Mapping[str, Sequence[int]], items: int, groups: int) -> dict[str, float]:
    """All metrics on random images of these levels, over the factors that `levels` does not name.

    Args:
        encode: see `encoder`.
        items: images for all metrics but the FactorVAE score, which also takes `groups` × 64.
    """
    rng = np.random.default_rng(0)
    free = [k for k, name in enumerate(FACTORS) if name not in levels]
    names = [FACTORS[k] for k in free]
    categorical = [place for place, k in enumerate(free) if k in CATEGORICAL]
    rows = sample_rows(items, rng, levels)
    known = factor_codes(rows)[:, free]
    z, deviation = encode(rows)
    shared = sample_groups(groups, IN_GROUP, rng, among=names, levels=levels)
    active = z.var(axis=0, ddof=1) > ACTIVE
    mig, parts = metrics.mutual_information_gap(z, known), metrics.dci(z, known, categorical=categorical)
    return {
        "factor_vae_score": metrics.factor_vae_score(encode(shared.rows)[0], shared.fixed, z).score,
        "mig": mig.score,
        **{f"mig_{name}": float(gap) for name, gap in zip(names, mig.per_factor, strict=True)},
        "sap": metrics.sap(z, known, categorical=categorical).score,
        "modularity": metrics.modularity(z[:, active], known) if active.any() else 0.0,
        "disentanglement": parts.disentanglement,
        "completeness": parts.completeness,
        "informativeness": parts.informativeness,
        "tc": metrics.gaussian_total_correlation(z + deviation * rng.standard_normal(z.shape)),
        "active": float(active.sum()),
    }


def _one_hot(shape: np.ndarray) -> np.ndarray:
    return np.eye(len(SHAPES), dtype=np.float32)[shape]
