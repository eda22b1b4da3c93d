"""The anomaly scores by name, and which models each one is defined for."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from knowngood.config.base import Family, Options, named


class ScoreOptions(Options):
    """A score. `models` names the models that it is defined for."""

    models: ClassVar[tuple[str, ...]] = ("vae",)

    def check_model(self, model: str) -> None:
        """Raise ValueError unless the score is defined for this model."""
        if model not in self.models:
            raise ValueError(
                f"score '{self.name}' is defined for model {' or '.join(self.models)}, not '{model}'; "
                "change one of them, or leave score='auto'"
            )


class Reconstruction(ScoreOptions):
    """Distance between x and its reconstruction from the posterior mean; `l2` is the dCVAE paper's A(x)."""

    implementation = "knowngood.scores.reconstruction:ReconstructionScore"
    name: Literal["reconstruction"] = "reconstruction"
    distance: Literal["l2", "squared", "mean", "cross_entropy", "ssim"] = "l2"


class Elbo(ScoreOptions):
    """−ELBO over `samples` common quasi-random draws of z (the dCVAE paper's E); 0 draws means z = μ."""

    implementation = "knowngood.scores.elbo:ElboScore"
    name: Literal["elbo"] = "elbo"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class KL(ScoreOptions):
    """KL(q(z|x,c) ‖ r(z|c))."""

    implementation = "knowngood.scores.kl:KLScore"
    name: Literal["kl"] = "kl"


class PriorDistance(ScoreOptions):
    """Squared Mahalanobis distance of the posterior mean to the prior of its condition, or of the nearest one."""

    implementation = "knowngood.scores.prior_distance:PriorDistanceScore"
    name: Literal["prior_distance"] = "prior_distance"


class Mahalanobis(ScoreOptions):
    """Squared Mahalanobis distance of an item's code within its condition, with a shrunk covariance."""

    implementation = "knowngood.scores.mahalanobis:MahalanobisScore"
    name: Literal["mahalanobis"] = "mahalanobis"
    of: Literal["latent", "hog"] = Field(default="latent", description="posterior means, or HOG of images")
    relative: bool = Field(default=False, description="less the distance to codes of all conditions. arXiv:2106.09022")


class SplitElbo(ScoreOptions):
    """−log p(x|μ) + KL(q(z_a|x) ‖ N(0, I)) of a model with a split latent: nuisance dimensions cost nothing."""

    implementation = "knowngood.scores.split_elbo:SplitElboScore"
    name: Literal["split_elbo"] = "split_elbo"


class PatchDistance(ScoreOptions):
    """Distance of every patch to the normal ones, pooled to one score an image. Features only.

    Half the squared Mahalanobis distance under `patch_gaussian` (PaDiM, arXiv:2011.08785), the distance to the nearest
    patches under `memory_bank` (PatchCore, arXiv:2106.08265).
    """

    implementation = "knowngood.scores.patch_distance:PatchDistanceScore"
    models = ("patch_gaussian", "shared_gaussian", "memory_bank")
    name: Literal["patch_distance"] = "patch_distance"
    standardise: Literal["auto"] | bool = Field(
        default="auto",
        description="per-location standardisation: by mean and spread of normal images' distances there, given the "
        "level of the image; auto: with patch_gaussian",
    )
    pooling: Literal["top", "max", "soft"] = Field(
        default="top", description="score of an image from its map: mean of the top 2 %, the maximum, or a soft maximum"
    )
    smoothing: float = Field(
        default=0.0, ge=0, description="σ of a Gaussian over the anomaly map, in locations; 0: none"
    )


class IWAE(ScoreOptions):
    """−log p(x|c) by importance weighting over `samples` common draws of z, tighter than the ELBO. arXiv:1509.00519."""

    implementation = "knowngood.scores.iwae:IWAEScore"
    name: Literal["iwae"] = "iwae"
    samples: PositiveInt = Field(default=16, description="K, draws of z; 1 is the ELBO of one draw")


class ReconstructionProbability(ScoreOptions):
    """−mean log p(x|z) over `samples` common draws of z, by a decoder that has learned a variance. An & Cho 2015."""

    implementation = "knowngood.scores.reconstruction_probability:ReconstructionProbabilityScore"
    name: Literal["reconstruction_probability"] = "reconstruction_probability"
    samples: PositiveInt = Field(default=4, description="draws of z")


