"""What learns from the representation: the models by name, and which representations each one takes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from knowngood.config.base import Family, Options
from knowngood.config.nets import LikelihoodOptions, NetOptions
from knowngood.config.objectives import CVAE, ObjectiveOptions


class ModelOptions(Options):
    """A model. `representations` names those it takes; None for any."""

    representations: ClassVar[tuple[str, ...] | None] = None


class VAEOptions(ModelOptions):
    """Conditional variational autoencoder of whole items; which one is the choice of its objective."""

    implementation = "knowngood.models.vae:ConditionalVAE"
    representations = ("pixels", "hog", "table")
    name: Literal["vae"] = "vae"
    objective: ObjectiveOptions = Field(default=CVAE(), description="the loss that is minimised")
    net: Literal["auto"] | NetOptions = Field(default="auto", description="auto: conv for images, mlp for HOG, tables")
    latent_dim: PositiveInt | None = Field(default=None, description="dimensions of z; default 32, fewer for tables")
    likelihood: Literal["auto"] | LikelihoodOptions = Field(default="auto", description="auto: Gaussian, learned σ")
    prior: Literal["auto", "standard", "learned", "separated"] = Field(
        default="auto",
        description="r(z|c); auto: as the objective defines it; separated: a class-conditional prior with fixed means, "
        "far apart",
    )
    separation: PositiveFloat = Field(
        default=40.0, description="distance of the means of two class-conditional priors, in standard deviations"
    )
    class_aware: NonNegativeFloat = Field(
        default=0.0, description="weight of −log p(c|z) under the priors: the latent learns to separate the conditions"
    )


class PatchGaussianOptions(ModelOptions):
    """A Gaussian of the features at every location, given the image's context, and a coreset of normal patches.

    PaDiM (arXiv:2011.08785) and PatchCore (arXiv:2106.08265) as one distance.
    """

    implementation = "knowngood.models.patch_gaussian:PatchGaussian"
    representations = ("features",)
    also = ("PaDiM",)
    name: Literal["patch_gaussian"] = "patch_gaussian"
    shrinkage: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of the mean covariance of all locations in that of each; default by the number of images",
    )
    context: int = Field(
        default=16,
        ge=0,
        description="numbers on how the image as a whole differs from others (principal components of its mean "
        "features), given which each location is judged",
    )
    global_grid: int = Field(
        default=4,
        ge=0,
        description="side of a coarse grid that sees the image as a whole, for the column `global`: how far it "
        "deviates as a whole; 0: none",
    )
    neighbours: int = Field(
        default=2000,
        ge=0,
        description="normal patches kept (a coreset): at each location the squared distance to the nearest of them, "
        "wherever it lies, is added to the Gaussian's; 0: none",
    )
    words: int = Field(
        default=32,
        ge=0,
        description="kinds of patches (visual words) whose shares of the image are compared with those of normal ones, "
        "for the column `counts`: a part missing, too many or of another kind, wherever it lies; 0: none",
    )
    few: Literal["refuse", "pool"] = Field(
        default="refuse",
        description="conditions with fewer than 8 normal images: refuse them by name, or let them rest on the others",
    )


class SharedGaussianOptions(ModelOptions):
    """One Gaussian of the features for all locations: for surfaces that look alike everywhere."""

    representations = ("features",)
    few: ClassVar[Literal["refuse", "pool"]] = "refuse"
    shrinkage: ClassVar[float | None] = None
    context: ClassVar[int] = 0  # and nothing else that PatchGaussianOptions adds
    global_grid: ClassVar[int] = 0
    neighbours: ClassVar[int] = 0
    words: ClassVar[int] = 0
    implementation = "knowngood.models.shared_gaussian:SharedGaussian"
    name: Literal["shared_gaussian"] = "shared_gaussian"


class MemoryBankOptions(ModelOptions):
    """A coreset of normal items, or of normal patches; what is far from all of them is anomalous (arXiv:2106.08265)."""

    implementation = "knowngood.models.memory_bank:MemoryBank"
    also = ("PatchCore", "kNN")
    name: Literal["memory_bank"] = "memory_bank"
    coreset: PositiveInt | None = Field(default=10_000, description="items or patches kept, at most; null: all")


ModelChoice = Annotated[
    ModelOptions, Family("models", VAEOptions, PatchGaussianOptions, SharedGaussianOptions, MemoryBankOptions)
]
