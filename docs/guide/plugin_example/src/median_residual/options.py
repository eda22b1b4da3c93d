"""What a user can set. It imports no torch, for `knowngood --help` reads it."""

from typing import Literal

from pydantic import Field

from knowngood.config import ScoreOptions


class MedianResidual(ScoreOptions):
    """A quantile of |x − x̂| over the pixels of an item; .5, the median, ignores few bright residuals."""

    implementation = "median_residual.score:MedianResidualScore"
    models = ("vae",)
    name: Literal["median_residual"] = "median_residual"
    quantile: float = Field(default=0.5, gt=0, lt=1, description="of |x − x̂|; .5 is the median")