class LikelihoodRegret(ScoreOptions):
    """What the ELBO gains if the posterior of each item is optimised for it alone. arXiv:2003.02977."""

    implementation = "knowngood.scores.likelihood_regret:LikelihoodRegretScore"
    name: Literal["likelihood_regret"] = "likelihood_regret"
    samples: PositiveInt = Field(default=4, ge=2, description="draws of z; one alone tells nothing of an expectation")
    steps: PositiveInt = Field(default=8, description="gradients at most while the mean climbs; few images need more")


class InputComplexity(ScoreOptions):
    """−log₂ p(x|c) less the length of x in a lossless code, both in bits a value. Images only. arXiv:1909.11480."""

    implementation = "knowngood.scores.input_complexity:InputComplexityScore"
    name: Literal["input_complexity"] = "input_complexity"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class Typicality(ScoreOptions):
    """|−ELBO − its mean over the normals of the same stratum|: too likely is anomalous as well. arXiv:1906.02994."""

    implementation = "knowngood.scores.typicality:TypicalityScore"
    name: Literal["typicality"] = "typicality"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class Neighbours(ScoreOptions):
    """Mean distance to the k nearest normal items of the same condition: of latents, residuals, HOG, or the items."""

    implementation = "knowngood.scores.neighbours:NeighboursScore"
    models = ("vae", "memory_bank")
    name: Literal["neighbours"] = "neighbours"
    k: PositiveInt = Field(default=5, description="neighbours")
    of: Literal["auto", "latent", "items", "residual", "hog"] = Field(
        default="auto",
        description="posterior means, the items as represented, x − x̂, or HOG of images; auto: posterior means of a "
        "vae, the items of a memory_bank",
    )
    cosine: bool = Field(default=False, description="cosine distance: all vectors are scaled to length 1")
    coreset: PositiveInt | None = Field(default=10_000, description="normal items kept, about; null: all of them")


class Gradient(ScoreOptions):
    """1 − the mean cosine of the gradients of the decoder's layers with those of normal items. arXiv:2007.09507."""

    implementation = "knowngood.scores.gradient:GradientScore"
    name: Literal["gradient"] = "gradient"


class GradientMap(ScoreOptions):
    """Σ |x − x̂| ⊙ |∂KL/∂x|: what is reproduced badly where the latent minds it. arXiv:1812.05941."""

    implementation = "knowngood.scores.gradient_map:GradientMapScore"
    name: Literal["gradient_map"] = "gradient_map"


class Restoration(ScoreOptions):
    """Σ |x − x̂|, x̂ the likeliest image that differs from x by little total variation. Images. arXiv:2005.00031."""

    implementation = "knowngood.scores.restoration:RestorationScore"
    name: Literal["restoration"] = "restoration"
    weight: PositiveFloat = Field(default=0.1, description="of the total variation, times the typical size of x − x̂")
    steps: PositiveInt = Field(default=20, description="of the search, each through both nets and back")
    samples: int = Field(default=0, ge=0, description="draws of z for the ELBO; 0 takes the posterior mean")


_SINGLE = (
    Reconstruction, Elbo, KL, PriorDistance, Mahalanobis, SplitElbo, PatchDistance, IWAE, ReconstructionProbability,
    LikelihoodRegret, InputComplexity, Typicality, Neighbours, Gradient, GradientMap, Restoration,
)  # fmt: skip
SingleScore = Annotated[ScoreOptions, Family("scores", *_SINGLE)]


class Fusion(ScoreOptions):
    """Several scores as one: the surprise −log p of each within the condition, weighted and added up.

    A list of scores stands for their fusion, and so do names with commas: `["elbo", "prior_distance"]`.
    """

    implementation = "knowngood.scores.fusion:FusionScore"
    name: Literal["fusion"] = "fusion"
    scores: tuple[SingleScore, ...] = Field(min_length=1, description="what is fused, by name or with options")
    weights: tuple[NonNegativeFloat, ...] | None = Field(default=None, description="one for each score; default equal")

    def check_model(self, model: str) -> None:
        super().check_model(model)
        for score in self.scores:
            score.check_model(model)

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> Fusion:
        if self.weights is not None and (len(self.weights) != len(self.scores) or not 0 < sum(self.weights) < math.inf):
            raise ValueError(
                f"fusion: weights = {', '.join(f'{w:g}' for w in self.weights)} for {len(self.scores)} scores; "
                "give one finite number for each score, not all of them 0, or leave weights out"
            )
        return self


def fused(value: Any) -> Any:
    """A list of scores, or their names with commas between them, as their fusion."""
    if isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.split(",") if part.strip()]
    return {"name": "fusion", "scores": list(value)} if isinstance(value, list | tuple) else named(value)


ScoreChoice = Annotated[ScoreOptions, Family("scores", *_SINGLE, Fusion, before=fused)]
