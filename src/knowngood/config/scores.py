"""How odd an image is: the scores by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from knowngood.config.base import Options, named


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
    """Squared Mahalanobis distance of an item's code within its condition, with a shrunk covariance."""

    implementation = "knowngood.scores.mahalanobis:MahalanobisScore"
    name: Literal["mahalanobis"] = "mahalanobis"
    of: Literal["latent", "gradients"] = Field("latent", description="posterior means, or oriented gradients of images")
    relative: bool = Field(False, description="less the distance to the codes of all conditions. arXiv:2106.09022")


class SplitElbo(Options):
    """−log p(x|μ) + KL(q(z_a|x) ‖ N(0, I)) of a model with a split latent: nuisance dimensions cost nothing."""

    implementation = "knowngood.scores.split_elbo:SplitElboScore"
    name: Literal["split_elbo"] = "split_elbo"


class PlaceGaussian(Options):
    """Half the squared distance of a patch to the Gaussian of its place: PaDiM, the model without z. Features only."""

    implementation = "knowngood.scores.gaussian:GaussianScore"
    name: Literal["gaussian"] = "gaussian"


class IWAE(Options):
    """−log p(x|c) by importance weighting over `samples` common draws of z, tighter than the ELBO. arXiv:1509.00519."""

    implementation = "knowngood.scores.iwae:IWAEScore"
    name: Literal["iwae"] = "iwae"
    samples: PositiveInt = Field(default=16, description="K, draws of z; 1 is the ELBO of one draw")


class ReconstructionProbability(Options):
    """−mean log p(x|z) over `samples` common draws of z, by a decoder that has learned a variance. An & Cho 2015."""

    implementation = "knowngood.scores.reconstruction_probability:ReconstructionProbabilityScore"
    name: Literal["reconstruction_probability"] = "reconstruction_probability"
    samples: PositiveInt = Field(default=4, description="draws of z")


class LikelihoodRegret(Options):
    """What the ELBO gains if the posterior of each item is optimised for it alone. arXiv:2003.02977."""

    implementation = "knowngood.scores.likelihood_regret:LikelihoodRegretScore"
    name: Literal["likelihood_regret"] = "likelihood_regret"
    samples: PositiveInt = Field(default=4, ge=2, description="draws of z; one alone tells nothing of an expectation")
    steps: PositiveInt = Field(default=8, description="gradients at most while the mean climbs; few images need more")


class InputComplexity(Options):
    """−log₂ p(x|c) less the length of x in a lossless code, both in bits a value. Images only. arXiv:1909.11480."""

    implementation = "knowngood.scores.input_complexity:InputComplexityScore"
    name: Literal["input_complexity"] = "input_complexity"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class Typicality(Options):
    """|−ELBO − its mean over the normals of the same stratum|: too likely is odd as well. arXiv:1906.02994."""

    implementation = "knowngood.scores.typicality:TypicalityScore"
    name: Literal["typicality"] = "typicality"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class Neighbours(Options):
    """Mean distance to the k nearest of the good items of its condition: of codes, of residuals, or of items."""

    implementation = "knowngood.scores.neighbours:NeighboursScore"
    name: Literal["neighbours"] = "neighbours"
    k: PositiveInt = Field(5, description="neighbours")
    of: Literal["latent", "pixels", "residual", "gradients"] = Field(
        "latent", description="posterior means, the items themselves, what reconstructions leave, oriented gradients"
    )
    cosine: bool = Field(False, description="compare by direction alone: all are brought to length 1")
    coreset: PositiveInt | None = Field(10_000, description="good items kept, about; null: all of them")


class Gradient(Options):
    """1 − the mean cosine of the gradients of the decoder's layers with those of good items. arXiv:2007.09507."""

    implementation = "knowngood.scores.gradient:GradientScore"
    name: Literal["gradient"] = "gradient"


class GradientMap(Options):
    """Σ |x − x̂| ⊙ |∂KL/∂x|: what is reproduced badly where the latent minds it. arXiv:1812.05941."""

    implementation = "knowngood.scores.gradient_map:GradientMapScore"
    name: Literal["gradient_map"] = "gradient_map"


class WAIC(Options):
    """−(mean log p − variance of log p) over the models of an ensemble, by their ELBOs. arXiv:1810.01392."""

    implementation = "knowngood.scores.waic:WAICScore"
    name: Literal["waic"] = "waic"
    samples: int = Field(default=4, ge=0, description="draws of z; 0 scores at the posterior mean")


class Restoration(Options):
    """Σ |x − x̂|, x̂ the likeliest image that differs from x by little total variation. Images. arXiv:2005.00031."""

    implementation = "knowngood.scores.restoration:RestorationScore"
    name: Literal["restoration"] = "restoration"
    weight: PositiveFloat = Field(0.1, description="of the total variation, times the usual size of x − x̂")
    steps: PositiveInt = Field(20, description="of the search, each through both nets and back")
    samples: int = Field(0, ge=0, description="draws of z for the ELBO; 0 takes the posterior mean")


SingleScore = (
    Reconstruction
    | Elbo
    | KL
    | PriorDistance
    | Mahalanobis
    | SplitElbo
    | PlaceGaussian
    | IWAE
    | ReconstructionProbability
    | LikelihoodRegret
    | InputComplexity
    | Typicality
    | Neighbours
    | Gradient
    | GradientMap
    | Restoration
    | WAIC
)
SingleScoreOptions = Annotated[Annotated[SingleScore, Field(discriminator="name")], BeforeValidator(named)]


class Fusion(Options):
    """Several scores as one: each as its surprise −log p within the condition, weighed and added up.

    A list of scores stands for their fusion, and so do names with commas: `["elbo", "prior_distance"]`.
    """

    implementation = "knowngood.scores.fusion:FusionScore"
    name: Literal["fusion"] = "fusion"
    scores: tuple[SingleScoreOptions, ...] = Field(min_length=1, description="what is fused, by name or with options")
    weighting: Literal["auto"] | tuple[NonNegativeFloat, ...] = Field(
        default="auto",
        description="a weight for each score; auto: fitted on held-out normals and synthetic anomalies of them",
    )

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> Fusion:
        if self.weighting != "auto" and (len(self.weighting) != len(self.scores) or not sum(self.weighting)):
            raise ValueError(
                f"fusion: weighting = {', '.join(f'{w:g}' for w in self.weighting)} for {len(self.scores)} scores; "
                "give each a number, not all of them 0, or leave weighting out"
            )
        return self


def _fused(value: Any) -> Any:
    """A list of scores, or their names with commas between them, as their fusion."""
    if isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.split(",") if part.strip()]
    return {"name": "fusion", "scores": value} if isinstance(value, list | tuple) else named(value)


ScoreOptions = Annotated[Annotated[SingleScore | Fusion, Field(discriminator="name")], BeforeValidator(_fused)]
