"""Everything a user can set, once: the same models behind Python, YAML and the command line. Imports no torch.

A family of choices (objective, net, likelihood, score) is a union of small option models told apart by `name`; each
names the class that carries it out, so the union is the registry. A plain string stands for a choice with its defaults.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from knowngood.errors import SettingsError


class Options(BaseModel):
    """One choice of a family, with its own settings. `implementation` is 'module:Class', imported when needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    implementation: ClassVar[str]
    name: str

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The object this choice stands for, made from these options."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)(self, *args, **kwargs)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# Objectives ---------------------------------------------------------------------------------------------------------


class VAE(Options):
    """Variational autoencoder: −E log p(x|z) + KL. Ignores the conditions. arXiv:1312.6114."""

    implementation = "knowngood.objectives.vae:VAEObjective"
    name: Literal["vae"] = "vae"


class BetaVAE(Options):
    """rec + β·KL, or with `capacity` rec + γ·|KL − C_t|, C_t rising linearly to `capacity` nats.

    Ignores the conditions. Higgins et al. 2017; arXiv:1804.03599.
    """

    implementation = "knowngood.objectives.beta_vae:BetaVAEObjective"
    name: Literal["beta_vae"] = "beta_vae"
    beta: float = Field(4.0, ge=0, description="weight of the KL term")
    capacity: float | None = Field(
        None, ge=0, description="final capacity C in nats; replaces beta by gamma·|KL − C_t|"
    )
    gamma: float = Field(100.0, ge=0, description="weight of |KL − C_t| in the capacity form")
    capacity_share: float = Field(0.5, gt=0, le=1, description="share of all steps over which C_t rises")


class CVAE(Options):
    """Conditional VAE: −E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)). Sohn et al. 2015."""

    implementation = "knowngood.objectives.cvae:CVAEObjective"
    name: Literal["cvae"] = "cvae"


class DCVAE(Options):
    """Disentangled conditional VAE: the CVAE plus (β−1)·TC(z|c), TC estimated within strata of the conditions.

    `tc="bound"` is the published bound: a CVAE with a learned conditional prior, where β must stay 1.
    """

    implementation = "knowngood.objectives.dcvae:DCVAEObjective"
    name: Literal["dcvae"] = "dcvae"
    beta: float | None = Field(None, ge=0, description="weight of TC(z|c); default 2, or 1 with tc=bound")
    tc: Literal["explicit", "bound"] = "explicit"
    density: Literal["mss", "mws"] = Field("mss", description="estimator of the aggregate posterior")

    @model_validator(mode="after")
    def _bound_has_no_beta(self) -> DCVAE:
        if self.tc == "bound" and self.beta not in (None, 1.0):
            raise ValueError(
                f"dcvae: beta = {self.beta:g} with tc='bound', whose TC weight is 1 by derivation; "
                "leave beta out, or use tc='explicit'"
            )
        return self


class FactorVAE(Options):
    """VAE + γ·TC(z), TC by a discriminator between z and z with its dimensions permuted. arXiv:1802.05983."""

    implementation = "knowngood.objectives.factor_vae:FactorVAEObjective"
    name: Literal["factor_vae"] = "factor_vae"
    gamma: float = Field(6.4, ge=0, description="weight of TC(z)")
    discriminator_layers: PositiveInt = Field(6, description="hidden layers of the discriminator")
    discriminator_width: PositiveInt = Field(1000, description="width of the discriminator's layers")


class TCVAE(Options):
    """β-TCVAE: rec + α·I(z;n) + β·TC(z) + γ·Σ_j KL(q(z_j) ‖ r(z_j)), parts by minibatch. arXiv:1802.04942."""

    implementation = "knowngood.objectives.tc_vae:TCVAEObjective"
    name: Literal["tc_vae"] = "tc_vae"
    alpha: float = Field(1.0, ge=0, description="weight of I(z;n), what z knows of the item")
    beta: float = Field(6.0, ge=0, description="weight of TC(z)")
    gamma: float = Field(1.0, ge=0, description="weight of the dimensions' own KL")
    density: Literal["mss", "mws"] = Field("mss", description="estimator of the aggregate posterior")


