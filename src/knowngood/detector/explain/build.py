"""Explanations of decided items: the chosen images are read and scored again, under the conditions that fit best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from knowngood.data import ImageSet
from knowngood.data.progress import track
from knowngood.detector.decide import Decisions, calibrated, condition_names
from knowngood.detector.explain.deviations import deviations
from knowngood.detector.explain.explanation import Explanation, Fields
from knowngood.detector.explain.reference import appearance, comparison, model_codes, of_group, scaled_images
from knowngood.detector.explain.words import WHOLE, sentences, summary
from knowngood.detector.map_scale import map_scale
from knowngood.detector.maps import image_maps, image_regions
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Scored, one_row_each, score_rows
from knowngood.detector.stated_conditions import wrong_words
from knowngood.errors import SettingsError
from knowngood.scores.patch_distance import EXCESS

AT_ONCE = 8  # images


@torch.no_grad()
def explain(
    pipeline: Pipeline,
    images: Items,
    decisions: Decisions,
    flagged: np.ndarray,
    *,
    alpha: float,
    most: int,
    others: bool = False,
) -> list[Explanation]:
    """Explanations of at most so many images, those with the highest score first.

    Args:
        decisions: of all N images. flagged: (N,) bool, the verdicts, made at the false-alarm rate `alpha`.
        others: explain images that are not flagged too.

    Raises:
        DataError: an image can no longer be read. SettingsError: a negative number of images.
    """
    if most < 0:
        raise SettingsError(f"{most} images to explain; expected a number from 0")
    assert isinstance(images, ImageSet)
    score, names, stated = decisions.anomaly_score, condition_names(decisions), decisions.stated
    wrong, p_condition = np.zeros((len(score), 0), dtype=bool), None
    words = np.full(len(score), "", dtype=object)
    if stated is not None:
        level, p_condition = alpha / 2, stated.p_values[:, 0]
        by_itself = ~(flagged & ~(decisions.p_values <= level))
        words, wrong = wrong_words(stated, pipeline.checked_columns, level), stated.wrong_columns(level)
        words[by_itself], wrong[by_itself] = "", False
    rows = np.flatnonzero(~np.isnan(score) & (flagged | others))
    chosen = rows[np.argsort(-score[rows], kind="stable")][:most]
    explanations = []
    starts = range(0, len(chosen), AT_ONCE)
    for start in track(starts, "explanations", len(chosen), size=lambda start: min(AT_ONCE, len(chosen) - start)):
        at = chosen[start : start + AT_ONCE].tolist()
        some = images[np.array(at)]
        alike = lookalikes(pipeline, some, decisions, at, wrong[at])
        for k, (i, facts) in enumerate(zip(at, _facts(pipeline, some, decisions, at, alpha), strict=True)):
            one = Explanation(
                id=str(images.ids[i]),
                anomaly_score=float(score[i]),
                p_value=float(decisions.p_values[i]),
                is_anomalous=bool(flagged[i]),
                compared=compared_with(pipeline, decisions, i, alpha),
                condition=names[i],
                p_condition=None if p_condition is None or np.isnan(p_condition[i]) else float(p_condition[i]),
                misfit=str(words[i]),
                whole=whole_parts(decisions, i),
                **facts,
                **alike.get(k, {}),
            )
            explanations.append(replace(one, sentences=sentences(one, alpha), summary=summary(one)))
    return explanations


def whole_parts(decisions: Decisions, i: int) -> dict[str, float]:
    """The parts of the score of image i that see it as a whole and add to it; see `PatchDistanceScore`."""
    found = {name: float(decisions.parts[name][i]) for name in WHOLE if name in decisions.parts}
    return {name: value for name, value in found.items() if value > EXCESS}


def compared_with(pipeline: Pipeline, decisions: Decisions, i: int, alpha: float) -> tuple[int, int] | None:
    """How many of how many normal images score at least as high as image i, as its p-value says; None if unknown."""
    group, stratum, p = int(decisions.group[i]), int(decisions.strata[i]), float(decisions.p_values[i])
    own, hidden = calibrated(pipeline), pipeline.marginal_calibration
    sizes = [len(pipeline.added[group].calibration)] if group >= 0 else []
    sizes += [len(own.reference(pipeline.level(alpha), stratum)), *([] if hidden is None else [len(hidden)]), len(own)]
    for n in sizes:
        higher = p * (n + 1) - 1
        if abs(higher - round(higher)) < 1e-6:
            return round(higher), n
    return None


def _facts(pipeline: Pipeline, images: ImageSet, decisions: Decisions, at: list[int], alpha: float) -> Iterator[Fields]:
    """Fields of the explanation of each of some images, at these positions among those decided."""
    best = decisions.best.take(np.array(at))
    scored, _ = score_rows(pipeline, images, best, maps=pipeline.score.has_map)
    maps = {} if scored.grids is None else dict(image_maps(pipeline, scored, np.arange(len(images))))
    located = [_location(pipeline, maps.get(k), decisions, i, alpha) for k, i in enumerate(at)]
    grids, pictures = scored.grids, scaled_images(pipeline, images)
    posed = getattr(pipeline.representation, "pose", None) is not None
    deviating: list[tuple[np.ndarray, Fields]] = []
    for rows in one_row_each(pipeline, images, best):
        deviating += deviations(pipeline, rows, None if grids is None else grids[rows.at])
    _place_words(pipeline, scored, [deviation for _, deviation in deviating])
    for k, (code, deviation) in enumerate(deviating):
        stratum, grid = int(best.stratum[k]), None if grids is None else grids[k]
        compared = comparison(pipeline, code, stratum, pictures[k])
        scale = located[k].get("scale")
        looks = appearance(pipeline, stratum, pictures[k], grid, math.inf if scale is None else scale.begins)
        picture = np.moveaxis(pictures[k].numpy(), 0, -1)
        facts: Fields = {"image": images.read(k), "model_input": picture, "posed": posed, "missing": {}}
        for part in (deviation, compared, located[k], looks):
            facts["missing"] |= part.pop("missing", {})
            facts |= part
        yield facts


def _place_words(pipeline: Pipeline, scored: Scored, found: list[Fields]) -> None:
    """Complete the word counts of images, in place, by where in the image the word is found."""
    grids = [fields.pop("word_grid") for fields in found if "word_grid" in fields]
    if not grids or scored.grids is None:
        return
    of_words = replace(scored, grids=np.stack(grids))
    for k, values in image_maps(pipeline, of_words, np.arange(len(found))):
        row, column = divmod(int(np.nanargmax(values)), values.shape[1])
        found[k]["count"] = found[k]["count"]._replace(place=(row, column))


def lookalikes(
    pipeline: Pipeline, images: ImageSet, decisions: Decisions, at: list[int], wrong: np.ndarray
) -> dict[int, Fields]:
    """Normal images of what images look like, by position, of those wrong for some of the checked columns (N, J)."""
    misfits = np.flatnonzero(wrong.any(axis=1))
    if not len(misfits) or decisions.stated is None or pipeline.reference is None:
        return {}
    some, codes = images[misfits], decisions.stated.instead[np.array(at)[misfits]]
    conditions = dict(some.conditions)
    for j, column in enumerate(pipeline.checked_columns):
        values = np.array(column.values if column.kind == "categorical" else column.medians, dtype=object)
        stated = np.asarray(conditions[column.name], dtype=object)
        conditions[column.name] = np.where(wrong[misfits, j], values[codes[:, j]], stated)
    known = {column.name for column in pipeline.schema.columns}
    columns = {name: values for name, values in conditions.items() if name in known}
    others = pipeline.schema.expand(columns, len(some))
    found = {}
    for rows in one_row_each(pipeline, some, others):
        for k, code in enumerate(model_codes(pipeline.model, rows.x, rows.c), start=rows.at.start):
            nearest, mean = of_group(pipeline.reference, pipeline, code, int(others.stratum[k]))
            found[int(misfits[k])] = {"lookalikes": nearest, "lookalike_image": mean}
    return found


def _location(pipeline: Pipeline, values: np.ndarray | None, decisions: Decisions, i: int, alpha: float) -> Fields:
    """Where image i is anomalous, by its map (H, W), in pixels."""
    if values is None:
        return {"missing": {"map": f"the score '{pipeline.score.options.name}' has no map"}}
    peak = None if np.isnan(values).all() else divmod(int(np.nanargmax(values)), values.shape[1])
    regions = [] if pipeline.map_calibration is None else image_regions(pipeline, decisions, i, values, alpha)
    scale = map_scale(pipeline, decisions, i, values, alpha)
    return {"map": values, "scale": scale, "peak": peak, "regions": tuple(regions)}
