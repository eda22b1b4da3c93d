"""The model, score and objective that settings mean, once it is known what is learned from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet
from knowngood.data import factor_targets as factors
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.calibrate import sums_out
from knowngood.detector.rows import Items, Representation
from knowngood.errors import SettingsError
from knowngood.models.objectives import Objective
from knowngood.models.objectives.class_aware import ClassAware
from knowngood.models.objectives.lit import Lit
from knowngood.models.objectives.viewed import Viewed
from knowngood.models.patch_gaussian import Patches
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Backbone, Edges, Features, Pixels, Table
from knowngood.scores import Score, build_score
from knowngood.scores.codes import has_edges


def represent(fit: Items, settings: Settings, schema: ConditionSchema, backbone: Backbone | None) -> Representation:
    if settings.align != "none" and settings.features == "none":
        raise SettingsError(
            f"align = '{settings.align}' goes with features; set features='efficientnet_lite0', say, or leave align out"
        )
    if not isinstance(fit, ImageSet):
        if settings.features != "none":
            raise SettingsError(f"features = '{settings.features.name}' needs images; a table was given")
        return Table.fit(fit, settings)
    if settings.features != "none":
        return Features.fit(fit, settings, backbone, schema.columns)
    if backbone is not None:
        raise SettingsError("a backbone of your own is used with features='own'; set that, or leave backbone out")
    if settings.representation == "oriented_gradients":
        return Edges.fit(fit, settings)
    return Pixels.fit(fit, settings)


def build_model(
    settings: Settings,
    objective: Objective,
    schema: ConditionSchema,
    representation: Representation,
    patches: Patches | None = None,
) -> ConditionalVAE:
    shape: tuple[int, ...] = representation.shape if patches is None else representation.shape[:1]
    image = len(shape) == 3
    net, likelihood = settings.net, settings.likelihood
    if net == "auto":
        net = {"name": "conv" if image and min(shape[1:]) >= 8 else "mlp"}
        if patches is not None:
            net = {"name": "mlp", "hidden": (256, 256), "noise": 1.0}
    if likelihood == "auto":
        likelihood = {"name": "gaussian", "sigma": "scalar" if patches is None else "input"}
    chosen = parse_settings({"net": net, "likelihood": likelihood})
    assert chosen.net != "auto"
    assert chosen.likelihood != "auto"
    width = schema.width if objective.conditional else 0
    if patches is not None:
        width = patches.condition_width
    model = ConditionalVAE(
        shape,
        settings.latent_dim or (32 if image or patches is not None else max(1, min(16, math.ceil(shape[0] / 2)))),
        width,
        chosen.net,
        chosen.likelihood,
        objective.prior if settings.prior == "auto" else settings.prior,
        objective.nuisance_dim,
        settings.separation,
        settings.augment_condition,
    )
    model.patches = patches
    return model


def choose_score(settings: Settings, objective: Objective, schema: ConditionSchema, model: ConditionalVAE) -> Score:
    """The score that the settings name, else that of the objective; on patches its ELBO is taken at the mean.

    Where that is the ELBO of whole images of at least 8 pixels a side, it is fused with the nearest good images by
    their edges: a VAE of pixels sees tone, and what an outline tells it sees badly.

    Raises:
        SettingsError: it is not defined for such a model, or cannot be summed over conditions as asked for.
    """
    scoring = settings.scoring
    if isinstance(scoring, str):  # where it is to be chosen, the default until then
        by_mean = model.patches is not None and objective.scoring == "elbo"
        named: Any = {"name": "elbo", "samples": 0} if by_mean else objective.scoring
        if scoring == "auto" and objective.scoring == "elbo" and _has_outlines(settings, model):
            named = ["elbo", {"name": "neighbours", "of": "gradients"}]
        scoring = parse_settings({"scoring": named}).scoring
    assert not isinstance(scoring, str)
    score = build_score(scoring, settings)
    score.check(model)
    sums_out(settings, score, schema)  # refuses what cannot be summed
    return score


def _has_outlines(settings: Settings, model: ConditionalVAE) -> bool:
    """Whether items are whole images of pixels, large enough to have edges."""
    pixels = model.patches is None and settings.representation == "pixels" and settings.tile is None
    return pixels and has_edges(model)


def wrapped(
    objective: Objective,
    settings: Settings,
    schema: ConditionSchema,
    representation: Representation,
    model: ConditionalVAE,
    scaled: factors.Standardised | None,
) -> Objective:
    """The objective under changing light, in many views, with a latent that tells conditions apart, as asked for."""
    if settings.light_tolerance is not None:
        objective = _lit(objective, settings, schema, representation, scaled)
    if settings.class_aware:
        objective = ClassAware(objective, settings.class_aware, *class_vectors(schema, model))
    return objective if model.views is None else Viewed(objective)


def _lit(
    objective: Objective,
    settings: Settings,
    schema: ConditionSchema,
    representation: Representation,
    scaled: factors.Standardised | None,
) -> Objective:
    """The objective under changing light. With features it stays: the light is undone before them."""
    tolerance = settings.light_tolerance
    assert tolerance is not None
    pixels = representation.pixels if isinstance(representation, Features) else representation
    if not isinstance(pixels, Pixels) or pixels.low:
        raise SettingsError(
            f"light_tolerance = {tolerance:g} needs images on which 0 is no light; give scaling=(0, largest value)"
        )
    told = [
        column.name for column in schema.columns if column.name in settings.measure and column.name in Lit.FOLLOWING
    ]
    if told:
        raise SettingsError(
            f"light_tolerance = {tolerance:g} changes the {told[0]} that measure tells the nets as a condition; "
            "leave one of them out"
        )
    if isinstance(representation, Features):
        return objective
    names = objective.factors
    if scaled is None or not set(names) & set(Lit.FOLLOWING):
        return Lit(objective, tolerance)
    widths = [2 if name == "rotation" else 1 for name in names]
    if sum(widths) != objective.factor_width:
        raise SettingsError(f"light_tolerance with the factors {', '.join(names)}: one is text; leave one of both out")
    follows = np.repeat([name in Lit.FOLLOWING for name in names], widths)
    return Lit(objective, tolerance, *(torch.from_numpy(v) for v in (follows, scaled.mean, scaled.std)))


def class_vectors(schema: ConditionSchema, model: ConditionalVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, width) encoded conditions of every combination that occurred, in every view, and the log of their shares."""
    inferable = [column.name for column in schema.columns if "infer" in column.roles]
    known = model.condition_dim and len(schema.cells) > 1
    if not (known or model.views is not None) or len(inferable) < len(schema.columns):
        raise SettingsError(
            "class_aware needs at least two conditions to tell apart, all with the role 'infer', and an objective that "
            "uses conditions; leave it 0 here, or have views told apart by augment_condition"
        )
    cells = schema.expand({}, 1, unknown="infer")
    c, log_shares = torch.from_numpy(cells.c), torch.from_numpy(cells.log_weight)
    if model.views is None:
        return c, log_shares
    n, k = len(c), len(model.views)
    told = model.views.told(c.repeat_interleave(k, 0), torch.arange(k).repeat(n), like=c)
    return told, log_shares.repeat_interleave(k) - math.log(k)