class RFVAE(Options):
    """Relevance-FactorVAE: learns which dimensions matter, and leaves the others to the prior. arXiv:1902.01568.

    rec + Σ_d λ(r_d)·KL_d + γ·TC(r⊙z) + η_S·Σ_d r_d + η_H·Σ_d H(r_d), λ falling from λ_max at r = 0 to λ_min at r = 1.
    """

    implementation = "knowngood.objectives.rf_vae:RFVAEObjective"
    name: Literal["rf_vae"] = "rf_vae"
    gamma: float = Field(6.4, ge=0, description="weight of TC(r⊙z)")
    lambda_min: float = Field(0.1, ge=0, description="KL weight of a relevant dimension")
    lambda_max: float = Field(10.0, ge=0, description="KL weight of a nuisance dimension")
    eta_s: float = Field(1.0, ge=0, description="weight of the sum of relevances")
    eta_h: float = Field(100.0, ge=0, description="weight of the entropy of relevances")
    relevance_from: float = Field(0.4, ge=0, lt=1, description="share of all steps before relevances start to move")
    entropy_from: float = Field(0.7, ge=0, lt=1, description="share of all steps before eta_h starts to rise from 0")
    relevance_start: float = Field(0.9, gt=0, lt=1, description="relevance of every dimension at the start, not .5")
    discriminator_layers: PositiveInt = Field(6, description="hidden layers of the discriminator")
    discriminator_width: PositiveInt = Field(1000, description="width of the discriminator's layers")

    @model_validator(mode="after")
    def _lambda_falls(self) -> RFVAE:
        if self.lambda_min > self.lambda_max:
            raise ValueError(
                f"rf_vae: lambda_min = {self.lambda_min:g} is above lambda_max = {self.lambda_max:g}; "
                "relevant dimensions are to have the smaller weight"
            )
        return self


class DIPVAE(Options):
    """VAE + λ_od·Σ_{i≠j} C_ij² + λ_d·Σ_i (C_ii − 1)². C: covariance of μ (I), of z (II). arXiv:1711.00848."""

    implementation = "knowngood.objectives.dip_vae:DIPVAEObjective"
    name: Literal["dip_vae"] = "dip_vae"
    form: Literal["I", "II"] = Field("II", description="covariance of the posterior means (I) or of z (II)")
    lambda_od: float = Field(10.0, ge=0, description="weight of covariances between dimensions")
    lambda_d: float | None = Field(
        None, ge=0, description="weight of variances other than 1; default 10·lambda_od in form I, lambda_od in II"
    )


class InfoVAE(Options):
    """rec + (1−α)·KL + (α+λ−1)·MMD²(q(z), r(z)): information is kept, the aggregate matched. arXiv:1706.02262."""

    implementation = "knowngood.objectives.info_vae:InfoVAEObjective"
    name: Literal["info_vae"] = "info_vae"
    alpha: float = Field(0.5, le=1, description="share of the KL that is given up")
    lambda_mmd: float = Field(100.0, ge=0, description="λ: the MMD has the weight alpha + λ − 1")
    kernel: Literal["imq", "rbf"] = Field("imq", description="inverse multiquadratic or Gaussian")

    @model_validator(mode="after")
    def _mmd_attracts(self) -> InfoVAE:
        if self.alpha + self.lambda_mmd < 1:
            raise ValueError(
                f"info_vae: alpha + lambda_mmd − 1 = {self.alpha + self.lambda_mmd - 1:g} is the weight of the MMD "
                "and must not be negative; raise lambda_mmd"
            )
        return self


class CorEx(Options):
    """−E log q(x|z) + Σ_j KL(p(z_j|x) ‖ r_j(z_j)) with learned marginals r_j. Gao et al., arXiv:1802.05822."""

    implementation = "knowngood.objectives.corex:CorExObjective"
    name: Literal["corex"] = "corex"


