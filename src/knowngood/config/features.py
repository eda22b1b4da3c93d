"""Frozen backbones and the grid of features that they make of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from knowngood.config.base import Options, named


class FeatureGrid(Options):
    """What a frozen backbone makes of an image, on a grid of cells."""

    average: PositiveInt = Field(3, description="side of the square that features are averaged over; odd")
    stride: PositiveInt = Field(12, description="side of a grid cell in pixels of the resized image")
    shrink: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of all places' covariance in that of one; default by the number of images",
    )
    context: int = Field(
        16,
        ge=0,
        description="numbers that say how an image as a whole differs, given which a place is judged; 0 for none",
    )
    smoothing: float = Field(0.5, ge=0, description="σ of the Gaussian over the anomaly map, in cells")
    levels: Literal["auto", "on", "off"] = Field(
        "auto", description="an image's score: see a place against what good images score there; auto: chosen"
    )
    whole: bool = Field(True, description="an image's score: count too how unusual it is as a whole, on a coarse grid")
    pooling: Literal["auto", "max", "top", "soft"] = Field(
        "auto",
        description="an image's score from its map: the largest, the mean of the top 2 %, a soft maximum",
    )
    few: Literal["refuse", "pool"] = Field(
        "refuse",
        description="conditions with fewer than 8 good images: refuse by name, or give them what all have",
    )

    @model_validator(mode="after")
    def _average_has_a_centre(self) -> FeatureGrid:
        if self.average % 2 == 0:
            raise ValueError(f"features: average = {self.average} has no centre; give an odd number")
        return self


class LiteGrid(FeatureGrid):
    implementation = "knowngood.representations.backbones.weights:load_lite"
    blocks: tuple[int, ...] = Field((3, 6, 14), description="blocks whose outputs are taken, counted from 0")
    weights: Path | None = Field(None, description="file of the published weights; default: looked for")


class EfficientNetLite0(LiteGrid):
    """EfficientNet-Lite0 trained on ImageNet, 16 blocks: by default those at strides 4, 8 and 16, 176 features."""

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    blocks: tuple[int, ...] = Field((2, 4, 10), description="blocks whose outputs are taken, counted from 0")


class EfficientNetLite1(LiteGrid):
    """EfficientNet-Lite1 trained on ImageNet, 21 blocks: by default those at strides 4, 8 and 16, 176 features."""

    name: Literal["efficientnet_lite1"] = "efficientnet_lite1"


class EfficientNetLite2(LiteGrid):
    """EfficientNet-Lite2 trained on ImageNet, 21 blocks: by default those at strides 4, 8 and 16, 192 features."""

    name: Literal["efficientnet_lite2"] = "efficientnet_lite2"


class OwnBackbone(FeatureGrid):
    """A `Backbone` object of your own, which is given beside the settings."""

    implementation = "knowngood.representations.backbones.weights:own_is_missing"
    name: Literal["own"] = "own"


FeatureOptions = Annotated[
    Annotated[
        EfficientNetLite0 | EfficientNetLite1 | EfficientNetLite2 | OwnBackbone,
        Field(discriminator="name"),
    ],
    BeforeValidator(named),
]
