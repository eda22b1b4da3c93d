"""What a fit or a detector is given, as it takes it: audited, measured, with the columns that are used."""

from __future__ import annotations

import numpy as np

from knowngood.config import LabelledTerm, Settings, parse_settings
from knowngood.data import ImageSet, audit
from knowngood.data import factor_targets as factors
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.rows import READERS, Items, Representation
from knowngood.errors import DataError, SettingsError
from knowngood.models.objectives import Objective
from knowngood.representations import prepare_all
from knowngood.training import Source


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


def learn_conditions(normals: Items, settings: Settings, objective: Objective) -> ConditionSchema:
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


def labelled_term(settings: Settings, objective: Objective) -> LabelledTerm | None:
    """How labelled anomalies teach: as the settings say, or "auto" as the objective is defined; None for not at all."""
    term = objective.anomaly_term if settings.labelled == "auto" else settings.labelled
    options = parse_settings({"labelled": term}).labelled
    return None if isinstance(options, str) else options


def anomaly_source(
    anomalies: Items,
    schema: ConditionSchema,
    representation: Representation,
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
