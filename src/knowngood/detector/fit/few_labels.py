"""A penalty learned from a few labelled anomalies, added to the score if cross-validation improves AUROC.

The score becomes score + weight · max(0, direction · b(v) − offset), b(v) = v / √(1 + |v|²/F). v is the HOG or the
values of an item, or the whitened features of a location. Nothing is ever subtracted, so an anomaly of another kind
stays as anomalous as before. Weight 0 leaves the score unchanged to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.detector.fit.measured_patches import (
    Measured,
    anomaly_locations,
    drawn,
    mask_locations,
    normal_locations,
)
from knowngood.detector.fit.penalty_choice import Bools, Evidence, Floats, Ints, centres, choose
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import one_row_each, score_batches
from knowngood.models.patch_gaussian import FEWEST, PatchGaussian
from knowngood.representations import Features
from knowngood.scores.adjustment import LabelPenalty, bounded, described, moments, prefixed
from knowngood.scores.marginal import best_rows

LEAST_LABELLED, LEAST_NORMALS, LEAST_COMPARED = 3, 30, 10
MOST_LABELLED, MOST_ROWS = 2000, 20_000
MOST_NORMALS, MOST_IMAGES, AT_ONCE = 4000, 500, 16  # whole items; images of features, and how many at a time
UNLOCATED = "no mask shows its anomaly, and no location is farther from normal than in normal images"


@dataclass(frozen=True, eq=False)
class Normals:
    """Normal items of the fit.

    held_out: (N,) those that the model was not fitted to; scores are compared with these alone, if they are 10 or more.
    scores: (N,) raw scores by models without the item, where the pipeline's own would be too low, as of a memory bank.
    grids, c, stratum: for features only, all fitted to: (N, F, h, w), encoded conditions (N, W) or None, (N,).
    """

    items: Items
    held_out: Bools | None = None
    scores: Floats | None = None
    grids: NDArray[Any] | None = None
    c: NDArray[np.float32] | None = None
    stratum: Ints | None = None

    def take(self, at: Ints) -> Normals:
        """Some of them."""
        columns: list[Any] = [self.held_out, self.scores, self.grids, self.c, self.stratum]
        return Normals(self.items[at], *(None if column is None else column[at] for column in columns))


# The pipeline -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def learn_penalty(pipeline: Pipeline, normals: Normals, labelled: Items, seed: int) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline with a penalty, if labelled anomalies justify one; and a report in plain data.

    Masks say where in an image the anomaly is: locations that they cover at least half as much as the location they
    cover most. Without a mask these are the 2 % of locations with the largest distances, as far as these exceed what
    1 % of normal images reach.

    Returns:
        The report has "given" and "used" anomalies; "left_out", reasons by id; "weight"; "auroc" of held-out labelled
        anomalies against normal items, [before, after], or None; "sentence".

    Raises:
        DataError: a normal item cannot be read; a mask does not fit its image.
    """
    patches = isinstance(pipeline.model, PatchGaussian)
    n, least = len(normals.items), FEWEST if patches else LEAST_NORMALS
    report: dict[str, Any] = {"given": len(labelled), "used": 0, "left_out": {}, "weight": 0.0, "auroc": None}

    def unchanged(reason: str) -> tuple[Pipeline, dict[str, Any]]:
        return pipeline, report | {"sentence": f"Labelled anomalies change nothing: {reason}."}

    if pipeline.settings.data.tile is not None or (isinstance(pipeline.representation, Features) and not patches):
        return unchanged("a penalty needs whole images, and for features the model 'patch_gaussian'")
    if n < least:
        return unchanged(f"there are {n} normal items, and at least {least} are needed")
    normals = normals.take(np.linspace(0, n - 1, min(n, MOST_IMAGES if patches else MOST_NORMALS)).astype(int))
    rng = np.random.default_rng(seed)
    labelled, left_out = usable(pipeline, labelled, rng)
    make = patch_evidence if patches else item_evidence
    evidence, unread = make(pipeline, normals, labelled, rng)
    used = len(np.unique(evidence.item[evidence.label[evidence.item] == 1]))
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
    if patches:
        state = {f"penalty_{name}": value.float() for name, value in own.items()}
        return replace(pipeline, state=pipeline.state | state), report
    state = {name: value.double() for name, value in own.items()} | evidence.state
    penalty = LabelPenalty()
    extended = replace(
        pipeline, adjustments=(*pipeline.adjustments, penalty), state=pipeline.state | prefixed(penalty, state)
    )
    return extended, report