class DANVAE(Options):
    """Split latent z = [z_a, z_n]: z_n holds known nuisance factors, and anomalies are told by the rest.

    rec + β_a·KL(q(z_a|x) ‖ N(0, I)) + β_n·KL(q(z_n|x) ‖ p(z_n|y)) + a·|y − ŷ(z_n)|², with p(z_n|y) and the head ŷ
    learned. An item that does not show its factors y has the prior N(0, I) on z_n and no head term.
    """

    implementation = "knowngood.objectives.dan_vae:DANVAEObjective"
    name: Literal["dan_vae"] = "dan_vae"
    nuisance_dim: PositiveInt = Field(8, description="dimensions of z_n, the last ones of z")
    factors: tuple[str, ...] = Field(
        ("brightness",),
        min_length=1,
        description="columns, or brightness, contrast, sharpness and rotation as measured on the images",
    )
    labelled_share: float = Field(1.0, gt=0, le=1, description="share of the good items that show their factors")
    beta_a: float = Field(1.0, ge=0, description="weight of the KL of z_a")
    beta_n: float = Field(3.0, ge=0, description="weight of the KL of z_n")
    head_weight: float | None = Field(
        None,
        ge=0,
        description="a: weight of the squared error of the standardised factors; default a quarter of an item's "
        "values, at least 10, over labelled_share",
    )


ObjectiveOptions = Annotated[
    Annotated[
        VAE | BetaVAE | CVAE | DCVAE | FactorVAE | TCVAE | RFVAE | DIPVAE | InfoVAE | CorEx | DANVAE,
        Field(discriminator="name"),
    ],
    BeforeValidator(_named),
]

# Labelled anomalies ---------------------------------------------------------------------------------------------------


class LabelledTerm(Options):
    """What labelled anomalies cost, on top of any objective."""

    implementation = "knowngood.objectives.labelled:Labelled"
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


LabelledOptions = Annotated[Annotated[Hinge | Reciprocal | Shift, Field(discriminator="name")], BeforeValidator(_named)]

# Nets ---------------------------------------------------------------------------------------------------------------


class MLP(Options):
    """Fully connected encoder and its mirror."""

    implementation = "knowngood.nets.mlp:MLPNet"
    name: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = Field((512, 256), description="encoder widths; the decoder mirrors them")
    noise: float = Field(0.0, ge=0, description="σ of the noise on the encoder's input in training, in units of x")


class Conv(Options):
    """Strided convolutions with residual blocks, for any size from 8×8 up; the decoder mirrors them."""

    implementation = "knowngood.nets.conv:ConvNet"
    name: Literal["conv"] = "conv"
    channels: tuple[PositiveInt, ...] | None = Field(
        None, description="channels a stage, each stage halves the size; default chosen from the image size"
    )
    dense: PositiveInt = Field(256, description="width of the dense layer between the convolutions and the latent")


class EluPool(Options):
    """16-16-pool-32-32-pool-64-64 convolutions (3×3, ELU), dense 512: the one-normal-class convolutional VAE."""

    implementation = "knowngood.nets.elu_pool:EluPoolNet"
    name: Literal["elu_pool"] = "elu_pool"


class StridedBatchNorm(Options):
    """32-64-64-64 strided convolutions with batch norm, LeakyReLU and dropout .1: the chest X-ray VAE."""

    implementation = "knowngood.nets.strided_batch_norm:StridedBatchNormNet"
    name: Literal["strided_batch_norm"] = "strided_batch_norm"


NetOptions = Annotated[
    Annotated[MLP | Conv | EluPool | StridedBatchNorm, Field(discriminator="name")],
    BeforeValidator(_named),
]

# Likelihoods --------------------------------------------------------------------------------------------------------


class Bernoulli(Options):
    """Cross-entropy of values in [0, 1] against a Bernoulli decoder."""

    implementation = "knowngood.nets.likelihoods:BernoulliLikelihood"
    name: Literal["bernoulli"] = "bernoulli"


