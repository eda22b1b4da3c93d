"""A penalty learned from a few labelled anomalies, added to the score if cross-validation improves AUROC.

The score becomes score + weight · max(0, direction · b(v) − offset), b(v) = v / √(1 + |v|²/F). v is the HOG or the
values of an item. Nothing is ever subtracted, so an anomaly of another kind stays as anomalous as before. Weight 0
leaves the score unchanged to the bit. On features `known_defects` learns from patches instead.

What it is learned from is collected here; `penalty_choice` learns and decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from knowngood.data.conditions import Expanded
from knowngood.data.progress import track
from knowngood.detector.fit.penalty_choice import LEAST_COMPARED, Bools, Evidence, Floats, Ints, centres, choose
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import one_row_each, score_batches
from knowngood.representations import Features
from knowngood.scores.adjustment import LabelPenalty, bounded, described, moments, prefixed
from knowngood.scores.marginal import best_rows

LEAST_LABELLED, LEAST_NORMALS = 3, 30
MOST_LABELLED, MOST_ROWS = 2000, 20_000
MOST_NORMALS = 4000


@torch.no_grad()
def learn_penalty(
    pipeline: Pipeline,
    normals: Items,
    labelled: Items,
    seed: int,
    *,
    held_out: Bools | None = None,
    scores: Floats | None = None,
) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline with a penalty, if labelled anomalies justify one; and a report in plain data.

    Args:
        normals: N normal items of the fit.
        held_out: (N,) those that the model was not fitted to; scores are compared with these alone, if they are 10 or
            more. scores: (N,) raw scores by models without the item, where the pipeline's own would be too low, as of
            a memory bank.

    Returns:
        The report has "given" and "used" anomalies; "left_out", reasons by id; "weight"; "auroc" of held-out labelled
        anomalies against normal items, [before, after], or None; "sentence".

    Raises:
        DataError: a normal item cannot be read.
    """
    n = len(normals)
    report: dict[str, Any] = {"given": len(labelled), "used": 0, "left_out": {}, "weight": 0.0, "auroc": None}

    def unchanged(reason: str) -> tuple[Pipeline, dict[str, Any]]:
        return pipeline, report | {"sentence": f"Labelled anomalies change nothing: {reason}."}

    if isinstance(pipeline.representation, Features):
        return unchanged("on features known defects need the model 'patch_gaussian'")
    if n < LEAST_NORMALS:
        return unchanged(f"there are {n} normal items, and at least {LEAST_NORMALS} are needed")
    at = np.linspace(0, n - 1, min(n, MOST_NORMALS)).astype(int)
    rng = np.random.default_rng(seed)
    labelled, left_out = usable(pipeline, labelled, rng)
    apart: list[Any] = [None if column is None else column[at] for column in (held_out, scores)]
    evidence, unread = item_evidence(pipeline, normals[at], labelled, *apart)
    rows = np.unique(evidence.item[evidence.label[evidence.item] == 1])
    used = len(rows if evidence.group is None else np.unique(evidence.group[rows]))  # copies count once
    report |= {"used": used, "left_out": left_out | unread}
    if used < LEAST_LABELLED:
        return unchanged(f"{used} of {report['given']} can be used, and at least {LEAST_LABELLED} are needed")
    choice = choose(evidence, seed)
    before, after = (f"{value:.3f}".removeprefix("0") for value in choice.auroc)
    report |= {"weight": choice.weight, "auroc": list(choice.auroc)}
    if not choice.weight:
        return unchanged(
            f"{used} are used, and no penalty improves their AUROC of {before} reliably in cross-validation"
        )
    report["sentence"] = (
        f"A penalty learned from {used} labelled anomalies is added with weight {choice.weight:g}: in cross-validation "
        f"AUROC rises from {before} to {after}."
    )
    own = {name: torch.tensor(getattr(choice, name)) for name in ("direction", "offset", "weight")}
    state = prefixed(LabelPenalty(), {name: value.double() for name, value in own.items()} | evidence.state)
    adjustments = (*pipeline.adjustments, LabelPenalty())
    return replace(pipeline, adjustments=adjustments, state=pipeline.state | state), report


