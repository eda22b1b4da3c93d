"""Any score, averaged over the members of an ensemble."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult


class EnsembleScore(Score):
    """M⁻¹ Σ_m S_m(x): the mean of a score S over the members of an ensemble, of its parts and of its map likewise.

    Each member has its own state, `<m>.<name>`. Where S_m bounds −log p_m(x|c), their mean bounds −log of the mixture
    M⁻¹ Σ_m p_m(x|c) (Jensen), so a likelihood stays one.
    """

    def __init__(self, inner: Score) -> None:
        super().__init__(inner.options)
        self.inner = inner
        self.has_map, self.is_likelihood = inner.has_map, inner.is_likelihood

    def check(self, model: ConditionalVAE) -> None:
        self.inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Batches are read once for each member."""
        return _joined([self.inner.fit(member, batches) for member in model.members])

    def settle(
        self, model: ConditionalVAE, state: dict[str, Tensor], held_out: Iterable[Batch], fitted: Iterable[Batch]
    ) -> dict[str, Tensor]:
        return _joined([self.inner.settle(one, _of(state, m), held_out, fitted) for m, one in enumerate(model.members)])

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        found = [
            self.inner.score(member, _of(state, m), x, c, stratum, want_map=want_map)
            for m, member in enumerate(model.members)
        ]
        maps = [one.map for one in found if one.map is not None]
        return ScoreResult(
            torch.stack([one.values for one in found]).mean(0),
            torch.stack(maps).mean(0) if maps else None,
            {name: torch.stack([one.parts[name] for one in found]).mean(0) for name in found[0].parts},
        )


def _joined(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{m}.{name}": t for m, state in enumerate(states) for name, t in state.items()}


def _of(state: dict[str, Tensor], m: int) -> dict[str, Tensor]:
    return {name.removeprefix(f"{m}."): t for name, t in state.items() if name.startswith(f"{m}.")}
