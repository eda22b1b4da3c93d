"""What a fit refuses before it trains: settings that cannot be asked for at once."""

from __future__ import annotations

from knowngood.config import (
    MLP,
    Bernoulli,
    Fusion,
    Gaussian,
    InputComplexity,
    Mahalanobis,
    Neighbours,
    Options,
    Reconstruction,
    Restoration,
    Settings,
)
from knowngood.data import ImageSet
from knowngood.detector.rows import Items
from knowngood.errors import SettingsError
from knowngood.models.objectives import Objective


def refuse_for_objective(settings: Settings, objective: Objective, anomalies: Items | None) -> None:
    """Conditions held apart that the objective does not see, and a term of labelled anomalies without any."""
    if settings.prior == "separated" and not objective.conditional:
        raise SettingsError(
            f"prior = 'separated' holds conditions apart, and objective '{settings.objective.name}' ignores conditions;"
            " take cvae or dcvae, or another prior"
        )
    if settings.augment_condition and not objective.conditional:
        raise SettingsError(
            f"augment_condition tells the nets in which view they see an image, and objective "
            f"'{settings.objective.name}' ignores conditions; take cvae or dcvae, or leave it out"
        )
    if not isinstance(settings.labelled, str) and not (anomalies is not None and len(anomalies)):
        raise SettingsError(
            f"labelled = '{settings.labelled.name}', and no item is labelled anomalous; give anomalies=, or leave "
            "labelled out"
        )


def refuse_with_edges(settings: Settings, normals: Items) -> None:
    """What has no meaning where the edges of images are modelled: what needs their pixels, or light."""
    if settings.representation == "pixels":
        return
    asked = f"representation = '{settings.representation}'"
    if not isinstance(normals, ImageSet):
        raise SettingsError(f"{asked} needs images; a table was given")
    if settings.features != "none":
        raise SettingsError(
            f"{asked} and features = '{settings.features.name}' are two things to model; leave one of them out"
        )
    if settings.augment_condition:
        raise SettingsError(
            f"augment_condition turns, mirrors and shifts pixels, and {asked} models edges; leave one of them out"
        )
    if settings.light_tolerance is not None:
        raise SettingsError(
            f"light_tolerance = {settings.light_tolerance:g} is for models that see the light; with {asked} brightness "
            "and contrast change nothing, so leave it out"
        )
    likelihood = settings.likelihood
    if isinstance(likelihood, Bernoulli) or (isinstance(likelihood, Gaussian) and likelihood.squash):
        told = "bernoulli" if isinstance(likelihood, Bernoulli) else "gaussian' with squash = 'true"
        raise SettingsError(
            f"likelihood = '{told}' is of values from 0 to 1, and with {asked} they are centred around 0; "
            "take likelihood='gaussian', or 'auto'"
        )
    if settings.net != "auto" and not isinstance(settings.net, MLP):
        raise SettingsError(
            f"net '{settings.net.name}' is for images, and {asked} makes 7×7 cells of them; take net='mlp', or 'auto'"
        )
    _refuse_scores_of_pixels(settings, asked)


def _refuse_scores_of_pixels(settings: Settings, asked: str) -> None:
    scoring = settings.scoring
    if scoring == "choose":
        raise SettingsError(
            f"scoring = 'choose' chooses by synthetic anomalies drawn on pixels, and {asked} models edges; name a "
            "score, or leave scoring='auto'"
        )
    scores: tuple[Options, ...] = () if isinstance(scoring, str) else (scoring,)
    if isinstance(scoring, Fusion):
        scores = scoring.scores
        if scoring.weighting == "auto" and len(scores) > 1:
            raise SettingsError(
                "fusion with weighting = 'auto' fits its weights to synthetic anomalies drawn on pixels, and "
                f"{asked} models edges; give a number for each score, weighting=({', '.join('1' * len(scores))}), say"
            )
    for score in scores:
        if isinstance(score, InputComplexity | Restoration):
            raise SettingsError(f"score '{score.name}' needs pixels, and {asked} models edges; take scoring='elbo'")
        if isinstance(score, Reconstruction) and score.distance in ("ssim", "cross_entropy"):
            raise SettingsError(
                f"score 'reconstruction' with distance = '{score.distance}' needs pixels, and {asked} models edges; "
                "take distance='l2'"
            )
        if isinstance(score, Neighbours | Mahalanobis) and score.of == "gradients":
            instead = "of='pixels', which here means just these" if isinstance(score, Neighbours) else "of='latent'"
            raise SettingsError(
                f"score '{score.name}' of 'gradients' takes them of pixels, and with {asked} the items are gradients "
                f"already; take {instead}"
            )


def refuse_without_features(settings: Settings) -> None:
    """What works on the places of features alone, and what cannot be asked for at once."""
    asked = [f"{name} = {getattr(settings, name)!s:.60}" for name in ("ignore", "tile") if getattr(settings, name)]
    if not asked:
        return
    if settings.features == "none":
        raise SettingsError(f"{asked[0]} needs features; set features='efficientnet_lite0', say, or leave it out")
    if settings.crop or settings.pad:
        raise SettingsError(f"{asked[0]} is about images as they are; leave crop and pad out")
    if settings.tile is None:
        return
    if settings.ignore is not None:
        raise SettingsError("ignore is by place in the image, and tiles know none; leave one of them out")
    for name in ("align", "light_tolerance"):
        if getattr(settings, name) not in ("none", None):
            raise SettingsError(
                f"{name} compares whole images, tile = {settings.tile} cuts them; leave one of them out"
            )


def refuse_with_features(settings: Settings, objective: Objective) -> None:
    """What has no meaning on patches, or is not there."""
    assert settings.features != "none"
    if objective.factors:
        raise SettingsError(
            f"objective '{settings.objective.name}' splits off nuisance factors of whole images, and with features the "
            "items are places; take cvae, or features='none'"
        )
    if not isinstance(settings.labelled, str):
        raise SettingsError(
            f"labelled = '{settings.labelled.name}' teaches nets of whole items, and with features these are places; "
            "set labelled='auto', which teaches the score of places, or labelled='ignore', or features='none'"
        )
    if settings.augment_condition:
        raise SettingsError("augment_condition shows whole images in many views, not places; leave it out here")
    if settings.ensemble > 1:
        raise SettingsError(
            f"ensemble = {settings.ensemble} is of nets that see whole images, and with features these are places; "
            "leave ensemble out here"
        )
    if settings.class_aware or settings.prior == "separated":
        raise SettingsError("class_aware and prior='separated' tell images apart, not places; leave them out here")
