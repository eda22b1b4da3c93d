"""What a fit decides before it trains: what is learned from, as what, and how the good items are shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from knowngood.calibration import split_normals
from knowngood.config import Settings, parse_settings
from knowngood.errors import DataError, NotEnoughNormals
from knowngood.images import ImageSet, audit
from knowngood.images.conditions import ConditionSchema, Encoded
from knowngood.objectives import Objective
from knowngood.pipeline import READERS, Items, sums_softly
from knowngood.representation import Pixels, Table, prepare_all
from knowngood.scores import Score
from knowngood.training import Source, StreamSource
from knowngood.vae import ConditionalVAE

Part = Literal["fit", "select", "calibrate"]


@dataclass(frozen=True)
class Plan:
    """All that training needs. The pixels of calibration items have been looked at for nothing but their shape."""

    settings: Settings
    normals: Items  # with the columns of the schema alone
    split: dict[str, np.ndarray]
    schema: ConditionSchema
    encoded: Encoded
    representation: Pixels | Table
    objective: Objective
    model: ConditionalVAE
    score: Score

    def part(self, name: Part) -> Items:
        """The normals of one part of the split."""
        return self.normals[self.split[name]]

    def source(self, name: Part) -> Source | StreamSource:
        """Training data of one part: in memory, or streamed if they would take more than `memory_gb`."""
        part, index = self.part(name), self.split[name]
        facts = {"c": self.encoded.c[index], "stratum": self.encoded.stratum[index], "n_strata": self.schema.n_strata}
        large = len(part) * self.representation.bytes_per_image > self.settings.memory_gb * 2**30
        if large and isinstance(part, ImageSet) and isinstance(self.representation, Pixels):
            return StreamSource(part, self.representation, workers=self.settings.workers, **facts)
        return Source(prepare_all(part, self.representation, workers=READERS), self.representation.scale, **facts)


def plan(normals: Items, settings: Settings, seed: int, *, set_aside: bool = True) -> Plan:
    """Decide everything, and refuse now what could only fail after training.

    With `set_aside` false no normals are kept for calibration, since others will calibrate.

    The split comes first: the representation is fitted on the part "fit" alone, else calibration items would be easier
    to represent than new ones, and p-values too small.

    Raises:
        DataError, SettingsError: what is asked for and what is there do not go together.
    """
    objective: Objective = settings.objective.build()
    schema = _learn_conditions(normals, settings, objective)
    normals = only(normals, schema)
    encoded = schema.encode(normals.conditions, len(normals))
    fractions = {"select": settings.select_fraction, "calibrate": settings.calibrate_fraction if set_aside else 0.0}
    split = split_normals(len(normals), encoded.stratum, seed=seed, **fractions)
    if set_aside and not len(split["calibrate"]):
        raise NotEnoughNormals(
            f"{len(normals)} good items leave none to calibrate with at calibrate_fraction = "
            f"{settings.calibrate_fraction:g}; give more good items, a larger fraction, or others "
            "by fit(calibration=...)",
            missing=1,
        )
    fit = normals[split["fit"]]
    representation = Pixels.fit(fit, settings) if isinstance(fit, ImageSet) else Table.fit(fit, settings)
    if isinstance(normals, ImageSet) and isinstance(representation, Pixels):
        for shape in np.unique(normals.shapes(), axis=0):
            representation.check(tuple(shape.tolist()), representation.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build_model(settings, objective, schema, representation)
    score: Score = settings.scoring.build()
    score.check(model.shape)
    sums_softly(settings, score, schema)  # refuses what cannot be summed
    return Plan(settings, normals, split, schema, encoded, representation, objective, model, score)


def audited(items: Items, settings: Settings) -> tuple[Items, list[dict[str, str]]]:
    """The items without unreadable ones, and all findings; refused if more is wrong than the settings tolerate."""
    if not isinstance(items, ImageSet):
        return items, []
    found = audit(items)
    found.check(0.0 if settings.strict else settings.tolerance)
    return found.images, found.to_records()


def only(items: Items, schema: ConditionSchema) -> Items:
    """Items with just the columns that the schema knows."""
    known = {column.name for column in schema.columns}
    return items.replace(conditions={k: v for k, v in items.conditions.items() if k in known})


def _learn_conditions(normals: Items, settings: Settings, objective: Objective) -> ConditionSchema:
    """The schema of the columns that are used: those with roles, or all that vary if the method is conditional."""
    roles = settings.roles
    if roles is None:
        columns = {k: v for k, v in normals.conditions.items() if objective.conditional and len(set(map(str, v))) > 1}
        return ConditionSchema.fit(columns, len(normals))
    missing = [name for name in roles if name not in normals.conditions]
    if missing:
        known = ", ".join(normals.conditions) or "none"
        raise DataError(f"roles name the condition '{missing[0]}', which the data do not have (they have: {known})")
    return ConditionSchema.fit({name: normals.conditions[name] for name in roles}, len(normals), roles)


def _build_model(
    settings: Settings, objective: Objective, schema: ConditionSchema, representation: Pixels | Table
) -> ConditionalVAE:
    shape = representation.shape
    image = len(shape) == 3
    net = settings.net
    if net == "auto":
        net = {"name": "conv" if image and min(shape[1:]) >= 8 else "mlp"}
    likelihood = {"name": "gaussian"} if settings.likelihood == "auto" else settings.likelihood
    chosen = parse_settings({"net": net, "likelihood": likelihood})
    assert chosen.net != "auto"
    assert chosen.likelihood != "auto"
    return ConditionalVAE(
        shape,
        settings.latent_dim or (32 if image else max(1, min(16, math.ceil(shape[0] / 2)))),
        schema.width if objective.conditional else 0,
        chosen.net,
        chosen.likelihood,
        objective.prior if settings.prior == "auto" else settings.prior,
    )
