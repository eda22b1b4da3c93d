"""What is minimised: the objectives by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from knowngood.config.base import Family, Options


class VAE(Options):
    """Variational autoencoder: −E log p(x|z) + KL. Ignores the conditions. arXiv:1312.6114."""

    implementation = "knowngood.models.objectives.vae:VAEObjective"
    name: Literal["vae"] = "vae"


class BetaVAE(Options):
    """rec + β·KL, or with `capacity` rec + γ·|KL − C_t|, C_t rising linearly to `capacity` nats.

    Ignores the conditions. Higgins et al. 2017; arXiv:1804.03599.
    """

    implementation = "knowngood.models.objectives.beta_vae:BetaVAEObjective"
    name: Literal["beta_vae"] = "beta_vae"
    beta: float = Field(default=4.0, ge=0, description="weight of the KL term")
    capacity: float | None = Field(
        default=None, ge=0, description="final capacity C in nats; replaces beta by gamma·|KL − C_t|"
    )
    gamma: float = Field(default=100.0, ge=0, description="weight of |KL − C_t| in the capacity form")
    capacity_share: float = Field(default=0.5, gt=0, le=1, description="share of all steps over which C_t rises")


class CVAE(Options):
    """Conditional VAE: −E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)). Sohn et al. 2015."""

    implementation = "knowngood.models.objectives.cvae:CVAEObjective"
    name: Literal["cvae"] = "cvae"


def _renamed(tc: Any) -> Any:
    """What models saved before call "explicit" is now one of several explicit estimates."""
    return "sampled" if tc == "explicit" else tc


class TCOptions(Options):
    """How TC is estimated."""

    tc: Annotated[Literal["moments", "gaussian", "discriminator", "sampled"], BeforeValidator(_renamed)] = Field(
        default="moments",
        description="how TC is estimated; moments: of recent codes, to order 4; gaussian: their covariance alone; "
        "discriminator: learns what to add to that; sampled: the batch's posteriors, a second KL from 8 dimensions on",
    )
    density: Literal["mss", "mws"] = Field(default="mss", description="estimator of the aggregate posterior")
    discriminator_layers: PositiveInt = Field(default=3, description="hidden layers of the discriminator")
    discriminator_width: PositiveInt = Field(default=256, description="width of the discriminator's layers")

    @model_validator(mode="after")
    def _of_the_estimate(self) -> TCOptions:
        for field in ("density", "discriminator_layers", "discriminator_width"):
            value, owner = getattr(self, field), "sampled" if field == "density" else "discriminator"
            if self.tc != owner and value != type(self).model_fields[field].default:
                raise ValueError(
                    f"{self.name}: {field} = {value!r} is an option of tc='{owner}', and tc is '{self.tc}'; "
                    f"set tc='{owner}', or leave {field} out"
                )
        return self


class DCVAE(TCOptions):
    """Disentangled conditional VAE: the CVAE plus (β−1)·TC(z|c), TC estimated within strata of the conditions.

    `tc="bound"` is the published bound: a CVAE with a learned conditional prior, where β must stay 1.
    """

    implementation = "knowngood.models.objectives.dcvae:DCVAEObjective"
    name: Literal["dcvae"] = "dcvae"
    beta: float | None = Field(default=None, ge=0, description="weight of TC(z|c); default 2, or 1 with tc=bound")
    tc: Annotated[  # type: ignore[assignment]
        Literal["moments", "gaussian", "discriminator", "sampled", "bound"], BeforeValidator(_renamed)
    ] = Field(
        default="moments",
        description="how TC(z|c) is estimated; moments: of recent codes, to order 4; gaussian: their covariance alone; "
        "discriminator: learns what to add to that; sampled: the batch's posteriors, a second KL from 8 dimensions on; "
        "bound: the published bound",
    )

    @model_validator(mode="after")
    def _bound_has_no_beta(self) -> DCVAE:
        if self.tc == "bound" and self.beta not in (None, 1.0):
            raise ValueError(
                f"dcvae: beta = {self.beta:g} with tc='bound', whose TC weight is 1 by derivation; "
                "leave beta out, or use another tc"
            )
        return self


class FactorVAE(Options):
    """VAE + γ·TC(z), TC by a discriminator between z and z with its dimensions permuted. arXiv:1802.05983."""

    implementation = "knowngood.models.objectives.factor_vae:FactorVAEObjective"
    name: Literal["factor_vae"] = "factor_vae"
    gamma: float = Field(default=6.4, ge=0, description="weight of TC(z)")
    discriminator_layers: PositiveInt = Field(default=6, description="hidden layers of the discriminator")
    discriminator_width: PositiveInt = Field(default=1000, description="width of the discriminator's layers")


class TCVAE(TCOptions):
    """β-TCVAE: rec + α·I(z;n) + β·TC(z) + γ·Σ_j KL(q(z_j) ‖ r(z_j)). arXiv:1802.04942."""

    implementation = "knowngood.models.objectives.tc_vae:TCVAEObjective"
    also = ("beta-TCVAE", "btc_vae", "tcvae")
    name: Literal["tc_vae"] = "tc_vae"
    alpha: float = Field(default=1.0, ge=0, description="weight of I(z;n), what z knows of the item")
    beta: float = Field(default=6.0, ge=0, description="weight of TC(z)")
    gamma: float = Field(default=1.0, ge=0, description="weight of the dimensions' own KL")


class RFVAE(Options):
    """Relevance-FactorVAE: learns which dimensions matter, and leaves the others to the prior. arXiv:1902.01568.

    rec + Σ_d λ(r_d)·KL_d + γ·TC(r⊙z) + η_S·Σ_d r_d + η_H·Σ_d H(r_d), λ falling from λ_max at r = 0 to λ_min at r = 1.
    """

    implementation = "knowngood.models.objectives.rf_vae:RFVAEObjective"
    also = ("relevance_factor_vae",)
    name: Literal["rf_vae"] = "rf_vae"
    gamma: float = Field(default=6.4, ge=0, description="weight of TC(r⊙z)")
    lambda_min: float = Field(default=0.1, ge=0, description="KL weight of a relevant dimension")
    lambda_max: float = Field(default=10.0, ge=0, description="KL weight of a nuisance dimension")
    eta_s: float = Field(default=1.0, ge=0, description="weight of the sum of relevances")
    eta_h: float = Field(default=100.0, ge=0, description="weight of the entropy of relevances")
    relevance_from: float = Field(
        default=0.4, ge=0, lt=1, description="share of all steps before relevances start to move"
    )
    entropy_from: float = Field(
        default=0.7, ge=0, lt=1, description="share of all steps before eta_h starts to rise from 0"
    )
    relevance_start: float = Field(default=0.9, gt=0, lt=1, description="relevance of every dimension at the start")
    discriminator_layers: PositiveInt = Field(default=6, description="hidden layers of the discriminator")
    discriminator_width: PositiveInt = Field(default=1000, description="width of the discriminator's layers")

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

    implementation = "knowngood.models.objectives.dip_vae:DIPVAEObjective"
    name: Literal["dip_vae"] = "dip_vae"
    form: Literal["I", "II"] = Field(default="II", description="covariance of the posterior means (I) or of z (II)")
    lambda_od: float = Field(default=10.0, ge=0, description="weight of covariances between dimensions")
    lambda_d: float | None = Field(
        default=None,
        ge=0,
        description="weight of variances other than 1; default 10·lambda_od in form I, lambda_od in II",
    )


class InfoVAE(Options):
    """rec + (1−α)·KL + (α+λ−1)·MMD²(q(z), r(z)): information is kept, the aggregate matched. arXiv:1706.02262."""

    implementation = "knowngood.models.objectives.info_vae:InfoVAEObjective"
    also = ("MMD-VAE",)
    name: Literal["info_vae"] = "info_vae"
    alpha: float = Field(default=0.5, le=1, description="share of the KL that is given up")
    lambda_mmd: float = Field(default=100.0, ge=0, description="λ: the MMD has the weight alpha + λ − 1")
    kernel: Literal["imq", "rbf"] = Field(default="imq", description="inverse multiquadratic or Gaussian")

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

    implementation = "knowngood.models.objectives.corex:CorExObjective"
    name: Literal["corex"] = "corex"


class DANVAE(Options):
    """Split latent z = [z_a, z_n]: z_n holds known nuisance factors, and the rest scores anomalies.

    rec + β_a·KL(q(z_a|x) ‖ N(0, I)) + β_n·KL(q(z_n|x) ‖ p(z_n|y)) + a·|y − ŷ(z_n)|², with p(z_n|y) and the head ŷ
    learned. An item that does not show its factors y has the prior N(0, I) on z_n and no head term.
    """

    implementation = "knowngood.models.objectives.dan_vae:dan_vae"
    name: Literal["dan_vae"] = "dan_vae"
    variant: Literal["one_encoder", "source"] = Field(
        default="one_encoder",
        description="how it is built; source: as its author's code has it, with an encoder for each part of z",
    )
    nuisance_dim: PositiveInt = Field(default=8, description="dimensions of z_n, the last ones of z")
    factors: tuple[str, ...] = Field(
        default=("brightness",),
        min_length=1,
        description="columns, or brightness, contrast, sharpness and rotation as measured on the images",
    )
    labelled_share: float = Field(
        default=1.0, gt=0, le=1, description="share of the normal items whose factors are known in training"
    )
    beta_a: float = Field(default=1.0, ge=0, description="weight of the KL of z_a")
    beta_n: float = Field(default=3.0, ge=0, description="weight of the KL of z_n")
    head_weight: float | None = Field(
        default=None,
        ge=0,
        description="a: weight of the squared error of the standardised factors; default a quarter of an item's "
        "values, at least 10, over labelled_share; of the source variant 3500 over labelled_share",
    )


ObjectiveOptions = Annotated[
    Options, Family("objectives", VAE, BetaVAE, CVAE, DCVAE, FactorVAE, TCVAE, RFVAE, DIPVAE, InfoVAE, CorEx, DANVAE)
]
