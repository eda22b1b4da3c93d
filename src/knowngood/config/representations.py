"""What the models see of an item: the representations by name, and the frozen backbones of `features`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from knowngood.config.base import Family, Options, named

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


class AutoOptions(ImageOptions):
    """By the data: features of photographs, HOG of small pictures, columns of a table; it takes over these options."""

    name: Literal["auto"] = "auto"


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
    """A frozen network whose feature maps are used.

    `restore` is 'module:function' that makes it again from these options, its `description` and its tensors. Without
    one a saved model holds only its fingerprint.
    """

    restore: ClassVar[str] = ""


class LiteOptions(BackboneOptions):
    """What the EfficientNet-Lite networks have in common."""

    implementation = "knowngood.representations.backbones.efficientnet_lite:load_lite"
    restore = "knowngood.representations.backbones.efficientnet_lite:restore_lite"
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


PathText = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, Path) else value)]


class TransformersBackbone(BackboneOptions):
    """A pretrained network of Hugging Face: DINOv2, DINOv3, ViT, DeiT, ConvNeXt or ResNet. Extra `transformers`."""

    implementation = "knowngood.representations.backbones.hugging_face:load_hugging_face"
    restore = "knowngood.representations.backbones.hugging_face:restore_hugging_face"
    name: Literal["transformers"] = "transformers"
    source: PathText = Field(
        description="folder of the network (config.json, model.safetensors), or its name on the hub, owner/name"
    )
    layers: tuple[PositiveInt, ...] | None = Field(
        default=None,
        description="blocks or stages whose outputs are used, counted from 1; default: stages 1 to 3, of a transformer "
        "the blocks at a third, half and two thirds of its depth",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")


class ONNXBackbone(BackboneOptions):
    """Feature maps of an ONNX file with one input (B, 3, H, W), float32 in 0…1. Extra `onnx`."""

    implementation = "knowngood.representations.backbones.onnx_graph:load_onnx"
    restore = "knowngood.representations.backbones.onnx_graph:restore_onnx"
    name: Literal["onnx"] = "onnx"
    path: PathText = Field(description="the ONNX file")
    outputs: tuple[str, ...] | None = Field(
        default=None, description="names of the outputs that are used; default: all with four dimensions"
    )
    mean: tuple[float, float, float] = Field(
        default=(0.0, 0.0, 0.0), description="of red, green and blue in 0…1, subtracted before the graph"
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        default=(1.0, 1.0, 1.0), description="by which red, green and blue are then divided"
    )


class OwnBackbone(BackboneOptions):
    """A `Backbone` object of your own, passed to `fit` and `load`."""

    implementation = "knowngood.representations.backbones.efficientnet_lite:own_is_missing"
    name: Literal["own"] = "own"


def backbone_at(value: Any) -> Any:
    """A path, or a name on the hub, as the backbone it holds: an ONNX file, or else a folder of Hugging Face."""
    if isinstance(value, Path) or (isinstance(value, str) and re.search(r"[/\\]|^[.~]|\.onnx$", value)):
        text = os.fspath(value)
        return {"name": "onnx", "path": text} if text.endswith(".onnx") else {"name": "transformers", "source": text}
    return named(value)


BackboneChoice = Annotated[
    BackboneOptions,
    Family(
        "backbones",
        EfficientNetLite0,
        EfficientNetLite1,
        EfficientNetLite2,
        TransformersBackbone,
        ONNXBackbone,
        OwnBackbone,
        before=backbone_at,
    ),
]


class FeatureOptions(ImageOptions):
    """Feature maps of a frozen backbone, on a grid of locations.

    Images without an image_size keep their aspect and about their number of pixels, from 384 × 384 to 512 × 512.
    """

    implementation = "knowngood.representations.features:Features"
    name: Literal["features"] = "features"
    backbone: BackboneChoice = Field(default=EfficientNetLite0(), description="the frozen network")
    average: PositiveInt = Field(default=3, description="side of the square over which features are averaged; odd")
    stride: PositiveInt = Field(default=12, description="distance of two locations, in pixels of the resized image")
    align: Literal["auto", "none", "pose", "shift", "rigid", "affine"] = Field(
        default="auto",
        description="pose: find the part on its plain background, and bring it to one position and direction, "
        "whatever they were; auto: pose where that makes normal images more alike, else none; shift: move each image "
        "to the position of the mean normal image of its kind; rigid also rotates it, affine also scales and shears "
        "it, all within small limits",
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
    AutoOptions | PixelOptions | HOGOptions | FeatureOptions | TableOptions,
    Family("representations", AutoOptions, PixelOptions, HOGOptions, FeatureOptions, TableOptions),
]
