"""Options that are no choice of a method: conditioning, calibration, data and training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from knowngood.config.base import Group
from knowngood.config.bounds import BOUNDS
from knowngood.config.roles import Role

Fraction = Annotated[float, Field(ge=0, lt=1)]


def _bound(name: str) -> Any:
    return Field(default=BOUNDS[name].default, description=BOUNDS[name].description)


def _regions(value: Any) -> Any:
    """Regions to ignore as plain data: a file, polygons, or those by the value of a condition."""
    if isinstance(value, str | Path) or value is None:
        return value
    if isinstance(value, Mapping) and not (set(map(str, value)) <= {"polygons", "size"} and "polygons" in value):
        return {str(key): _regions(one) for key, one in value.items()}
    if isinstance(value, Mapping):
        return {**value, "polygons": _polygons(value["polygons"])}
    return _polygons(value)


def _polygons(value: Any) -> list[list[tuple[float, float]]]:
    if hasattr(value, "shape") or not isinstance(value, list | tuple):
        raise ValueError(
            f"ignore: got a {type(value).__name__}; expected a file (a mask image, JSON or YAML), polygons as lists of "
            "points [x, y], or a mapping from the values of a condition to these. Save a mask as an image file."
        )
    return [_points(one) for one in value]


def _points(polygon: Any) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in polygon]
    except (TypeError, ValueError):
        raise ValueError(f"ignore: {polygon!s:.60} is no polygon; expected a list of points [x, y]") from None


Polygon = tuple[tuple[float, float], ...]
IgnoredRegions = Annotated[Path | tuple[Polygon, ...] | dict[str, Any] | None, BeforeValidator(_regions)]


def _names(value: Any) -> Any:
    """One name as the tuple of it; "none" as no name."""
    if isinstance(value, str):
        return () if value in ("none", "") else (value,)
    return value


def _none(value: Any) -> Any:
    return "none" if value is None else value


class Conditioning(Group):
    """How conditions are used: the columns themselves come with the data."""

    roles: dict[str, Annotated[tuple[Role, ...], BeforeValidator(_names)]] | None = Field(
        default=None, description="what each condition column is used for; default all roles of all columns"
    )
    measure: tuple[Literal["brightness", "contrast", "sharpness", "rotation"], ...] = Field(
        default=(), description="image factors measured on every image and added to its conditions"
    )
    group: str | None = Field(
        default="group",
        description="column of what belongs together, such as the physical part or the patient: it stays in one part "
        "of every split and is no condition; null: such a column is a condition",
    )
    unknown: Literal["error", "infer"] = Field(default="error", description="a missing or new value when scoring")
    marginalise: Literal["auto", "soft", "hard"] = Field(
        default="auto",
        description="unknown conditions: soft averages the likelihood over them (needs unknown=infer at the fit), "
        "hard takes the condition that explains best",
    )
    check: Literal["auto"] | Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(),
        description="conditions whose stated values are checked against the image, by column; auto: all that the model "
        "can compare; none: a stated value is taken as true",
    )


class CalibrationOptions(Group):
    """From which normal images p-values and thresholds are calibrated."""

    method: Literal["auto", "split", "cross"] = Field(
        default="auto",
        description="split: images set aside calibrate, an exact guarantee; cross: K folds, each scored by a model "
        "refitted without it; auto: cross for models that refit in seconds, else split",
    )
    fraction: Fraction = Field(default=0.2, description="split: share of the normal images that only calibrate")
    folds: int = Field(default=5, ge=2, description="cross: K")
    select_fraction: Fraction = Field(
        default=0.1,
        description="share of the normal images for early stopping and for what is fitted on held-out normals",
    )

    @model_validator(mode="after")
    def _splits_leave_something(self) -> CalibrationOptions:
        if self.select_fraction + self.fraction >= 1:
            raise ValueError(
                f"calibration: select_fraction + fraction = {self.select_fraction + self.fraction:g} leaves nothing to "
                "fit on; their sum must be below 1"
            )
        return self


class DataOptions(Group):
    """What of the data counts, and how much of it may be unusable."""

    ignore: IgnoredRegions = Field(
        default=None,
        description="regions of images that are ignored: a mask image (white is ignored), polygons or a file of them, "
        "or these by the value of a condition",
    )
    tile: Annotated[Literal["auto", "none"] | PositiveInt, BeforeValidator(_none)] = Field(
        default="auto",
        description="side, in pixels of the original image, of the tiles that features of large images are computed "
        "in, at full resolution; auto: 960 for photographs above tile_above, none: every image is seen as a whole",
    )
    tile_above: PositiveInt = Field(
        default=1500, description="tile = auto: pixels of the longer side above which images are cut into tiles"
    )
    tile_overlap: float = Field(default=0.1, ge=0, le=0.5, description="share of a side by which tiles overlap")
    tolerance: float | None = Field(
        default=None, ge=0, le=1, description="share of unreadable files to set aside; default .01, 0 when strict"
    )
    strict: bool = Field(default=False, description="any unreadable file stops the run")
    max_pixels: PositiveInt = _bound("max_pixels")
    max_pages: PositiveInt = _bound("max_pages")
    max_unpacked_gb: PositiveFloat = _bound("max_unpacked_gb")
    cache_gb: float = Field(
        default=10.0,
        ge=0,
        description="fit on an object store, tar shards or parquet: size of the copies that are kept in a temporary "
        "folder, as images are read several times; what is beyond is fetched again",
    )


# As good as 4,000 steps of 128 at 0.001, in a fifth of the time. With a decay of .999 of the mean square, nets of
# 64 × 64 pixels diverge at this learning rate: gradients fall by orders of magnitude in the first hundred steps.
ON_PIXELS = {"batch_size": 32, "lr": 2e-3, "beta2": 0.99, "ema": 0.995}


class TrainingOptions(Group):
    """How networks are trained. Models without a network ignore these."""

    epochs: PositiveInt | None = Field(
        default=None,
        description="default: about 4,000 steps, within 10 and 300 epochs; 1,300 on pixels, 1,000 steps on HOG",
    )
    batch_size: PositiveInt = Field(default=128, description="items a step and process; of pixels the default is 32")
    lr: PositiveFloat = Field(default=1e-3, description="learning rate of the model; of pixels the default is 0.002")
    beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Adam's decay of the mean square of the model's gradients; of pixels the default is 0.99",
    )
    lr_secondary: PositiveFloat | None = Field(default=None, description="learning rate of other players; default lr")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of AdamW")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of steps in which the rate rises from 0")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="the learning rate after the warm-up")
    ema: float | None = Field(
        default=0.999,
        gt=0,
        lt=1,
        description="decay of the averaged weights kept; null: off; of pixels the default is 0.995",
    )
    clip: float | None = Field(default=100.0, gt=0, description="largest gradient norm; null: off")
    patience: PositiveInt | None = Field(
        default=10,
        description="early stopping: evaluations without improvement, of about 50 on held-out normals; null: train to "
        "the end and keep the last weights",
    )
    devices: PositiveInt = Field(
        default=1, description="processes of a machine, one a device; their gradients are averaged"
    )
    nodes: PositiveInt = Field(default=1, description="machines, as torchrun or SLURM start them; devices on each")
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware has matrix units for it"
    )
    compile: bool = Field(
        default=False, description="torch.compile the nets; needs a C++ compiler, pays off for large nets"
    )
    memory_gb: PositiveFloat = Field(
        default=4.0, description="prepared images up to this size are held in memory, larger sets stream"
    )
    workers: int = Field(default=2, ge=0, description="processes that read images when streaming")
