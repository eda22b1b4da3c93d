"""What the models see of an item: the representations by name, and the frozen backbones of `features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from knowngood.config.base import Family, Options

Size = tuple[PositiveInt, PositiveInt] | PositiveInt


class ImageOptions(Options):
    """How images are prepared before anything else."""

    image_size: Size | None = Field(
        default=None, description="resize to (height, width) or to a square; default: as they are, if all agree"
    )
    crop: Size | None = Field(default=None, description="centre crop after the resize")
    pad: Size | None = Field(default=None, description="pad to this size with zeros, last")
    grey: bool = Field(default=False, description="convert colour to luminance (ITU-R BT.601)")
    colour: bool = Field(default=False, description="make three equal channels of grey images")
    scaling: Literal["auto", "dtype", "data"] | tuple[float, float] = Field(
        default="auto",
        description="raw values that become 0 and 1: the range of the bit depth, of the data, or two numbers",
    )


class PixelOptions(ImageOptions):
    """The pixels themselves, scaled to 0…1."""

    implementation = "knowngood.representations.pixels:Pixels"
    name: Literal["pixels"] = "pixels"
    illumination: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share by which the illumination may change, .3 for ± 30 %: the model is trained with it, and "
        "scores are standardised given the brightness",
    )


class HOGOptions(ImageOptions):
    """Histograms of oriented gradients: 8 orientations in 7 × 7 cells. Invariant to brightness and contrast."""

    implementation = "knowngood.representations.hog:HOG"
    name: Literal["hog"] = "hog"


class BackboneOptions(Options):
    """A frozen network whose feature maps are used."""


class LiteOptions(BackboneOptions):
    implementation = "knowngood.representations.backbones.efficientnet_lite:load_lite"
    blocks: tuple[int, ...] = Field(default=(3, 6, 14), description="blocks whose outputs are used, counted from 0")
    weights: Path | None = Field(default=None, description="file of published weights; default: as installed")


class EfficientNetLite0(LiteOptions):
    """EfficientNet-Lite0 trained on ImageNet, 16 blocks: by default those at strides 4, 8 and 16, 176 features."""

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    blocks: tuple[int, ...] = Field(default=(2, 4, 10), description="blocks whose outputs are used, counted from 0")


class EfficientNetLite1(LiteOptions):
    """EfficientNet-Lite1 trained on ImageNet, 21 blocks: by default those at strides 4, 8 and 16, 176 features."""

    name: Literal["efficientnet_lite1"] = "efficientnet_lite1"


class EfficientNetLite2(LiteOptions):
    """EfficientNet-Lite2 trained on ImageNet, 21 blocks: by default those at strides 4, 8 and 16, 192 features."""

    name: Literal["efficientnet_lite2"] = "efficientnet_lite2"


class OwnBackbone(BackboneOptions):
    """A `Backbone` object of your own, passed to `fit` and `load`."""

    implementation = "knowngood.representations.backbones.efficientnet_lite:own_is_missing"
    name: Literal["own"] = "own"


BackboneChoice = Annotated[
    BackboneOptions, Family("backbones", EfficientNetLite0, EfficientNetLite1, EfficientNetLite2, OwnBackbone)
]


class FeatureOptions(ImageOptions):
    """Feature maps of a frozen backbone, on a grid of locations. Images without an image_size become 384 × 384."""

    implementation = "knowngood.representations.features:Features"
    name: Literal["features"] = "features"
    backbone: BackboneChoice = Field(default=EfficientNetLite0(), description="the frozen network")
    average: PositiveInt = Field(default=3, description="side of the square over which features are averaged; odd")
    stride: PositiveInt = Field(default=12, description="distance of two locations, in pixels of the resized image")
    align: Literal["none", "shift", "rigid", "affine"] = Field(
        default="none",
        description="move each image to the position of the mean normal image of its kind; rigid also rotates it, "
        "affine also scales and shears it, all within small limits",
    )
    illumination: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share by which the illumination may change, .3 for ± 30 %; it is undone before the backbone",
    )

    @model_validator(mode="after")
    def _average_has_a_centre(self) -> FeatureOptions:
        if self.average % 2 == 0:
            raise ValueError(f"features: average = {self.average} has no centre; give an odd number")
        return self


class TableOptions(Options):
    """Rows of a table, each column standardised."""

    implementation = "knowngood.representations.table:Table"
    name: Literal["table"] = "table"


RepresentationOptions = Annotated[
    PixelOptions | HOGOptions | FeatureOptions | TableOptions,
    Family("representations", PixelOptions, HOGOptions, FeatureOptions, TableOptions),
]
