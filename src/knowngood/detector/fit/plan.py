"""What a fit decides before anything is learned: the normal items, their conditions, and who calibrates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from knowngood.calibration import split_normals
from knowngood.config import Settings, Shift, VAEOptions
from knowngood.data.conditions import ConditionSchema, Expanded
from knowngood.data.factor_targets import shown, targets
from knowngood.data.readers.limits import Limits
from knowngood.data.regions.blanked import read_ignored
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.detector.fit.checked import with_checked
from knowngood.detector.fit.inputs import fit_conditions, only
from knowngood.detector.pipeline import Items
from knowngood.errors import NotEnoughNormals, SettingsError
from knowngood.models.objectives.base import Objective
from knowngood.representations import Backbone


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a fit starts from. Settings are resolved.

    normals: N normal items, with the columns of the schema alone, and their groups; encoded: their conditions. Numbers
    of the schema are learned from the normals that are fitted to. split: positions of those
    that are fitted to ("fit"), held out for early stopping and the like ("select"), and that only calibrate
    ("calibrate"; none where the calibration is cross-conformal or other items calibrate). factors: (N, K) nuisance
    factors, NaN where unknown, not yet standardised. labelled: anomalies that the score or the objective may learn
    from; labelled_factors: theirs. shift: how the objective uses them, None for not at all. chosen: (N,) normals that
    are fitted to and never calibrate, since they were chosen by their score; None where all were drawn.
    """

    settings: Settings
    schema: ConditionSchema
    normals: Items
    encoded: Expanded
    split: dict[str, np.ndarray]
    seed: int
    factors: np.ndarray | None = None
    labelled: Items | None = None
    labelled_factors: np.ndarray | None = None
    shift: Shift | None = None
    ignore: IgnoreRegions | None = None
    backbone: Backbone | None = None
    chosen: np.ndarray | None = None


def make_plan(
    normals: Items,
    labelled: Items,
    settings: Settings,
    seed: int,
    *,
    set_aside: bool = True,
    backbone: Backbone | None = None,
    chosen: np.ndarray | None = None,
    like: Items | None = None,
) -> Plan:
    """Decide, and refuse what could only fail later.

    Args:
        labelled: known anomalies.
        settings: resolved.
        set_aside: whether normals calibrate; else other items will.
        chosen: (N,) normals that never do. like: items whose values are the entries of factors, see `targets`; default
            the normals.

    Raises:
        DataError, SettingsError: the settings and the data do not fit together.
    """
    objective = build_objective(settings)
    schema = fit_conditions(normals, settings, objective)
    like = normals if like is None else like
    factors = None if objective is None else targets(normals, objective.factors, like)
    theirs = targets(labelled, objective.factors, like) if objective is not None and len(labelled) else None
    if factors is not None and objective is not None:  # NaN for items that do not show theirs
        factors = np.where(shown(factors, objective.labelled_share, seed)[:, None], factors, np.nan)
    normals, labelled = only(normals, schema), only(labelled, schema)
    kinds, drawn = schema.kinds(normals.conditions, len(normals)), np.arange(len(normals))
    if chosen is not None:
        drawn = np.flatnonzero(~chosen)
    split = _split(normals[drawn], kinds[drawn], settings, seed, set_aside=set_aside)
    split = {part: drawn[at] for part, at in split.items()}
    if chosen is not None:
        split["fit"] = np.union1d(split["fit"], _apart(normals, chosen, split))
    schema = schema.refit(normals.conditions, len(normals), split["fit"])
    settings = with_checked(settings, schema, objective)
    width = schema.width if objective is None or objective.conditional else 0
    data, limits = settings.data, Limits.of(settings.data)
    ignore = None if data.ignore is None else read_ignored(data.ignore, schema, width, limits)
    return Plan(
        settings=settings,
        schema=schema,
        normals=normals,
        encoded=schema.expand(normals.conditions, len(normals)),
        split=split,
        seed=seed,
        factors=factors,
        labelled=labelled if len(labelled) and settings.labels != "ignore" else None,
        labelled_factors=theirs,
        shift=_shift(settings, objective, labelled),
        ignore=ignore,
        backbone=backbone,
        chosen=chosen,
    )


