"""A fitted pipeline takes new normal items, and is calibrated anew on others."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration import minimum_normals, split_normals
from knowngood.config import Shift, VAEOptions, counted
from knowngood.config.words import for_caller
from knowngood.data.groups import name_digests, without
from knowngood.data.joined import joined
from knowngood.detector.added_groups import explain_gone
from knowngood.detector.calibrate import calibrate
from knowngood.detector.fit import Run, learned_pipeline
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.inputs import only
from knowngood.detector.fit.known_defects import learn_defects
from knowngood.detector.fit.learn import Learned, cached, make_source
from knowngood.detector.fit.plan import Plan, factors_of, make_plan
from knowngood.detector.guarantee import check_enough, check_unfitted
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from knowngood.models.base import as_loaded
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores.adjustment import LabelPenalty
from knowngood.training import History

CALIBRATE = 0.5  # of the new items, where no others do


class Updated(NamedTuple):
    """A calibrated pipeline, how many new items it took, its calibration items' name, and the suspicious of them.

    counts: for the record of the data, with a network, whose training and selection items were drawn anew. learned: by
    a network; labels: what came of labelled anomalies.
    """

    pipeline: Pipeline
    taken: int
    calibrated_on: str
    suspicious: list[dict[str, Any]]
    counts: dict[str, int]
    labels: dict[str, Any] | None
    history: History | None  # none without a network


def check_updatable(pipeline: Pipeline, *, old: bool) -> None:
    """Refuse what cannot be updated, before any item is read.

    Args:
        old: whether the old items are given.

    Raises:
        SettingsError: a network without the old items, or old items that are not needed; a model that keeps no sums.
    """
    name = pipeline.settings.model.name  # type: ignore[union-attr]
    if isinstance(pipeline.settings.model, VAEOptions):
        if not old:
            again = for_caller("update(X, old=…)", "`knowngood update MODEL DATA --with OLD`")
            raise SettingsError(
                f"model '{name}' is a network: trained on new images alone it would forget the old ones. Give the data "
                f"that it was trained on again: {again}"
            )
        return
    if getattr(pipeline.model, "update", None) is None or any(key.endswith("codes") for key in pipeline.state):
        raise SettingsError(
            f"model '{name}' with score '{pipeline.score.options.name}' cannot take new items; train on old and new "
            "ones together"
        )
    if old:
        raise SettingsError(
            f"model '{name}' takes new images without the old ones; leave out --with OLD (old=…), or train on old and "
            "new ones together"
        )
    images = getattr(pipeline.model, "images", None)
    if images is not None and not bool(images.all()):
        raise SettingsError("this model was saved without its image counts by an older version; train it again")


def update(
    pipeline: Pipeline,
    new: Items,
    calibrating: Items | None,
    old: Items | None,
    labelled: Items | None,
    seed: int,
    run: Run,
) -> Updated:
    """The pipeline with new normal items; `pipeline` stays as it is. All that can be refused is, before the work.

    Args:
        new: readable normal items in their groups. calibrating: normal items that calibrate; None for half of the new
            ones. old: the normal items fitted to, for a network; labelled: anomalies among them, or known defects on
            features.

    Raises:
        DataError, NotEnoughNormals, SettingsError: see `Detector.update`.
    """
    if old is not None:
        check_old(pipeline, old)
        penalty = any(isinstance(one, LabelPenalty) for one in pipeline.adjustments)
        if labelled is None and (penalty or isinstance(pipeline.settings.labels, Shift)):
            what = "the penalty that" if penalty else "what"
            warnings.warn(
                f"{old.name} has no labelled anomalies, so {what} was learned from some is not learned again; give old "
                "items with their labels, in an ImageSet",
                stacklevel=3,
            )
    new = fresh(pipeline, new, old)
    schema = pipeline.schema
    schema.check_known(new.conditions, len(new))
    if calibrating is None:
        new, calibrating = halves(pipeline, new, seed)
    new = in_groups(pipeline, new)
    fitted = _fitted(pipeline, [some for some in (new, old) if some is not None])
    check_enough(pipeline, calibrating)
    check_unfitted(replace(pipeline, **fitted), calibrating)
    column = pipeline.settings.conditioning.group
    calibrating = without(calibrating, column)
    schema.check_known(calibrating.conditions, len(calibrating))
    schema.expand(stated(pipeline, calibrating), len(calibrating))
    # Columns of added groups are none to learn from.
    factors = factors_of(pipeline.settings)
    new = only(new, schema, factors)
    old, labelled = (None if some is None else only(some, schema, factors) for some in (old, labelled))
    counts: dict[str, int] = {}
    history: History | None = None
    if old is None:
        found, labels = taken_in(pipeline, new, labelled, seed)
    else:
        learned, counts = trained_on(pipeline, old, new, labelled, seed, run)
        found, labels, history = learned.pipeline, learned.labels, learned.history
    if pipeline.added:
        warnings.warn(explain_gone(pipeline.added), stacklevel=3)
    found, suspicious = calibrate(replace(found, **fitted), calibrating, "set")
    return Updated(found, len(new), calibrating.name, suspicious, counts, labels, history)


def _fitted(pipeline: Pipeline, sets: list[Items]) -> dict[str, np.ndarray | None]:
    """What the pipeline is fitted to with these items: `fitted_to` and `fitted_groups`."""
    column = pipeline.settings.conditioning.group
    digests = [some.digests() for some in sets]
    names = [name_digests(some, column) for some in sets]
    digests += [] if pipeline.fitted_to is None else [pipeline.fitted_to]
    names += [] if pipeline.fitted_groups is None else [pipeline.fitted_groups]
    named = np.setdiff1d(np.concatenate(names), [0])
    return {"fitted_to": np.unique(np.concatenate(digests)), "fitted_groups": named if len(named) else None}


def stated(pipeline: Pipeline, items: Items) -> dict[str, Any]:
    """The conditions of items, without columns that are none: factors of the objective, that of groups, and those of
    added groups that the model does not know."""
    added = {name for group in pipeline.added for name in group.values}
    others = {*factors_of(pipeline.settings), pipeline.settings.conditioning.group, *added}
    others -= {column.name for column in pipeline.schema.columns}
    return {name: values for name, values in items.conditions.items() if name not in others}


def check_old(pipeline: Pipeline, old: Items) -> None:
    """Refuse old items of which most are not those fitted to, and warn if some are missing."""
    if pipeline.fitted_to is None:
        return
    n = len(pipeline.fitted_to)
    missing = n - int(np.isin(pipeline.fitted_to, old.digests()).sum())
    if not missing:
        return
    text = f"{missing:,} of the {n:,} {old.items} that the model was trained on are not in {old.name}"
    if 2 * missing > n:
        raise DataError(
            f"{text}, and it would forget them. Give the data that it was trained on by --with OLD (old=…)."
        )
    warnings.warn(f"{text}; it may forget them", stacklevel=4)


def fresh(pipeline: Pipeline, new: Items, old: Items | None) -> Items:
    """The new items that the model was not fitted to and that are not among the old ones: none may count twice.

    Raises:
        DataError: there are none.
    """
    known = [pipeline.fitted_to, None if old is None else old.digests()]
    seen = np.isin(
        new.digests(), np.concatenate([np.zeros(0, np.int64), *(some for some in known if some is not None)])
    )
    if seen.all():
        raise DataError(
            f"{new.name}: the model was fitted to all it holds, {counted(len(new), new.item)}, already; give new ones"
        )
    if seen.any():
        warnings.warn(
            f"{seen.sum():,} of {len(new):,} {new.items} are left out: the model was fitted to them already",
            stacklevel=4,
        )
    return new[~seen]


def in_groups(pipeline: Pipeline, new: Items) -> Items:
    """The new items without those whose known values no old item had together: they are in no Mondrian group.

    Raises:
        DataError: there are no others, or a column is not one of the model's.
    """
    expanded = pipeline.schema.expand(stated(pipeline, new), len(new))
    unseen = np.flatnonzero(expanded.stratum < 0)
    if len(unseen):
        text = (
            f"{len(unseen):,} of {counted(len(new), new.item)} to learn from have a combination of conditions that no "
            f"old {new.item} had (first, {new.ids[unseen[0]]}: {expanded.label[unseen[0]]})"
        )
        if len(unseen) == len(new):
            raise DataError(f"{new.name}: {text}; train on old and new ones together")
        warnings.warn(f"{text}; they are left out", stacklevel=4)
    return new[expanded.stratum >= 0]


def halves(pipeline: Pipeline, new: Items, seed: int) -> tuple[Items, Items]:
    """Half of the new items to take in, and half to calibrate on; at random, items of one group together.

    Raises:
        NotEnoughNormals: the half is too small for the α of the fit.
    """
    alpha, kinds = pipeline.level(), pipeline.schema.kinds(new.conditions, len(new))
    split = split_normals(len(new), kinds, groups=new.groups, select=0, calibrate=CALIBRATE, seed=seed)
    apart = new[split["calibrate"]]
    independent = len(apart) if apart.groups is None else len(np.unique(apart.groups))
    needed = minimum_normals(alpha)
    if independent < needed:
        of = " independent" if independent < len(apart) else ""
        raise NotEnoughNormals(
            f"{counted(len(new), f'new normal {new.item}')}, of which half calibrate ({independent}{of}); alpha = "
            f"{alpha:g} needs {needed} to calibrate, so give {2 * needed} new ones, or others that only "
            "calibrate by --calibrate-on DATA (calibration_set=…). Nothing was changed.",
            missing=2 * needed - len(new) if independent == len(apart) else 2 * (needed - independent),
        )
    return new[split["fit"]], apart


def taken_in(
    pipeline: Pipeline, new: Items, labelled: Items | None, seed: int
) -> tuple[Pipeline, dict[str, Any] | None]:
    """The pipeline whose model, without a network, holds the new items too; and what came of known defects.

    Its score keeps its state; that of known defects is added.
    """
    schema, settings = pipeline.schema, pipeline.settings
    encoded = schema.expand(new.conditions, len(new))
    plan = Plan(
        settings=settings, schema=schema, normals=new, encoded=encoded, split={}, seed=seed, ignore=pipeline.ignore
    )
    model: Any = deepcopy(pipeline.model).cpu()
    read: Any = pipeline.representation
    if labelled is not None and learns_defects(pipeline):
        read = cached(plan, read, new)  # type: ignore[arg-type]
    model.update(make_source(plan, np.arange(len(new)), read, None, model.condition_dim))
    as_loaded(model)
    found = replace(pipeline, model=model.to(pipeline.device))
    if not isinstance(read, CachedFeatures) or labelled is None:
        return found, None
    return learn_defects(found, new, labelled, read.of_items(new), seed)  # type: ignore[arg-type]


def learns_defects(pipeline: Pipeline) -> bool:
    """Whether labelled anomalies are known defects that an update can take."""
    return isinstance(pipeline.model, PatchGaussian) and pipeline.settings.labels != "ignore"


def trained_on(
    pipeline: Pipeline, old: Items, new: Items, labelled: Items | None, seed: int, run: Run
) -> tuple[Learned, dict[str, int]]:
    """The pipeline whose network was trained on old and new items, from its present weights; and counts."""
    schema, normals = pipeline.schema, joined(old, new)  # type: ignore[type-var]
    anomalies, settings = normals[:0] if labelled is None else labelled, pipeline.settings
    asked = settings if labelled is not None else settings.model_copy(update={"labels": "ignore"})
    plan = make_plan(normals, anomalies, asked, seed, set_aside=False, like=old)
    normals = only(normals, schema)
    plan = replace(
        plan,
        settings=plan.settings.model_copy(update={"labels": settings.labels}),
        schema=schema,
        normals=normals,
        encoded=schema.expand(normals.conditions, len(normals)),
        labelled=None if plan.labelled is None else only(anomalies, schema),
    )
    found, learned = learned_pipeline(plan, pipeline.representation, run, pipeline)
    counts = {"normals": len(normals), "fit": len(plan.split["fit"]), "select": len(plan.split["select"])}
    return replace(learned, pipeline=found), counts
