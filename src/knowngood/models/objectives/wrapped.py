"""An objective on top of another one."""

from __future__ import annotations

from torch import Tensor, nn

from knowngood.models.objectives.base import Batch, Context, Objective
from knowngood.models.vae import ConditionalVAE

SAME = (
    *("conditional", "prior", "stratified", "second_batch", "nuisance_dim"),
    *("factors", "factor_width", "labelled_share", "scoring", "anomaly_term"),
)


class Wrapped(Objective):
    """All that `base` is but its `loss`, to which subclasses add."""

    def __init__(self, base: Objective) -> None:
        super().__init__()
        self.base = base
        for name in SAME:
            setattr(self, name, getattr(base, name))

    @property
    def shift(self) -> float:  # type: ignore[override]
        """Where `anomaly_loss` of the objective within wants labelled anomalies."""
        return self.base.shift

    @shift.setter
    def shift(self, value: float) -> None:
        self.base.shift = value

    def prepare(self, model: ConditionalVAE) -> None:
        self.base.prepare(model)

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        return self.base.players(model)

    def betas(self, player: str) -> tuple[float, float]:
        return self.base.betas(player)

    def surprise(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Tensor:
        return self.base.surprise(model, batch, ctx)

    def surprise_of(self, terms: dict[str, Tensor]) -> Tensor:
        return self.base.surprise_of(terms)

    def anomaly_loss(self, model: ConditionalVAE, anomalies: Batch, ctx: Context) -> Tensor:
        return self.base.anomaly_loss(model, anomalies, ctx)

    def kept_state(self) -> dict[str, Tensor]:
        return self.base.kept_state()
