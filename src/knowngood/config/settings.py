"""All that shapes a fit, in one flat model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from knowngood.config.areas import Ignored
from knowngood.config.features import FeatureOptions
from knowngood.config.labelled import LabelledOptions
from knowngood.config.nets import LikelihoodOptions, NetOptions
from knowngood.config.objectives import CVAE, ObjectiveOptions
from knowngood.config.scores import ScoreOptions

Role = Literal["model", "stratify", "infer"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
View = Literal["flip", "rotate", "shift"]


class Settings(BaseModel):
    """All that shapes a fit. `Detector(...)` takes the same names with the same defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: ObjectiveOptions = Field(CVAE(), description="what is minimised")
    labelled: Literal["auto", "ignore"] | LabelledOptions = Field(
        "auto",
        description="how labelled anomalies teach; auto: as the objective is defined, else they raise the score of "
        "what looks like them, where held-out ones gain by it and others hardly lose; ignore: they are kept out",
    )
    net: Literal["auto"] | NetOptions = Field("auto", description="auto: conv for images, mlp for tables")
    latent_dim: PositiveInt | None = Field(None, description="dimensions of z; default 32 for images, fewer for tables")
    likelihood: Literal["auto"] | LikelihoodOptions = Field("auto", description="auto: Gaussian with learned scalar σ")
    prior: Literal["auto", "standard", "learned", "separated"] = Field(
        "auto", description="r(z|c); auto: what the objective is defined with; separated: far apart for each condition"
    )
    separation: PositiveFloat = Field(
        40.0, description="distance of the separated priors of two conditions, in standard deviations"
    )
    class_aware: float = Field(
        0.0, ge=0, description="weight of −log p(c|z) by the priors of the conditions: the latent is to tell them apart"
    )

    augment_condition: tuple[View, ...] = Field(
        (),
        description="views of each image that are conditions by themselves, all combinations: mirrored left to right; "
        "in quarter turns (half turns where it is not square); shifted by a quarter of the side",
    )

    image_size: tuple[PositiveInt, PositiveInt] | PositiveInt | None = Field(
        None, description="resize to (height, width) or to a square; default: as they are, if all agree"
    )
    crop: tuple[PositiveInt, PositiveInt] | PositiveInt | None = Field(None, description="centre crop after the resize")
    pad: tuple[PositiveInt, PositiveInt] | PositiveInt | None = Field(
        None, description="pad to this size with zeros, last"
    )
    grey: bool = Field(False, description="turn colour into luminance (ITU-R 601)")
    scaling: Literal["auto", "dtype", "data"] | tuple[float, float] = Field(
        "auto", description="raw values that become 0 and 1: the bit depth's range, the data's, or two numbers"
    )
    representation: Literal["pixels", "oriented_gradients"] = Field(
        "pixels",
        description="what of an image is modelled: its pixels, or its edges by place and direction, which neither "
        "brightness nor contrast changes",
    )
    features: Literal["none"] | FeatureOptions = Field(
        "none", description="frozen backbone whose features of every place are modelled, instead of pixels"
    )

    ignore: Ignored = Field(
        None,
        description="regions of images that do not count: a mask image (white is ignored), polygons or a file of them, "
        "or these by the value of a condition",
    )
    tile: PositiveInt | None = Field(
        None,
        description="side, in pixels of the original image, of the tiles that large images are cut into; each is seen "
        "at image_size",
    )
    tile_overlap: float = Field(0.25, ge=0, le=0.5, description="share of its side that a tile overlaps the next by")

    align: Literal["none", "shift", "rigid", "affine"] = Field(
        "none",
        description="with features: move each image to where the mean good image of its kind shows the same; rigid "
        "also turns it, affine also scales and shears it, all a little",
    )

    roles: dict[str, tuple[Role, ...]] | None = Field(
        None, description="what each condition column is used for; default all roles"
    )
    measure: tuple[Literal["brightness", "contrast", "sharpness", "rotation"], ...] = Field(
        (), description="nuisance factors measured on every image and added to its conditions"
    )
    unknown: Literal["error", "infer"] = Field("error", description="a missing or new condition value at scoring time")
    marginalise: Literal["auto", "soft", "hard"] = Field(
        "auto",
        description="unknown conditions: soft averages over them (likelihood scores, fitted with unknown=infer), "
        "hard takes the one that explains best",
    )

    epochs: PositiveInt | None = Field(
        None,
        description="default: about 4,000 steps, within 10 and 300 epochs; with features about 1,500, of edges 1,000",
    )
    batch_size: PositiveInt = Field(128, description="items a step and process; with features 4 times as many patches")
    lr: PositiveFloat = Field(1e-3, description="learning rate of the model")
    lr_secondary: PositiveFloat | None = Field(None, description="learning rate of every other player; default lr")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of steps over which the rate rises from 0")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the rate after the warm-up")
    ema: float | None = Field(0.999, gt=0, lt=1, description="decay of the averaged weights that are kept; null: off")
    clip: float | None = Field(100.0, gt=0, description="largest gradient norm; null: off")
    patience: PositiveInt | None = Field(
        10,
        description="stop after so many of about 50 evaluations on held-out normals without gain, and keep the best "
        "weights; null: train to the end and keep the last",
    )
    device: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="where to train; auto: a GPU if there is one"
    )
    devices: PositiveInt = Field(1, description="processes, one a device; their gradients are averaged")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware has matrix units for it"
    )
    compile: bool = Field(False, description="torch.compile the nets; needs a C++ compiler, pays on large nets")
    memory_gb: PositiveFloat = Field(
        4.0, description="prepared images up to this size are held in memory, larger sets stream"
    )
    workers: int = Field(2, ge=0, description="processes that read images when streaming")

    light_tolerance: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share by which the light may change, .3 for ± 30 %: scores are standardised by what good images "
        "of the same brightness score; with features the change is undone before them",
    )
    scoring: Literal["auto", "choose"] | ScoreOptions = Field(
        "auto",
        description="how odd an image is; a list of scores is their fusion; auto: elbo, of images of at least 8 pixels "
        "a side fused with the nearest good images by their edges, or what the objective is defined with; choose: what "
        "best tells synthetic anomalies of held-out normals (with features as auto)",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="false-alarm rate that `predict` and verdicts use")
    select_fraction: Fraction = Field(0.1, description="share of normals for evaluation, early stopping and choices")
    calibrate_fraction: Fraction = Field(0.2, description="share of normals that only calibrate")
    calibrate_by: Literal["auto", "split", "left_out"] = Field(
        "auto",
        description="split: images set aside calibrate, an exact promise; left_out: all learn, each calibrates as if "
        "it had been left out (features, scored by the Gaussian of the place); auto: left_out where it can be",
    )

    tolerance: float | None = Field(
        None, ge=0, le=1, description="share of unreadable files to set aside; default .01, 0 when strict"
    )
    strict: bool = Field(False, description="any unreadable file stops the run")
    ensemble: PositiveInt = Field(
        1, description="models fitted to the same items from different seeds; a score is the mean of theirs"
    )
    random_state: int | None = Field(0, description="seed of the split, the weights and every draw")

    @model_validator(mode="after")
    def _splits_leave_something(self) -> Settings:
        if self.select_fraction + self.calibrate_fraction >= 1:
            raise ValueError(
                f"select_fraction + calibrate_fraction = {self.select_fraction + self.calibrate_fraction:g} "
                "leaves nothing to fit on; their sum must be below 1"
            )
        return self