def usable(pipeline: Pipeline, labelled: Items, rng: np.random.Generator) -> tuple[Items, dict[str, str]]:
    """At most 2,000 anomalies whose conditions are known or can be inferred; and by id why others are left out."""
    schema, left_out = pipeline.schema, {}
    known = np.asarray(~np.isnan(schema.encode_or_nan(labelled.conditions, len(labelled))).any(axis=1))
    if not all("infer" in column.roles for column in schema.columns):
        left_out = dict.fromkeys(labelled.ids[~known].tolist(), "one of its conditions is unknown or new")
        labelled, known = labelled[known], known[known]
    most = MOST_LABELLED if known.all() else max(LEAST_LABELLED, MOST_ROWS // len(schema.cells))
    drawn = rng.permutation(len(labelled))[: min(most, MOST_LABELLED)]
    return labelled[np.sort(drawn)], left_out


class Best(NamedTuple):
    """Labelled anomalies that can be read, one row each under the condition with the lowest score."""

    items: Items
    rows: Expanded
    scores: Floats
    left_out: dict[str, str]


def best_of(pipeline: Pipeline, labelled: Items, centre: Floats) -> Best:
    """Score labelled anomalies; `centre` has the typical normal score of each Mondrian group."""
    rows = pipeline.schema.expand(labelled.conditions, len(labelled), unknown="infer")
    batches = list(score_batches(pipeline, labelled, unknown="infer"))
    scores = np.concatenate([np.empty(0), *(batch.values for batch in batches)])
    left_out = {str(batch.items.ids[i]): why for batch in batches for i, why in batch.errors.items()}
    row = best_rows(np.nan_to_num(scores - centre[rows.stratum], nan=np.inf), rows.item)
    row = row[~np.isnan(scores[row])]
    return Best(labelled[rows.item[row]], rows.take(row), scores[row], left_out)


# Whole items --------------------------------------------------------------------------------------------------------


def item_evidence(
    pipeline: Pipeline, normals: Normals, labelled: Items, rng: np.random.Generator
) -> tuple[Evidence, dict[str, str]]:
    """Items as one vector each."""
    items, n = normals.items, len(normals.items)
    rows = pipeline.schema.expand(items.conditions, n)
    scores, compared = normals.scores, normals.held_out
    if scores is None:
        scores = np.concatenate([batch.values for batch in score_batches(pipeline, items, unknown="error")])
    if compared is None or compared.sum() < LEAST_COMPARED:
        compared = np.ones(n, dtype=bool)
    centre = centres(scores[compared], rows.stratum[compared], pipeline.schema.n_strata)
    best = best_of(pipeline, labelled, centre)
    pairs = (items, rows), (best.items, best.rows)
    v = torch.cat([described(pipeline.model, some.x).cpu() for pair in pairs for some in one_row_each(pipeline, *pair)])
    mean, std = moments(v[:n])
    vectors, base = bounded((v - mean) / std).numpy(), np.concatenate([scores, best.scores])
    evidence = Evidence(
        vectors=vectors,
        item=np.arange(len(v)),
        label=np.repeat([0, 1], [n, len(v) - n]),
        compared=np.concatenate([compared, np.ones(len(v) - n, dtype=bool)]),
        centre=centre[np.concatenate([rows.stratum, best.rows.stratum])],
        spread=float((scores - centre[rows.stratum])[compared].std()),
        projected=lambda direction, at: (vectors[at] @ direction)[:, None],
        scores=lambda added, at: base[at] + added[:, 0],
        state={"mean": mean, "std": std},
    )
    return evidence, best.left_out


# Locations of features ----------------------------------------------------------------------------------------------


def patch_evidence(
    pipeline: Pipeline, normals: Normals, labelled: Items, rng: np.random.Generator
) -> tuple[Evidence, dict[str, str]]:
    """Images as the vectors of some locations: those of the anomaly, and of normal images the farthest and others."""
    model, device = pipeline.model, pipeline.device
    assert isinstance(model, PatchGaussian)
    assert isinstance(pipeline.representation, Features)
    n, width = len(normals.items), model.condition_dim
    assert normals.grids is not None
    columns = (
        normals.grids,
        normals.c if width else None,
        np.zeros(n, int) if normals.stratum is None else normals.stratum,
    )
    chunks = (
        tuple(None if some is None else torch.from_numpy(some[at : at + AT_ONCE]).to(device) for some in columns)
        for at in range(0, n, AT_ONCE)
    )
    normal = Measured.of(model, chunks, leave_one_out=True)
    result = normal.score(pipeline)
    centre = centres(result.values.cpu().numpy(), normal.stratum.cpu().numpy(), pipeline.schema.n_strata)
    best = best_of(pipeline, labelled, centre)
    images = best.items
    assert isinstance(images, ImageSet)
    rows = ((some.x, some.c, some.stratum) for some in one_row_each(pipeline, images, best.rows))
    both, hits = normal, np.zeros((0, model.locations), dtype=bool)
    left_out = best.left_out
    if len(images):
        anomalous = Measured.of(model, rows, leave_one_out=False)
        hits = anomaly_locations(pipeline, normal, anomalous, mask_locations(images, pipeline.representation))
        left_out |= dict.fromkeys(images.ids[~hits.any(axis=1)].tolist(), UNLOCATED)
        both = Measured.concat(normal, anomalous)
    chosen = np.concatenate([normal_locations(normal, rng), hits])
    item, location = drawn(chosen, rng)
    counted = ~both.hidden().flatten(1)

    def projected(direction: Floats, at: Ints) -> Floats:
        d = torch.from_numpy(direction).to(device).float()
        values = torch.cat([both.white[some].float() @ d for some in torch.from_numpy(at).split(AT_ONCE)]).double()
        return values.masked_fill(~counted[at], -torch.inf).cpu().numpy()

    def scores(added: Floats, at: Ints) -> Floats:
        penalty = torch.from_numpy(added).to(device).unflatten(1, model.shape[1:])
        return both.take(torch.from_numpy(at)).score(pipeline, penalty).values.cpu().numpy()

    evidence = Evidence(
        vectors=both.white[item, location].double().cpu().numpy(),
        item=item,
        label=np.repeat([0, 1], [n, len(hits)]),
        compared=np.ones(n + len(hits), dtype=bool),
        centre=centre[both.stratum.cpu().numpy()],
        spread=float(normal.maps[~normal.hidden()].std()),
        projected=projected,
        scores=scores,
    )
    return evidence, left_out