class Gaussian(Options):
    """Normal with fixed σ (a number) or learned σ: one scalar, one a pixel, or one a pixel and input."""

    implementation = "knowngood.nets.likelihoods:GaussianLikelihood"
    name: Literal["gaussian"] = "gaussian"
    sigma: PositiveFloat | Literal["scalar", "pixel", "input"] = "scalar"
    squash: bool = Field(False, description="keep the mean within (0, 1) by a sigmoid")


LikelihoodOptions = Annotated[Annotated[Bernoulli | Gaussian, Field(discriminator="name")], BeforeValidator(_named)]

# Scores -------------------------------------------------------------------------------------------------------------


class Reconstruction(Options):
    """Distance between x and its reconstruction from the posterior mean; `l2` is the dCVAE paper's A(x)."""

    implementation = "knowngood.scores.reconstruction:ReconstructionScore"
    name: Literal["reconstruction"] = "reconstruction"
    distance: Literal["l2", "squared", "mean", "cross_entropy", "ssim"] = "l2"


class Elbo(Options):
    """−ELBO over `samples` common quasi-random draws of z (the dCVAE paper's E); 0 draws means z = μ."""

    implementation = "knowngood.scores.elbo:ElboScore"
    name: Literal["elbo"] = "elbo"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class KL(Options):
    """KL(q(z|x,c) ‖ r(z|c))."""

    implementation = "knowngood.scores.kl:KLScore"
    name: Literal["kl"] = "kl"


class PriorDistance(Options):
    """Squared Mahalanobis distance of the posterior mean to the prior of its condition, or of the nearest one."""

    implementation = "knowngood.scores.prior_distance:PriorDistanceScore"
    name: Literal["prior_distance"] = "prior_distance"


class Mahalanobis(Options):
    """Squared Mahalanobis distance of the posterior mean within its condition, with a shrunk covariance."""

    implementation = "knowngood.scores.mahalanobis:MahalanobisScore"
    name: Literal["mahalanobis"] = "mahalanobis"


class SplitElbo(Options):
    """−log p(x|μ) + KL(q(z_a|x) ‖ N(0, I)) of a model with a split latent: nuisance dimensions cost nothing."""

    implementation = "knowngood.scores.split_elbo:SplitElboScore"
    name: Literal["split_elbo"] = "split_elbo"


class PlaceGaussian(Options):
    """Half the squared distance of a patch to the Gaussian of its place: PaDiM, the model without z. Features only."""

    implementation = "knowngood.scores.gaussian:GaussianScore"
    name: Literal["gaussian"] = "gaussian"


ScoreOptions = Annotated[
    Annotated[
        Reconstruction | Elbo | KL | PriorDistance | Mahalanobis | SplitElbo | PlaceGaussian,
        Field(discriminator="name"),
    ],
    BeforeValidator(_named),
]

# Features -----------------------------------------------------------------------------------------------------------


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
    smoothing: float = Field(0.5, ge=0, description="σ of the Gaussian over the anomaly map, in cells")
    levels: Literal["auto", "on", "off"] = Field(
        "auto", description="see a score against those of good images at the same place; auto: chosen, off if left_out"
    )
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
    implementation = "knowngood.representation.backbones.weights:load_lite"
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

    implementation = "knowngood.representation.backbones.weights:own_is_missing"
    name: Literal["own"] = "own"


FeatureOptions = Annotated[
    Annotated[
        EfficientNetLite0 | EfficientNetLite1 | EfficientNetLite2 | OwnBackbone,
        Field(discriminator="name"),
    ],
    BeforeValidator(_named),
]

# Everything ---------------------------------------------------------------------------------------------------------

Point = tuple[float, float]
Area = Path | tuple[tuple[Point, ...], ...] | dict[str, Any]


