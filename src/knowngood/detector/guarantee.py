"""What the promised false-alarm rate needs: calibration items that are normal, were not fitted to, and are enough."""

from __future__ import annotations

import math
import warnings

import numpy as np

from knowngood.calibration import minimum_normals
from knowngood.config import counted
from knowngood.config.words import for_caller
from knowngood.data.groups import name_digests
from knowngood.detector.decide import calibrated, limit
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import DataError, NotEnoughNormals

MOST_NAMED = 5  # conditions in a message


def normal_ones(items: Items) -> Items:
    """Items without those labelled anomalous, which never calibrate, and with a warning that counts these.

    Raises:
        DataError: all of them are labelled anomalous.
    """
    anomalous = items.labels == 1
    if n := int(anomalous.sum()):
        text = f"{items.name}: {n:,} of {len(items):,} {items.items} are labelled anomalous"
        if n == len(items):
            raise DataError(f"{text}, so none is left to calibrate on; give normal ones")
        warnings.warn(f"{text}; they are left out of the calibration", stacklevel=3)
    return items[~anomalous]


def check_enough(pipeline: Pipeline, normals: Items) -> None:
    """Raise NotEnoughNormals if these calibration items, one of each group, cannot guarantee the α of the fit."""
    alpha = pipeline.level()
    n = len(normals) if normals.groups is None else len(np.unique(normals.groups))
    of = f" in {n} groups" if n < len(normals) else ""
    needed = minimum_normals(alpha)
    if n < needed:
        raise NotEnoughNormals(
            f"{counted(len(normals), 'normal item')}{of} to calibrate on; {level_text(pipeline)} needs at least "
            f"{needed}, {needed - n} more: with fewer nothing could be flagged. Give more normal items. The "
            "calibration stays as it was.",
            missing=needed - n,
        )


def check_unfitted(pipeline: Pipeline, normals: Items) -> None:
    """Refuse calibration items of which most were fitted to, and warn of a few: what was fitted to scores too low.

    So do others of a group that was fitted to, of which a warning is given where the group column is there.

    Raises:
        DataError: more than half of them have the content of an item that the model was fitted to.
    """
    lower = "these score lower than new ones, and more would be flagged than alpha says"
    if pipeline.fitted_groups is not None:
        column = pipeline.settings.conditioning.group
        akin = np.flatnonzero(np.isin(name_digests(normals, column), pipeline.fitted_groups))
        if len(akin):
            warnings.warn(
                f"{len(akin):,} of {len(normals):,} {normals.items} to calibrate on are of groups (column '{column}') "
                f"that the model was fitted to (first: {normals.ids[akin[0]]}): {lower}. Give {normals.items} of other "
                "groups.",
                stacklevel=3,
            )
    if pipeline.fitted_to is None:
        return
    known = np.flatnonzero(np.isin(normals.digests(), pipeline.fitted_to))
    if not len(known):
        return
    text = (
        f"{len(known):,} of {len(normals):,} {normals.items} to calibrate on are ones that the model was fitted to "
        f"(first: {normals.ids[known[0]]}): {lower}"
    )
    if 2 * len(known) > len(normals):
        raise DataError(f"{text}. Calibrate on normal {normals.items} that were not used for training.")
    warnings.warn(f"{text}. Leave them out.", stacklevel=3)


def level_of(pipeline: Pipeline, alpha: float | None) -> float:
    """The false-alarm rate that is asked for, by default that of the fit: the parameter may have changed since."""
    return pipeline.settings.alpha if alpha is None else alpha


def check_alpha(pipeline: Pipeline, alpha: float | None) -> None:
    """Refuse an α that is asked for and cannot be guaranteed; of the fit's own one only warn.

    Raises:
        NotEnoughNormals: the calibration items are too few for it. SettingsError: it is no false-alarm rate.
    """
    if alpha is None:
        warn_if_no_guarantee(pipeline, stacklevel=4)
    elif pipeline.calibration is not None:
        minimum_normals(alpha)  # refuses what is no false-alarm rate
        level = pipeline.level(alpha)
        pipeline.calibration.refuse(alpha, round(alpha / level))
        for group in pipeline.added:
            if len(group.calibration) < minimum_normals(level):
                warnings.warn(
                    f"{group.name} has {counted(len(group.calibration), 'calibration item')}; alpha = {alpha:g} "
                    f"needs {minimum_normals(level)}: nothing of it is flagged",
                    stacklevel=3,
                )


def warn_if_no_discovery(pipeline: Pipeline, fdr: float) -> None:
    """Say that nothing is flagged at a false discovery rate, where no p-value can be as small.

    Benjamini–Hochberg flags an item only if its p-value is at most `fdr`, even if all the others are anomalous.
    """
    tests = 2 if pipeline.checked else 1
    most = max([len(pipeline.calibration or ()), *(len(group.calibration) for group in pipeline.added)])
    if 0 < fdr < 1 and most < minimum_normals(fdr / tests):
        warnings.warn(
            f"fdr = {fdr:g} can flag nothing with {counted(most, 'calibration item')}, it needs "
            f"{minimum_normals(fdr / tests):,}: fit or calibrate on more normal items, or give a larger fdr",
            stacklevel=3,
        )


def warn_if_no_guarantee(pipeline: Pipeline, stacklevel: int = 3) -> None:
    """Say that nothing is flagged, where the calibration items are too few for the α of the fit."""
    if math.isinf(limit(pipeline)):
        n, needed = len(pipeline.calibration or ()), minimum_normals(pipeline.level())
        warnings.warn(
            f"{level_text(pipeline)} cannot be guaranteed with {counted(n, 'calibration item')}, it needs "
            f"{needed}: nothing is flagged{but_of(pipeline)}. Fit or calibrate on more normal items, or rank "
            "by the anomaly score.",
            stacklevel=stacklevel,
        )


def level_text(pipeline: Pipeline) -> str:
    """'alpha = 0.05', and the level of each test where it is another."""
    alpha = pipeline.settings.alpha
    return f"alpha = {alpha:g}" + f" (half of it for each of two tests, {alpha / 2:g})" * bool(pipeline.checked)


def but_of(pipeline: Pipeline) -> str:
    """' but items of camera=B', of added groups that are large enough for the α of the fit; nothing without any."""
    needed = minimum_normals(pipeline.level())
    names = [group.name for group in pipeline.added if len(group.calibration) >= needed]
    return f" but items of {', '.join(names)}" if names else ""


def warn_of_small(pipeline: Pipeline) -> None:
    """Name the Mondrian groups that are too small for the α of the fit, where others are not."""
    calibration = calibrated(pipeline)
    small = np.flatnonzero(~calibration.own())
    if not len(small) or len(small) == len(calibration.counts):
        return
    named = [f"{calibration.stratum_names[s]} ({calibration.counts[s]})" for s in small[:MOST_NAMED]]
    more = f" and {len(small) - MOST_NAMED:,} more" if len(small) > MOST_NAMED else ""
    columns = [column for column in pipeline.schema.columns if column.roles]
    roles = {column.name: tuple(role for role in column.roles if role != "stratify") for column in columns}
    flags = " ".join(f"--roles {name}={','.join(kept)}" for name, kept in roles.items())
    together = for_caller(f"conditioning={{'roles': {roles!r}}}", flags)
    warnings.warn(
        f"Mondrian groups with too few calibration items: {', '.join(named)}{more}; each needs "
        f"{minimum_normals(calibration.alpha)} at {level_text(pipeline)}. They are compared with all groups "
        "together, without a guarantee of their own. Give more normal items of them, leave them out, or calibrate all "
        f"together: {together}.",
        stacklevel=3,
    )
