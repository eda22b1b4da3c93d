"""What is said of a batch that is not like the calibration items: that it is not, the likely cause, the way out."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.calibration import misfit, misfit_words
from knowngood.config.words import for_caller
from knowngood.data import ImageSet
from knowngood.detector.decide import Decisions, calibrated
from knowngood.detector.image_statistics import CAUSES, Change
from knowngood.detector.pipeline import Items, Pipeline

SHARED, INFERRED = -1, -2  # groups whose calibration items are those of others too; see `misfit`
NAMED = 3  # statistics and groups in a sentence
MOST_CAUSES = 2


def batch_remark(
    pipeline: Pipeline,
    items: Items,
    decisions: Decisions,
    alpha: float | None = None,
    fitted: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """A sentence on a batch that is not like the calibration items, and its facts as plain data; None if it may be.

    Items labelled normal count where there are any, else all that are not labelled anomalous. Keys: sentence; items,
    flagged and expected at alpha; labelled: they are labelled normal; groups: Mondrian groups that stand out, if only
    some do; changes: statistics of their images that are not as in the calibration images, most first (`Change`);
    unseen: the names of those that the representation does not see, which are no cause.

    Args:
        fitted: (N,) items that were fitted to; they do not score as new ones do, and so do not count.
    """
    alpha = pipeline.level(alpha)
    read, labels = ~np.isnan(decisions.p_values), items.labels
    read &= True if fitted is None else ~fitted
    labelled = bool((read & (labels == 0)).any())
    counted = np.flatnonzero(read & ((labels == 0) if labelled else (labels != 1)))
    code, normals = references_of(pipeline, decisions, alpha)
    found = misfit(decisions.p_values[counted], normals[counted], alpha, code[counted])
    if found is None:
        return None
    some = found.groups if set(found.groups) < set(code[counted].tolist()) else ()
    counted = counted[np.isin(code[counted], some)] if some else counted
    names = _names(pipeline, some)
    changes = _changes(pipeline, items[counted], decisions.group[counted], decisions.strata[counted])
    seen = [change for change in changes if change.name not in pipeline.unseen]
    unseen = [change for change in changes if change.name in pipeline.unseen]
    remark: dict[str, Any] = {"items": found.items, "flagged": found.flagged, "expected": round(found.expected, 1)}
    remark |= {"alpha": alpha, "labelled": labelled, "groups": names, "changes": [one._asdict() for one in changes]}
    remark["unseen"] = [one.name for one in unseen]
    what = f"{items.items} labelled normal" if labelled else items.items
    start = misfit_words(found, what, items.items, alpha)
    start += f" (most of all {', '.join(names[:NAMED])})" if names else ""
    cause = _cause(items, found.flagged, found.items, labelled, seen)
    return {
        "sentence": f"{start}: {cause}. {_way_out(pipeline, decisions.group[counted], labelled, items.items)}",
        **remark,
    }


def references_of(pipeline: Pipeline, decisions: Decisions, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the group whose calibration items each item was compared with, and how many these are."""
    calibration, known, group = calibrated(pipeline), decisions.best.known, decisions.group
    stratum = decisions.strata
    own = np.append(calibration.own(alpha), False)[stratum]  # −1: in no group
    code = np.where(own, stratum, SHARED)
    normals = np.where(own, np.append(calibration.counts, 0)[stratum], len(calibration))
    marginal = pipeline.marginal_calibration
    sizes = [len(calibration), *calibration.counts[calibration.own(alpha)].tolist()]
    sizes += [len(one.calibration) for one in pipeline.added] + ([len(marginal)] if marginal is not None else [])
    # The largest of several p-values is at least that of the true group; with the fewest items its law is widest.
    code, normals = np.where(known, code, INFERRED), np.where(known, normals, min(sizes))
    for g, added in enumerate(pipeline.added):
        mine = (group == g) & known
        code = np.where(mine, len(calibration.counts) + g, code)
        normals = np.where(mine, len(added.calibration), normals)
    return code, normals


def _names(pipeline: Pipeline, codes: tuple[int, ...]) -> list[str]:
    names = [*pipeline.schema.stratum_names, *(group.name for group in pipeline.added)]
    return [names[code] for code in codes if code >= 0]


def _changes(pipeline: Pipeline, items: Items, group: np.ndarray, stratum: np.ndarray) -> list[Change]:
    """What differs from the calibration images of the same groups; nothing is measured on tables."""
    if not isinstance(items, ImageSet):
        return []
    added = int(np.bincount(group + 1).argmax()) - 1  # the group of most
    statistics = pipeline.statistics if added < 0 else pipeline.added[added].statistics
    mine = group == added
    groups = [0] if added >= 0 else np.unique(stratum[mine]).tolist()
    return [] if statistics is None else statistics.changes(items[mine], groups)


def _cause(items: Items, flagged: int, n: int, labelled: bool, changes: list[Change]) -> str:
    """Why, as far as the images show it: what lies outside the range of the calibration images, and the model sees."""
    outside = [change for change in changes if change.outside]
    if outside:
        clearest: dict[str, Change] = {}  # by cause
        for change in outside[:NAMED]:
            clearest.setdefault(CAUSES[change.name], change)
        named = list(clearest.items())[:MOST_CAUSES]
        changed = f"the images changed: {', '.join(f'{change} ({cause})' for cause, change in named)}"
    elif isinstance(items, ImageSet):
        changed = "the images changed in what brightness, contrast, sharpness, colours and size do not show"
    else:
        changed = "the data changed"
    return changed if labelled else f"{'most' if 2 * flagged > n else 'many'} are anomalous, or {changed}"


def _way_out(pipeline: Pipeline, group: np.ndarray, labelled: bool, kind: str) -> str:
    """What to do, if the items are normal. kind: what they are called, such as images."""
    added = [one for g, one in enumerate(pipeline.added) if not (group == g).any()]
    if added:
        values = [f"{column}={value}" for column, value in added[0].values.items()]
        given = for_caller(f"conditions={added[0].values!r}", " ".join(f"--as {value}" for value in values))
        return f"If they are of {added[0].name}, give {given}"
    what = "Calibrate" if labelled else "If they are normal, calibrate"
    how = for_caller(f"detector.calibrate(normal_{kind})", "knowngood calibrate MODEL NORMAL_IMAGES")
    return f"{what} on {kind} of this kind: {how}"