def _regions(value: Any) -> Any:
    """Regions to ignore as plain data: a file, polygons, or those by the value of a condition."""
    if isinstance(value, str | Path) or value is None:
        return value
    if isinstance(value, Mapping) and not (set(map(str, value)) <= {"polygons", "size"} and "polygons" in value):
        return {str(key): _regions(one) for key, one in value.items()}
    if isinstance(value, Mapping):
        return {**value, "polygons": [_points(one) for one in value["polygons"]]}
    if hasattr(value, "shape") or not isinstance(value, list | tuple):
        raise ValueError(
            f"ignore: got a {type(value).__name__}; expected a file (a mask image, JSON or YAML), polygons as lists of "
            "points [x, y], or a mapping from the values of a condition to these. Save a mask as an image file."
        )
    return [_points(one) for one in value]


def _points(polygon: Any) -> list[Point]:
    try:
        return [(float(x), float(y)) for x, y in polygon]
    except (TypeError, ValueError):
        raise ValueError(f"ignore: {polygon!s:.60} is no polygon; expected a list of points [x, y]") from None


Ignored = Annotated[Area | None, BeforeValidator(_regions)]
Role = Literal["model", "stratify", "infer"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """All that shapes a fit. `Detector(...)` takes the same names with the same defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: ObjectiveOptions = Field(CVAE(), description="what is minimised")
    labelled: Literal["auto", "ignore"] | LabelledOptions = Field(
        "auto",
        description="how labelled anomalies teach; auto: as the objective is defined, else they are kept out; with "
        "features they teach the score where held-out ones gain by it",
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
        None, description="default: about 4,000 steps, within 10 and 300 epochs; with features about 1,500 steps"
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
    scoring: Literal["auto"] | ScoreOptions = Field(
        "auto", description="how odd an image is; auto: elbo, or what the objective is defined with"
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
    random_state: int | None = Field(0, description="seed of the split, the weights and every draw")

    @model_validator(mode="after")
    def _splits_leave_something(self) -> Settings:
        if self.select_fraction + self.calibrate_fraction >= 1:
            raise ValueError(
                f"select_fraction + calibrate_fraction = {self.select_fraction + self.calibrate_fraction:g} "
                "leaves nothing to fit on; their sum must be below 1"
            )
        return self


FAMILIES = ("objective", "labelled", "net", "likelihood", "features", "scoring")


def choices(field: str) -> dict[str, type[Options]]:
    """The option models of a family by name: `choices("objective")["dcvae"]`."""
    found: dict[str, type[Options]] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, Options):
            found[annotation.model_fields["name"].default] = annotation
        for inner in get_args(annotation):
            walk(inner)

    info = Settings.model_fields[field]
    walk(info.annotation)
    return found


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values.

    Raises:
        SettingsError: every problem at once, naming setting and value, and for an unknown name the nearest known one.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        # "must be 'auto'" is no help beside what is wrong with the option that was meant.
        items = [item for item in error.errors() if not _other_branch(item["loc"])] or error.errors()
        raise SettingsError("\n".join(_explain(item, values) for item in items)) from None


def read_settings(path: str | Path, **overrides: Any) -> Settings:
    """Settings from a YAML file, with `overrides` on top."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected 'name: value' lines, found a {type(loaded).__name__}")
    return parse_settings({**loaded, **overrides})


def nearest(name: str, known: list[str]) -> str:
    """'; did you mean …?' and the known names, for error messages."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint} (known: {', '.join(known)})"


def _other_branch(loc: tuple[Any, ...]) -> bool:
    return any(str(part).startswith("literal[") for part in loc) and loc[0] in FAMILIES


def _explain(item: Any, values: Mapping[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    family = choices(path[0]) if path and path[0] in FAMILIES else {}
    if item["type"] == "extra_forbidden":
        if len(path) == 1:
            return f"unknown setting '{path[0]}'" + nearest(path[0], list(Settings.model_fields))
        model = next((family[part] for part in path if part in family), None)
        known = [k for k in model.model_fields if k != "name"] if model else []
        return f"{path[0]} '{path[-2]}' has no option '{path[-1]}'" + nearest(path[-1], known)
    if family and item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = values.get(path[0])
        given = given.get("name") if isinstance(given, Mapping) else given
        return f"unknown {path[0]} '{given}'" + nearest(str(given), list(family))
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    shown = ".".join(part for part in path if "[" not in part)
    return f"setting '{shown}' = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
