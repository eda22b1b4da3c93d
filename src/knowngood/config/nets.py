"""The nets that encode and decode, and the likelihood of what they decode."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from knowngood.config.base import Options, named


class MLP(Options):
    """Fully connected encoder and its mirror."""

    implementation = "knowngood.models.nets.mlp:MLPNet"
    name: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = Field(default=(512, 256), description="encoder widths; the decoder mirrors them")
    noise: float = Field(default=0.0, ge=0, description="σ of noise on the encoder's input in training, in units of x")


class Conv(Options):
    """Strided convolutions with residual blocks, for any size from 8×8 up; the decoder mirrors them."""

    implementation = "knowngood.models.nets.conv:ConvNet"
    name: Literal["conv"] = "conv"
    channels: tuple[PositiveInt, ...] | None = Field(
        default=None, description="channels a stage, each stage halves the size; default chosen from the image size"
    )
    dense: PositiveInt = Field(default=256, description="width of the dense layer between convolutions and latent")


class EluPool(Options):
    """16-16-pool-32-32-pool-64-64 convolutions (3×3, ELU), dense 512: the one-normal-class convolutional VAE."""

    implementation = "knowngood.models.nets.lineage:EluPoolNet"
    name: Literal["elu_pool"] = "elu_pool"


class StridedBatchNorm(Options):
    """32-64-64-64 strided convolutions with batch norm, LeakyReLU and dropout .1: the chest X-ray VAE."""

    implementation = "knowngood.models.nets.lineage:StridedBatchNormNet"
    name: Literal["strided_batch_norm"] = "strided_batch_norm"


NetOptions = Annotated[MLP | Conv | EluPool | StridedBatchNorm, Field(discriminator="name"), BeforeValidator(named)]


class Bernoulli(Options):
    """Cross-entropy of values in [0, 1] against a Bernoulli decoder."""

    implementation = "knowngood.models.likelihoods:BernoulliLikelihood"
    name: Literal["bernoulli"] = "bernoulli"


class Gaussian(Options):
    """Normal with fixed σ (a number) or learned σ: one scalar, one a pixel, or one a pixel and input."""

    implementation = "knowngood.models.likelihoods:GaussianLikelihood"
    name: Literal["gaussian"] = "gaussian"
    sigma: PositiveFloat | Literal["scalar", "pixel", "input"] = "scalar"
    squash: bool = Field(default=False, description="keep the mean within (0, 1) by a sigmoid")


LikelihoodOptions = Annotated[Bernoulli | Gaussian, Field(discriminator="name"), BeforeValidator(named)]
