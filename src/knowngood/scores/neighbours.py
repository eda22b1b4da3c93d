"""Distance to the nearest normal items: among codes, residuals, HOG or the items themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.base import Model
from knowngood.models.distributions import wide
from knowngood.models.memory_bank import FEWEST, MemoryBank, keep, nearest_in_stratum
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State
from knowngood.scores.codes import Of, check_codes, codes

SHORTEST = 1e-12
SAME = 1e-5  # relative distance up to which codes are of one item: nets round to it


class NeighboursScore(Score):
    """k⁻¹ Σ ‖v(x) − v_i‖₂ over the k codes v_i of normal items nearest to v(x), of those in the stratum of x. No map.

    v is the posterior mean μ(x, c) (`latent`), the item itself (`items`), x − x̂ with x̂ the mean of p(x|z,c) at μ
    (`residual`), or the HOG of an image (`hog`); with `cosine` all are brought to length 1. Strata with fewer than
    max(10, k) codes, and stratum −1, search the codes of all.

    The items of a memory bank are searched in the bank, anything else in codes of the score's own, of many items a
    coreset.
    """

    def of(self, model: Model) -> Of:
        """What items are compared by; "auto" is the items of a memory bank, the posterior means of a VAE."""
        if self.options.of == "auto":
            return "items" if isinstance(model, MemoryBank) else "latent"
        return self.options.of

    def check(self, model: Model) -> None:
        check_codes(model, self.of(model), self.options.name)

    def codes(self, model: Model, x: Tensor, c: Condition) -> Tensor:
        """v of items x (B, *shape): (B, V)."""
        return self.scaled(codes(model, x, c, self.of(model)))

    @torch.no_grad()
    def fit(self, model: Model, batches: Batches) -> State:
        """{"codes": (M, V) float32, "code_stratum": (M,) int64}, on the CPU; nothing where the model has the items."""
        if isinstance(model, MemoryBank) and self.of(model) == "items":
            return {}
        rows = ((self.codes(model, batch.x, batch.c), batch.stratum) for batch in batches)
        kept, strata = keep(rows, self.options.coreset, max(FEWEST, self.options.k))
        return {"codes": kept, "code_stratum": strata}

    def score(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        bank, of = self.bank(model, state)
        distances = nearest_in_stratum(wide(self.codes(model, x, c)), stratum, bank, of, self.options.k)
        return ScoreResult(distances.mean(1), None, {})

    def leave_one_out(self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor) -> Tensor:
        """Scores by the other codes: at a distance of 0, but for rounding, lies the item itself, where it was kept."""
        bank, of = self.bank(model, state)
        codes = wide(self.codes(model, x, c))
        distances = nearest_in_stratum(codes, stratum, bank, of, self.options.k, besides=1)
        if distances.shape[1] == 1:  # there is no other one
            return distances[:, 0]
        itself = distances[:, :1] <= SAME * codes.norm(dim=1, keepdim=True)
        return torch.where(itself, distances[:, 1:], distances[:, :-1]).mean(1)

    def bank(self, model: Model, state: State) -> tuple[Tensor, Tensor]:
        """The codes (M, V) that are searched, and their strata (M,)."""
        if isinstance(model, MemoryBank) and self.of(model) == "items":
            return self.scaled(model.bank), model.stratum
        return state["codes"], state["code_stratum"]

    def scaled(self, v: Tensor) -> Tensor:
        """Vectors (N, V) as they are compared: of length 1 with `cosine`."""
        return v / v.norm(dim=1, keepdim=True).clamp_min(SHORTEST) if self.options.cosine else v
