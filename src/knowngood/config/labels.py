"""What labelled anomalies are used for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from knowngood.config.base import Options


class Shift(Options):
    """DAn-VAE: labelled anomalies get the prior N(shift·1, I) in training; the decoder does not learn from them."""

    implementation = "knowngood.models.objectives.penalties:Labelled"
    name: Literal["shift"] = "shift"
    weight: float = Field(default=1.0, ge=0, description="beside the loss of normal items")
    warmup: float = Field(default=0.25, ge=0, lt=1, description="share of all steps on normal items only")
    shift: float = Field(default=10.0, gt=0, description="mean of their prior, in every dimension")