def learned_from(plan: Plan, rows: np.ndarray) -> Plan:
    """The plan with the numbers of the schema learned from the normals at `rows` alone, for example without a fold."""
    conditions, n = plan.normals.conditions, len(plan.normals)
    schema = plan.schema.refit(conditions, n, rows)
    return replace(plan, schema=schema, encoded=schema.expand(conditions, n))


def build_objective(settings: Settings) -> Objective | None:
    """The objective of a VAE; None for models without one."""
    return settings.model.objective.build() if isinstance(settings.model, VAEOptions) else None


def factors_of(settings: Settings) -> tuple[str, ...]:
    """Names of the nuisance factors of the objective: columns that are no conditions."""
    objective = build_objective(settings)
    return () if objective is None else objective.factors


def _split(
    normals: Items, kinds: np.ndarray, settings: Settings, seed: int, *, set_aside: bool
) -> dict[str, np.ndarray]:
    options = settings.calibration
    sets_aside = set_aside and options.method == "split"
    select = options.select_fraction if isinstance(settings.model, VAEOptions) else 0.0
    fractions = {"select": select, "calibrate": options.fraction if sets_aside else 0.0}
    groups = normals.groups
    independent = len(normals) if groups is None else len(np.unique(groups))
    if set_aside and 1 == independent < len(normals):
        raise NotEnoughNormals(
            f"all {len(normals)} normal items belong together: they are copies of each other or have one value of "
            f"{settings.conditioning.group!r}, and none is left to calibrate with. Give normal items of other groups, "
            "or other ones by fit(calibration_set=…)",
            missing=1,
        )
    split = split_normals(len(normals), kinds, groups=groups, seed=seed, **fractions)
    if sets_aside and not len(split["calibrate"]):
        strata = len(np.unique(kinds))
        why = f" ({strata} Mondrian groups, each of which keeps one to fit to)" * (strata > 1)
        roles = ", or conditioning={'roles': …} without 'stratify' for a column of many values" * (strata > 1)
        raise NotEnoughNormals(
            f"{len(normals)} normal items{_in_groups(independent, len(normals))} leave none to calibrate with at "
            f"fraction = {options.fraction:g}{why}; give more normal items, a larger calibration={{'fraction': …}}, "
            f"others by fit(calibration_set=…){roles}",
            missing=1,
        )
    return split


def _apart(normals: Items, chosen: np.ndarray, split: dict[str, np.ndarray]) -> np.ndarray:
    """Positions of the chosen items of which no other item of their group is set aside; a warning counts the others.

    What is set aside does not depend on the choice: it was made by scores.
    """
    positions = np.flatnonzero(chosen)
    if normals.groups is None:
        return positions
    aside = normals.groups[np.concatenate([split["select"], split["calibrate"]])]
    held = np.isin(normals.groups[positions], aside)
    if held.any():
        warnings.warn(
            f"{held.sum():,} of {len(positions):,} {normals.items} that are only fitted to (fit_only) are left out: "
            "others of their group are set aside to calibrate, or for early stopping",
            stacklevel=5,
        )
    return positions[~held]


def _in_groups(groups: int, items: int) -> str:
    return "" if groups == items else f" in {groups} groups"


def _shift(settings: Settings, objective: Objective | None, labelled: Items) -> Shift | None:
    """How labelled anomalies enter the training of a network."""
    if isinstance(settings.labels, Shift):
        if objective is None:
            raise SettingsError(
                f"labels = 'shift' is a term of training, and model '{settings.model.name}' has no network; leave "  # type: ignore[union-attr]
                "labels='auto'"
            )
        if not len(labelled):
            raise SettingsError("labels = 'shift', and no item is labelled anomalous; give anomalies=, or leave it out")
        return settings.labels
    learns = objective is not None and objective.learns_from_anomalies and len(labelled) > 0
    return Shift() if learns and settings.labels == "auto" else None
