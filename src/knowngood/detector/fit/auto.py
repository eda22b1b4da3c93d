"""The recipe: every choice that is "auto", made by what the data are, and one sentence that says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.config import (
    CVAE,
    AutoOptions,
    Elbo,
    FeatureOptions,
    Fusion,
    HOGOptions,
    MemoryBankOptions,
    Neighbours,
    Options,
    PatchDistance,
    PatchGaussianOptions,
    PixelOptions,
    ScoreChoice,
    ScoreOptions,
    Settings,
    SharedGaussianOptions,
    TableOptions,
    VAEOptions,
    parse,
    parse_settings,
)
from knowngood.data import ImageSet
from knowngood.data.tiling.plan import SIZES_DIFFER
from knowngood.detector.fit.inputs import varying
from knowngood.detector.pipeline import Items
from knowngood.errors import SettingsError
from knowngood.representations.features import pose_of
from knowngood.representations.tiled import median_size

PHOTOGRAPH = 64  # pixels of the shorter side from which on images are photographs
SMALLEST_HOG = 8  # pixels of the shorter side that HOG takes
MOST_CLASSES = 64
TILE = 960  # pixels of the side of a tile, at most
KNOWN_KINDS = 10.0  # class_aware of the recipe for known kinds


def resolve(settings: Settings, normals: Items) -> tuple[Settings, str]:
    """The settings without a choice that is "auto", and one sentence: what was chosen and why.

    Photographs (shorter side from 64 px) get features and `patch_gaussian`. Smaller pictures get HOG and a VAE, with
    class-conditional priors where classes are known. Tables get a VAE on standardised columns. Where a model, score or
    representation is named, the rest follows from it: a VAE that is asked for by name works on pixels.

    Raises:
        SettingsError: images where a table is asked for, or the other way round.
    """
    representation, why = settings.representation, "as set"
    if isinstance(representation, AutoOptions):
        chosen, why = _representation(settings, representation, normals)
        representation = _prepared(chosen, representation)
    _check_kind(representation.name, normals)
    tile = _tile(settings, representation, normals)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"tile": tile})})
    if isinstance(representation, FeatureOptions) and representation.align == "auto" and _fixed(settings):
        representation = representation.model_copy(update={"align": "none"})
    values: dict[str, Any] = {"representation": representation}
    model = settings.model
    if isinstance(model, str):
        model = _model(settings, representation.name, normals)
        stated = "unknown" in settings.conditioning.model_fields_set
        if isinstance(model, VAEOptions) and model.prior == "separated" and not stated:
            # Unknown conditions are inferred by a model of known kinds.
            values["conditioning"] = settings.conditioning.model_copy(update={"unknown": "infer"})
    values["model"] = model
    score = settings.score
    if isinstance(score, str):
        score = _score(representation.name, model, normals)
        if isinstance(score, PatchDistance) and isinstance(tile, int):  # a small defect is less than 2 % of a large map
            score = score.model_copy(update={"pooling": "max"})
    values["score"] = score
    method = settings.calibration.method
    if method == "auto":
        method = (
            "cross" if isinstance(model, PatchGaussianOptions | SharedGaussianOptions | MemoryBankOptions) else "split"
        )
    values["calibration"] = settings.calibration.model_copy(update={"method": method})
    named = {name: getattr(settings, name) for name in Settings.model_fields}
    resolved = parse_settings({**named, **values})
    return resolved, _sentence(resolved, normals, why)


def _representation(settings: Settings, asked: AutoOptions, normals: Items) -> tuple[Any, str]:
    if not isinstance(normals, ImageSet):
        return TableOptions(), "the data are a table"
    side, channels = _prepared_shape(asked, normals)
    model, score = settings.model, settings.score
    located = isinstance(score, PatchDistance) if isinstance(model, str) else model.representations == ("features",)
    if isinstance(settings.data.tile, int) or settings.data.ignore is not None or located:
        return FeatureOptions(), "the settings need locations"
    vae = isinstance(model, VAEOptions) or (isinstance(score, ScoreOptions) and score.models == ("vae",))
    if vae or side < SMALLEST_HOG:
        return PixelOptions(), "a VAE is asked for" if vae else f"images of {side} px are too small for HOG"
    if side >= PHOTOGRAPH and channels <= {1, 3}:
        return FeatureOptions(), f"photographs of {side} px (from {PHOTOGRAPH} px on the shorter side)"
    if side >= PHOTOGRAPH:
        return HOGOptions(image_size=PHOTOGRAPH), f"images of {max(channels)} channels"
    return HOGOptions(), f"pictures of {side} px"


def _prepared_shape(asked: AutoOptions, normals: ImageSet) -> tuple[int, set[int]]:
    """The shorter side, in pixels, and the numbers of channels of the images as these options prepare them."""
    side, size = _shorter_side(normals), asked.pad or asked.crop or asked.image_size
    if size is not None:
        side = size if isinstance(size, int) else min(size)
    if asked.grey or asked.colour:
        return side, {3 if asked.colour else 1}
    return side, set(normals.shapes()[:, 2].tolist())


def _prepared(chosen: Options, asked: AutoOptions) -> Options:
    """The chosen representation with the options that were asked for."""
    values = asked.model_dump(exclude_defaults=True)
    if values and isinstance(chosen, TableOptions):
        raise SettingsError(f"representation: the data are a table, which has no {', '.join(values)}; leave it out")
    return chosen.model_copy(update=values)


def _fixed(settings: Settings) -> bool:
    """Whether settings refer to positions in the images as they are."""
    return settings.data.tile != "none" or settings.data.ignore is not None


def _tile(settings: Settings, representation: Any, normals: Items) -> Any:
    """The side of the tiles, or "none": "auto" cuts large pictures that are all of about one size.

    A size, crop or pad that is asked for, and a registration, is of pictures as a whole.
    """
    data = settings.data
    if data.tile != "auto" or not isinstance(representation, FeatureOptions) or not isinstance(normals, ImageSet):
        return "none" if data.tile == "auto" else data.tile
    size = median_size(normals)
    other = (np.abs(normals.shapes()[:, :2] - size) > SIZES_DIFFER * np.array(size)).any()
    whole = representation.image_size or representation.crop or representation.pad or representation.illumination
    if max(size) <= data.tile_above or other or whole or representation.align not in ("auto", "none"):
        return "none"
    return "none" if pose_of(normals, representation) is not None else min(TILE, *size)


def _model(settings: Settings, representation: str, normals: Items) -> Any:
    score = settings.score
    if isinstance(score, ScoreOptions) and "vae" not in score.models and representation != "features":
        return MemoryBankOptions()
    if representation == "features":
        return PatchGaussianOptions()
    if representation == "hog" and isinstance(settings.score, str):
        roles = settings.conditioning.roles
        names = varying(normals) if roles is None else [name for name, given in roles.items() if given]
        classes = [name for name in names if _categorical(normals.conditions.get(name))]
        if names and len(classes) == len(names):
            return VAEOptions(objective=CVAE(), prior="separated", class_aware=KNOWN_KINDS)
    return VAEOptions()


def _score(representation: str, model: Any, normals: Items) -> ScoreOptions:
    if representation == "features":
        return PatchDistance()
    if isinstance(model, MemoryBankOptions):
        return Neighbours()
    if not isinstance(model, VAEOptions):
        return parse(ScoreChoice, getattr(model, "score", "elbo"))
    if representation == "hog" and model.objective.build().score == "elbo":
        separated = model.prior == "separated"
        near = Neighbours(of="latent", cosine=True, coreset=None) if separated else Neighbours(of="items")
        return Fusion(scores=(Elbo(samples=0), near))
    own = model.objective.build().score
    if representation == "pixels" and own == "elbo" and _shorter_side(normals) >= SMALLEST_HOG:
        return Fusion(scores=(Elbo(), Neighbours(of="hog")))
    return parse(ScoreChoice, own)


def _categorical(values: Any) -> bool:
    """Whether a column is text or a few whole numbers, and so names kinds."""
    found = set() if values is None else set(map(str, values))
    decimal = any("." in value and value.replace(".", "").isdigit() for value in found)
    return 2 <= len(found) <= MOST_CLASSES and not decimal


def _shorter_side(normals: Items) -> int:
    """The median of the images' shorter sides, in pixels."""
    return int(np.median(normals.shapes()[:, :2].min(axis=1))) if isinstance(normals, ImageSet) else 0


def _check_kind(representation: str, normals: Items) -> None:
    images = isinstance(normals, ImageSet)
    if images == (representation == "table"):
        given, wanted = ("images", "'pixels', 'hog' or 'features'") if images else ("a table", "'table'")
        raise SettingsError(f"representation = '{representation}': {given} given; take {wanted}, or leave it 'auto'")


def _sentence(settings: Settings, normals: Items, why: str) -> str:
    """'209 normal items, photographs of 256 px (from 64 px on the shorter side): representation features, …'."""
    choices: list[Any] = [settings.representation, settings.model, settings.score]
    representation, model, score = choices
    named = " + ".join(one.name for one in score.scores) if isinstance(score, Fusion) else score.name
    objective = f" ({model.objective.name})" if isinstance(model, VAEOptions) else ""
    kinds = ", class-conditional prior" if getattr(model, "prior", "") == "separated" else ""
    return (
        f"{len(normals):,} normal items, {why}: representation {representation.name}, model {model.name}{objective}"
        f"{kinds}, score {named}, {settings.calibration.method} calibration"
    )