def usable(pipeline: Pipeline, labelled: Items, rng: np.random.Generator) -> tuple[Items, dict[str, str]]:
    """At most 2,000 anomalies whose conditions are known or can be inferred; and by id why others are left out."""
    schema, left_out = pipeline.schema, {}
    known = np.asarray(~np.isnan(schema.encode_or_nan(labelled.conditions, len(labelled))).any(axis=1))
    if not all("infer" in column.roles for column in schema.columns if column.roles):
        left_out = dict.fromkeys(labelled.ids[~known].tolist(), "one of its conditions is unknown or new")
        labelled, known = labelled[known], known[known]
    most = MOST_LABELLED if known.all() else max(LEAST_LABELLED, MOST_ROWS // len(schema.cells))
    return labelled[np.sort(rng.permutation(len(labelled))[: min(most, MOST_LABELLED)])], left_out


def best_of(pipeline: Pipeline, labelled: Items, centre: Floats) -> tuple[Items, Expanded, Floats, dict[str, str]]:
    """Labelled anomalies that can be read, their rows, one each, and their scores; and by id why others cannot.

    Of unknown conditions that with the lowest score is taken, above `centre`, the typical score of a Mondrian group.
    """
    rows = pipeline.schema.expand(labelled.conditions, len(labelled), unknown="infer")
    batches = list(score_batches(pipeline, labelled, unknown="infer"))
    scores = np.concatenate([np.empty(0), *(batch.values for batch in batches)])
    left_out = {str(batch.items.ids[i]): why for batch in batches for i, why in batch.errors.items()}
    row = best_rows(np.nan_to_num(scores - centre[rows.stratum], nan=np.inf), rows.item)
    row = row[~np.isnan(scores[row])]
    return labelled[rows.item[row]], rows.take(row), scores[row], left_out


# Evidence -----------------------------------------------------------------------------------------------------------


def item_evidence(
    pipeline: Pipeline, normals: Items, labelled: Items, compared: Bools | None, scores: Floats | None
) -> tuple[Evidence, dict[str, str]]:
    """Items as one vector each."""
    n = len(normals)
    rows = pipeline.schema.expand(normals.conditions, n)
    if scores is None:
        batches = track(
            score_batches(pipeline, normals, unknown="error"),
            "scoring for labelled anomalies",
            n,
            size=lambda batch: len(batch.items),
        )
        scores = np.concatenate([batch.values for batch in batches])
    if compared is None or compared.sum() < LEAST_COMPARED:
        compared = np.ones(n, dtype=bool)
    centre = centres(scores[compared], rows.stratum[compared], pipeline.schema.n_strata)
    labelled, best, their_scores, left_out = best_of(pipeline, labelled, centre)
    pairs = (normals, rows), (labelled, best)
    v = torch.cat([described(pipeline.model, some.x).cpu() for pair in pairs for some in one_row_each(pipeline, *pair)])
    mean, std = moments(v[:n])
    vectors, base = bounded((v - mean) / std).numpy(), np.concatenate([scores, their_scores])
    evidence = Evidence(
        vectors=vectors,
        item=np.arange(len(v)),
        label=np.repeat([0, 1], [n, len(v) - n]),
        compared=np.concatenate([compared, np.ones(len(v) - n, dtype=bool)]),
        centre=centre[np.concatenate([rows.stratum, best.stratum])],
        spread=float((scores - centre[rows.stratum])[compared].std()),
        projected=lambda direction, at: (vectors[at] @ direction)[:, None],
        scores=lambda added, at: base[at] + added[:, 0],
        state={"mean": mean, "std": std},
        group=groups_of(normals, labelled),
    )
    return evidence, left_out


def groups_of(normals: Items, labelled: Items) -> Ints | None:
    """The groups of normal and labelled items, one after the other; None where every item is independent."""
    if normals.groups is None or labelled.groups is None:
        return None
    groups = np.concatenate([normals.groups, labelled.groups])
    return groups if len(np.unique(groups)) < len(groups) else None
