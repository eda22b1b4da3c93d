"""What a fit or a detector is given, as it takes it: audited, measured, with the columns that are used."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np

from knowngood.config import Settings, counted
from knowngood.config.words import in_command
from knowngood.data import ImageSet
from knowngood.data.audit import Audit, audit
from knowngood.data.columns import identifies
from knowngood.data.conditions import ConditionSchema
from knowngood.data.factor_targets import with_measured
from knowngood.data.groups import linked
from knowngood.data.joined import joined
from knowngood.detector.pipeline import Items
from knowngood.errors import DataError, SettingsError
from knowngood.models.objectives.base import Objective

MOST_NAMED = 5  # files that are set aside, in a warning


def audited(items: Items, settings: Settings) -> tuple[Items, list[dict[str, str]]]:
    """The items without unreadable ones, in their groups, and all findings. The group column stays.

    Raises:
        DataError: more is wrong than the settings tolerate; there is no group column of the name that is set.
    """
    column = settings.conditioning.group
    if column in (settings.conditioning.roles or ()):
        raise SettingsError(
            f"conditioning: '{column}' is the group column and in roles; leave it out of roles, or set "
            "conditioning={'group': None} to use it as a condition"
        )
    if not isinstance(items, ImageSet):
        return linked(items, column), []
    found = audit(items, column)
    found.check(0.0 if settings.data.strict else settings.data.tolerance)
    if not in_command():  # which shows all findings
        _warn_of_unusable(items, found)
    return linked(found.images, column), found.to_records()


def _warn_of_unusable(items: ImageSet, found: Audit) -> None:
    if aside := found.unusable:
        named = "; ".join(map(str, aside[:MOST_NAMED])) + "; …" * (len(aside) > MOST_NAMED)
        n = f"{len(aside):,} of {counted(found.total, items.item)}"
        warnings.warn(f"{items.name}: {n} set aside: {named}", stacklevel=5)


def readable(items: Items, settings: Settings, tolerance: float | None = None) -> Items:
    """Further items than those of the fit, in their groups, without unreadable files, which a warning names.

    The group column need not be there.

    Args:
        tolerance: share of files that may be unreadable; default as fitted.

    Raises:
        DataError: more are; or none is left.
    """
    column = settings.conditioning.group
    column = column if column in items.conditions else None
    if isinstance(items, ImageSet):
        found = audit(items, column)
        default = 0.0 if settings.data.strict else settings.data.tolerance
        found.check(default if tolerance is None else tolerance)
        _warn_of_unusable(items, found)
        given = None if items.groups is None else items.groups[np.isin(items.ids, found.images.ids)]
        items = found.images if given is None else found.images.replace(groups=given)
    return linked(items, column)


def measured(items: Items, settings: Settings, schema: ConditionSchema | None = None) -> Items:
    """Items with the measured image factors as columns; once fitted, those that the schema knows.

    Raises:
        SettingsError: the items are a table.
    """
    names: tuple[str, ...] = settings.conditioning.measure
    if not names:
        return items
    if not isinstance(items, ImageSet):
        raise SettingsError(f"conditioning: measure = {', '.join(names)} needs images; a table was given")
    if schema is None:
        return with_measured(items, names)
    columns = {column.name: column for column in schema.columns}
    means = {name: float(columns[name].mean) for name in names if name in columns}
    return with_measured(items, tuple(means), means)


def only(items: Items, schema: ConditionSchema, further: Collection[str] = ()) -> Items:
    """Items with just the columns that the schema knows, and further ones."""
    known = {*(column.name for column in schema.columns), *further}
    return items.replace(conditions={k: v for k, v in items.conditions.items() if k in known})


def without_identifiers(
    items: Items, asked: Collection[str], kept: Collection[str | None] = ()
) -> tuple[Items, list[str]]:
    """Items without the columns that name them (serial numbers, time stamps), and those columns.

    Args:
        asked: columns that are to be conditions. kept: columns that are none and stay, as the group column and nuisance
            factors do.

    Raises:
        DataError: a column that was asked for as a condition names the items.
    """
    names = [name for name, values in items.conditions.items() if name not in kept and identifies(values)]
    if wrong := [name for name in names if name in asked]:
        first = items.conditions[wrong[0]][0]
        raise DataError(
            f"condition '{wrong[0]}' has another value for each of the {len(items):,} {items.items}, such as "
            f"'{first}': a serial number or a time stamp describes no kind of item. Leave this column out."
        )
    return items.replace(conditions={k: v for k, v in items.conditions.items() if k not in names}), names


def with_chosen(normals: Items, labelled: Items, more: Items) -> tuple[Items, Items, np.ndarray | None]:
    """Normal items and labelled anomalies with those that are learned from beside them, and which are these normals.

    Normal items that are among the others already count once, as those.
    """

    def both(first: Items, second: Items) -> Items:
        groups = np.concatenate([first.groups, second.groups])  # type: ignore[list-item]
        return joined(first, second).replace(groups=groups)  # type: ignore[type-var]

    good, bad = more[more.labels != 1], more[more.labels == 1]
    good = good[~np.isin(good.digests(), normals.digests())]
    labelled = both(labelled, bad) if len(bad) else labelled
    if not len(good):
        return normals, labelled, None
    return both(normals, good), labelled, np.arange(len(normals) + len(good)) >= len(normals)


def varying(items: Items) -> list[str]:
    """The condition columns with more than one value."""
    return [name for name, values in items.conditions.items() if len(set(map(str, values))) > 1]


def fit_conditions(normals: Items, settings: Settings, objective: Objective | None) -> ConditionSchema:
    """The schema of the columns that are used: those with roles, or all that vary if the model is conditional."""
    roles = settings.conditioning.roles
    factors = () if objective is None else objective.factors
    if roles is None:
        conditional = objective is None or objective.conditional
        used = [name for name in varying(normals) if conditional and name not in factors]
        return ConditionSchema.fit({name: normals.conditions[name] for name in used}, len(normals))
    twice = [name for name in roles if name in factors]
    if twice:
        raise SettingsError(
            f"'{twice[0]}' is a nuisance factor of the objective and a condition at once; leave it out of "
            "conditioning.roles, or out of the objective's factors"
        )
    missing = [name for name in roles if name not in normals.conditions]
    if missing:
        known = ", ".join(normals.conditions) or "none"
        raise DataError(f"roles name the condition '{missing[0]}', which the data do not have (they have: {known})")
    return ConditionSchema.fit({name: normals.conditions[name] for name in roles}, len(normals), roles)


def warn_of_labels(y: Any) -> None:
    """Say that `fit` ignores y, where it may mark anomalies, by −1 beside 1 or by 1 beside 0, or is text."""
    labels = np.zeros(0) if y is None else np.asarray(y)
    if labels.ndim == 1 and len(labels) and all(isinstance(one, str) for one in labels.tolist()):
        warnings.warn(
            f"y is ignored, as by every outlier detector; it is text, such as {labels.tolist()[0]!r}. If that is what "
            'is known of each item, give it a name: conditions={"kind": y}',
            stacklevel=3,
        )
    found = set(np.unique(labels).tolist()) if labels.ndim == 1 and labels.dtype.kind in "biuf" else set()
    if found in ({-1, 1}, {0, 1}):
        mark = -1 if -1 in found else 1  # of scikit-learn, or of PyOD
        n = counted(int((labels == mark).sum()), "item")
        warnings.warn(
            f"y is ignored, as by every outlier detector: the {n} with y = {mark} count as normal. If they are "
            f"anomalous, fit to the others alone, or name them by anomalies=(y == {mark})",
            stacklevel=3,
        )
