"""What a fit decides before it trains: what is learned from, as what, and how the good items are shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from knowngood import factors
from knowngood.calibration import split_normals
from knowngood.config import LabelledTerm, Settings, parse_settings
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from knowngood.images import ImageSet, audit
from knowngood.images.conditions import ConditionSchema, Encoded
from knowngood.objectives import Objective
from knowngood.objectives.class_aware import ClassAware
from knowngood.objectives.lit import Lit
from knowngood.pipeline import READERS, Items, sums_softly
from knowngood.representation import Pixels, Table, prepare_all
from knowngood.scores import Score, build_score
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
    factors: np.ndarray | None = None  # (N, K) standardised nuisance factors of the normals, NaN where not shown
    anomalies: Source | None = None  # labelled ones that training uses

    def part(self, name: Part) -> Items:
        """The normals of one part of the split."""
        return self.normals[self.split[name]]

    def source(self, name: Part) -> Source | StreamSource:
        """Training data of one part: in memory, or streamed if they would take more than `memory_gb`."""
        part, index = self.part(name), self.split[name]
        facts = {"c": self.encoded.c[index], "stratum": self.encoded.stratum[index], "n_strata": self.schema.n_strata}
        facts["factors"] = None if self.factors is None else self.factors[index]
        large = len(part) * self.representation.bytes_per_image > self.settings.memory_gb * 2**30
        if large and isinstance(part, ImageSet) and isinstance(self.representation, Pixels):
            return StreamSource(part, self.representation, workers=self.settings.workers, **facts)
        return Source(prepare_all(part, self.representation, workers=READERS), self.representation.scale, **facts)


def plan(
    normals: Items, settings: Settings, seed: int, *, anomalies: Items | None = None, set_aside: bool = True
) -> Plan:
    """Decide everything, and refuse now what could only fail after training.

    With `set_aside` false no normals are kept for calibration, since others will calibrate. `anomalies` are labelled
    ones; the objective and the settings say whether they teach or are left out.

    The split comes first: the representation is fitted on the part "fit" alone, else calibration items would be easier
    to represent than new ones, and p-values too small.

    Raises:
        DataError, SettingsError: what is asked for and what is there do not go together.
    """
    objective: Objective = settings.objective.build()
    if settings.prior == "separated" and not objective.conditional:
        raise SettingsError(
            f"prior = 'separated' holds conditions apart, and objective '{settings.objective.name}' ignores conditions;"
            " take cvae or dcvae, or another prior"
        )
    if not isinstance(settings.labelled, str) and not (anomalies is not None and len(anomalies)):
        raise SettingsError(
            f"labelled = '{settings.labelled.name}', and no item is labelled anomalous; give anomalies=, or leave "
            "labelled out"
        )
    schema = _learn_conditions(normals, settings, objective)
    targets = factors.targets(normals, objective.factors)
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
    scaled = None
    if targets is not None:
        objective.factor_width = targets.shape[1]
        scaled = factors.Standardised.fit(targets[split["fit"]])
        shown = factors.shown(targets, objective.labelled_share, seed)
        targets = scaled(np.where(shown[:, None], targets, np.nan))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build_model(settings, objective, schema, representation)
    scoring = parse_settings({"scoring": objective.scoring}).scoring if settings.scoring == "auto" else settings.scoring
    assert scoring != "auto"
    score = build_score(scoring, settings)
    score.check(model)
    sums_softly(settings, score, schema)  # refuses what cannot be summed
    if settings.light_tolerance is not None:
        objective = _lit(objective, settings, schema, representation, scaled)
    if settings.class_aware:
        objective = ClassAware(objective, settings.class_aware, *_class_vectors(schema, model))
    taught = None
    options = labelled_term(settings, objective)
    if options is not None and anomalies is not None and len(anomalies):
        taught = _anomaly_source(anomalies, schema, representation, objective, scaled)
        objective = options.build(objective)
    return Plan(settings, normals, split, schema, encoded, representation, objective, model, score, targets, taught)


def _lit(
    objective: Objective,
    settings: Settings,
    schema: ConditionSchema,
    representation: Pixels | Table,
    scaled: factors.Standardised | None,
) -> Objective:
    """The objective under changing light."""
    tolerance = settings.light_tolerance
    assert tolerance is not None
    if not isinstance(representation, Pixels) or representation.low:
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
    names = objective.factors
    if scaled is None or not set(names) & set(Lit.FOLLOWING):
        return Lit(objective, tolerance)
    widths = [2 if name == "rotation" else 1 for name in names]
    if sum(widths) != objective.factor_width:
        raise SettingsError(f"light_tolerance with the factors {', '.join(names)}: one is text; leave one of both out")
    follows = np.repeat([name in Lit.FOLLOWING for name in names], widths)
    return Lit(objective, tolerance, *(torch.from_numpy(v) for v in (follows, scaled.mean, scaled.std)))


def _class_vectors(schema: ConditionSchema, model: ConditionalVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, W) encoded conditions of every combination that occurred, and the log of their shares (K,)."""
    inferable = [column.name for column in schema.columns if "infer" in column.roles]
    if not model.condition_dim or len(schema.cells) < 2 or len(inferable) < len(schema.columns):
        raise SettingsError(
            "class_aware needs at least two conditions to tell apart, all with the role 'infer', and an objective that "
            "uses conditions; leave it 0 here"
        )
    cells = schema.expand({}, 1, unknown="infer")
    return torch.from_numpy(cells.c), torch.from_numpy(cells.log_weight)


