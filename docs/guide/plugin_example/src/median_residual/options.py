"""What a user can set. It imports no torch, for `knowngood --help` reads it."""

from typing import Literal

from pydantic import Field

from knowngood.config import Options, ScoreOptions


class MedianResidual(ScoreOptions):
    """A quantile of |x − x̂| over the pixels of an item; .5, the median, ignores few bright residuals."""

    implementation = "median_residual.score:MedianResidualScore"
    models = ("vae",)
    name: Literal["median_residual"] = "median_residual"
    quantile: float = Field(default=0.5, gt=0, lt=1, description="of |x − x̂|; .5 is the median")


class Annealed(Options):
    """A VAE whose KL term grows from 0 to its full weight (Bowman et al. 2016, arXiv:1511.06349)."""

    implementation = "median_residual.objective:AnnealedObjective"
    name: Literal["annealed"] = "annealed"
    share: float = Field(default=0.5, gt=0, le=1, description="of all steps, in which the weight of the KL grows to 1")
