"""What labelled anomalies cost, on top of any objective."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from knowngood.config.base import Options, named


class LabelledTerm(Options):
    """What labelled anomalies cost, on top of any objective."""

    implementation = "knowngood.models.objectives.labelled:Labelled"
    weight: float = Field(1.0, ge=0, description="beside the loss of good items")
    warmup: float = Field(0.25, ge=0, lt=1, description="share of all steps on good items only")


class Hinge(LabelledTerm):
    """Labelled anomalies cost max(0, margin − e), e their distance from the good items' mean score in its spread."""

    name: Literal["hinge"] = "hinge"
    margin: float = Field(10.0, gt=0, description="standard deviations above the good items' mean that are enough")


class Reciprocal(LabelledTerm):
    """Labelled anomalies cost 1 / (log(1 + exp(e)) + floor), e as for the hinge: bounded, and never quite 0."""

    name: Literal["reciprocal"] = "reciprocal"
    floor: float = Field(0.1, gt=0, description="bounds the cost of an anomaly that does not stand out at all")


class Shift(LabelledTerm):
    """Labelled anomalies have the prior N(shift·1, I), and the decoder does not learn from them (DAn-VAE)."""

    name: Literal["shift"] = "shift"
    shift: float = Field(10.0, gt=0, description="mean of their prior, on every dimension")


LabelledOptions = Annotated[Annotated[Hinge | Reciprocal | Shift, Field(discriminator="name")], BeforeValidator(named)]