def _anomaly_source(
    anomalies: Items,
    schema: ConditionSchema,
    representation: Pixels | Table,
    objective: Objective,
    scaled: factors.Standardised | None,
) -> Source:
    """Labelled anomalies as training data. The conditions of one that lacks some, or has a new value, are NaN."""
    targets = factors.targets(anomalies, objective.factors)
    rows = schema.encode_or_nan(anomalies.conditions, len(anomalies))
    facts: dict[str, np.ndarray] = {"c": rows, "label": np.ones(len(anomalies))}
    if targets is not None and scaled is not None:
        facts["factors"] = scaled(targets)
    return Source(prepare_all(anomalies, representation, workers=READERS), representation.scale, **facts)


def labelled_term(settings: Settings, objective: Objective) -> LabelledTerm | None:
    """How labelled anomalies teach: as the settings say, or "auto" as the objective is defined; None for not at all."""
    term = objective.anomaly_term if settings.labelled == "auto" else settings.labelled
    options = parse_settings({"labelled": term}).labelled
    return None if isinstance(options, str) else options


def audited(items: Items, settings: Settings) -> tuple[Items, list[dict[str, str]]]:
    """The items without unreadable ones, and all findings; refused if more is wrong than the settings tolerate."""
    if not isinstance(items, ImageSet):
        return items, []
    found = audit(items)
    found.check(0.0 if settings.strict else settings.tolerance)
    return found.images, found.to_records()


def measured(items: Items, settings: Settings, schema: ConditionSchema | None = None) -> Items:
    """Items with the nuisance factors of the settings as columns; once fitted, those that the schema knows.

    Raises:
        SettingsError: the items are a table.
    """
    names: tuple[str, ...] = settings.measure
    if not names:
        return items
    if not isinstance(items, ImageSet):
        raise SettingsError(f"measure = {', '.join(names)} needs images; a table was given")
    if schema is None:
        return factors.with_measured(items, names)
    columns = {column.name: column for column in schema.columns}
    means = {name: float(columns[name].mean) for name in names if name in columns}
    return factors.with_measured(items, tuple(means), means)


def only(items: Items, schema: ConditionSchema) -> Items:
    """Items with just the columns that the schema knows."""
    known = {column.name for column in schema.columns}
    return items.replace(conditions={k: v for k, v in items.conditions.items() if k in known})


def _learn_conditions(normals: Items, settings: Settings, objective: Objective) -> ConditionSchema:
    """The schema of the columns that are used: those with roles, or all that vary if the method is conditional."""
    roles = settings.roles
    if roles is None:
        usable = {k: v for k, v in normals.conditions.items() if objective.conditional and k not in objective.factors}
        columns = {k: v for k, v in usable.items() if len(set(map(str, v))) > 1}
        return ConditionSchema.fit(columns, len(normals))
    twice = [name for name in roles if name in objective.factors]
    if twice:
        raise SettingsError(
            f"'{twice[0]}' is a nuisance factor of {settings.objective.name} and a condition at once; "
            "leave it out of roles, or out of factors"
        )
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
        objective.nuisance_dim,
        settings.separation,
    )
