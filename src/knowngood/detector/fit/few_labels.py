"""A penalty learned from a few labelled anomalies, added to the score if cross-validation improves AUROC.

The score becomes score + weight · max(0, direction · b(v) − offset), b(v) = v / √(1 + |v|²/F). v is the HOG or the
values of an item, or the whitened features of a location. Nothing is ever subtracted, so an anomaly of another kind
stays as anomalous as before. Weight 0 leaves the score unchanged to the bit.

What it is learned from is collected here, for whole items and for locations; `penalty_choice` learns and decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.detector.fit.penalty_choice import LEAST_COMPARED, Bools, Evidence, Floats, Ints, centres, choose
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import one_row_each, score_batches
from knowngood.errors import DataError
from knowngood.models.patch_gaussian import FEWEST, PatchGaussian
from knowngood.representations import Features
from knowngood.representations.alignment.pose import Posed
from knowngood.representations.alignment.warping import warp
from knowngood.scores import ScoreResult
from knowngood.scores.adjustment import LabelPenalty, bounded, described, moments, prefixed
from knowngood.scores.marginal import best_rows

LEAST_LABELLED, LEAST_NORMALS = 3, 30
MOST_LABELLED, MOST_ROWS = 2000, 20_000
MOST_NORMALS, MOST_IMAGES, AT_ONCE = 4000, 500, 16  # whole items; images of features, and how many at a time
AN_IMAGE, MOST_PATCHES = 24, 128  # patches learned from: of a normal image, and at most of a labelled one
TOP_SHARE, REACHED = 0.02, 0.99  # without a mask: share of locations, and quantile of normal images' largest distance
HALF = 0.5  # of what a mask covers of the location it covers most
UNLOCATED = "no mask shows its anomaly, and no location is farther from normal than in normal images"


@torch.no_grad()
def learn_penalty(
    pipeline: Pipeline,
    normals: Items,
    labelled: Items,
    seed: int,
    *,
    held_out: Bools | None = None,
    scores: Floats | None = None,
    grids: NDArray[Any] | None = None,
) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline with a penalty, if labelled anomalies justify one; and a report in plain data.

    Masks say where in an image the anomaly is: locations that they cover at least half as much as the location they
    cover most. Without a mask these are the 2 % of locations with the largest distances, as far as these exceed what
    1 % of normal images reach.

    Args:
        normals: N normal items of the fit.
        held_out: (N,) those that the model was not fitted to; scores are compared with these alone, if they are 10 or
            more. scores: (N,) raw scores by models without the item, where the pipeline's own would be too low, as of
            a memory bank. Both for whole items.
        grids: (N, F, h, w), for features, where the model was fitted to all normal items.

    Returns:
        The report has "given" and "used" anomalies; "left_out", reasons by id; "weight"; "auroc" of held-out labelled
        anomalies against normal items, [before, after], or None; "sentence".

    Raises:
        DataError: a normal item cannot be read; a mask does not fit its image.
    """
    patches = isinstance(pipeline.model, PatchGaussian)
    n, least = len(normals), FEWEST if patches else LEAST_NORMALS
    report: dict[str, Any] = {"given": len(labelled), "used": 0, "left_out": {}, "weight": 0.0, "auroc": None}

    def unchanged(reason: str) -> tuple[Pipeline, dict[str, Any]]:
        return pipeline, report | {"sentence": f"Labelled anomalies change nothing: {reason}."}

    if isinstance(pipeline.representation, Features) and not patches:
        return unchanged("a penalty on features needs the model 'patch_gaussian'")
    if n < least:
        return unchanged(f"there are {n} normal items, and at least {least} are needed")
    at = np.linspace(0, n - 1, min(n, MOST_IMAGES if patches else MOST_NORMALS)).astype(int)
    rng = np.random.default_rng(seed)
    labelled, left_out = usable(pipeline, labelled, rng)
    if patches:
        assert grids is not None
        evidence, unread = patch_evidence(pipeline, normals[at], labelled, grids[at], rng)
    else:
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
    if patches:
        state = {f"penalty_{name}": value.float() for name, value in own.items()}
        return replace(pipeline, state=pipeline.state | state), report
    state = prefixed(LabelPenalty(), {name: value.double() for name, value in own.items()} | evidence.state)
    adjustments = (*pipeline.adjustments, LabelPenalty())
    return replace(pipeline, adjustments=adjustments, state=pipeline.state | state), report


def usable(pipeline: Pipeline, labelled: Items, rng: np.random.Generator) -> tuple[Items, dict[str, str]]:
    """At most 2,000 anomalies whose conditions are known or can be inferred; and by id why others are left out."""
    schema, left_out = pipeline.schema, {}
    known = np.asarray(~np.isnan(schema.encode_or_nan(labelled.conditions, len(labelled))).any(axis=1))
    if not all("infer" in column.roles for column in schema.columns):
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
        scores = np.concatenate([batch.values for batch in score_batches(pipeline, normals, unknown="error")])
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


class Patches(NamedTuple):
    """What a fitted model makes of n images, kept so that scores can be pooled again without features."""

    maps: Tensor  # (n, h, w) distances
    whole: Tensor  # (n, M) distances of the images as wholes
    white: Tensor  # (n, P, F) whitened, bounded
    c: Tensor | None  # (n, W)
    stratum: Tensor  # (n,)

    @classmethod
    def concat(cls, parts: Sequence[Patches]) -> Patches:
        """The images of all parts, one after the other."""
        columns: Any = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]  # type: ignore[arg-type]
        return cls(*columns)

    @classmethod
    def of(cls, model: PatchGaussian, rows: Iterable[tuple[Any, ...]], *, leave_one_out: bool) -> Patches:
        """From feature grids, conditions and strata. `leave_one_out`: the model was fitted to these images.

        The covariance without an image is I − a·v·vᵀ up to a factor, v its whitened patch, so v keeps its direction.
        """
        parts = []
        for grids, c, stratum in rows:
            x, cell = model.given(grids.float(), c)
            maps, white = model.distances(x, cell), model.whiten(x, cell)
            if leave_one_out:
                plain, maps = maps, model.leave_one_out(x, cell)
                white = white * (maps / plain.clamp_min(1e-12)).sqrt().flatten(1)[..., None].to(white)
            whole = model.image_distances(x, cell, leave_one_out=leave_one_out)
            parts.append(cls(maps, whole, bounded(white).half(), c, stratum))
        return cls.concat(parts)


class Known(PatchGaussian):
    """A fitted model in the place of which distances are known: what it is given as features are its distances."""

    def __init__(self, fitted: PatchGaussian, whole: Tensor) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(fitted.__dict__)
        self.whole: Any = whole

    def given(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        return x, self.cell(c, len(x))

    def distances(self, x: Tensor, cell: Tensor) -> Tensor:
        return x

    def image_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        return self.whole


def patch_evidence(
    pipeline: Pipeline, normals: Items, labelled: Items, grids: NDArray[Any], rng: np.random.Generator
) -> tuple[Evidence, dict[str, str]]:
    """Images as the vectors of some locations: those of the anomaly, and of normal images the farthest and others."""
    model, device, n = pipeline.model, pipeline.device, len(normals)
    assert isinstance(model, PatchGaussian)
    assert isinstance(pipeline.representation, Features)
    encoded = pipeline.schema.expand(normals.conditions, n)
    columns = (grids, encoded.c if model.condition_dim else None, encoded.stratum)

    def pooled(images: Patches, added: Tensor | float = 0.0, *, want_map: bool = False) -> ScoreResult:
        known = Known(model, images.whole)
        maps = images.maps + added
        return pipeline.score.score(known, pipeline.state, maps, images.c, images.stratum, want_map=want_map)

    def counted(images: Patches) -> Tensor:
        return ~model.ignored[model.cell(images.c, len(images.maps))]  # (n, P)

    def smoothed(images: Patches) -> Tensor:
        shown = pooled(images, want_map=True).map
        assert shown is not None
        return shown.flatten(1).nan_to_num(-torch.inf)

    chunks = (
        tuple(None if some is None else torch.from_numpy(some[at : at + AT_ONCE]).to(device) for some in columns)
        for at in range(0, n, AT_ONCE)
    )
    normal = Patches.of(model, chunks, leave_one_out=True)
    centre = centres(pooled(normal).values.cpu().numpy(), encoded.stratum, pipeline.schema.n_strata)
    images, best, _, left_out = best_of(pipeline, labelled, centre)
    both = normal
    chosen = [normal_locations(normal.maps, counted(normal), rng)]
    if len(images):
        assert isinstance(images, ImageSet)
        rows = ((some.x, some.c, some.stratum) for some in one_row_each(pipeline, images, best))
        anomalous = Patches.of(model, rows, leave_one_out=False)
        masks = mask_locations(images, pipeline.representation)
        hits = anomaly_locations(smoothed(normal), smoothed(anomalous), masks)
        left_out |= dict.fromkeys(images.ids[~hits.any(axis=1)].tolist(), UNLOCATED)
        both = Patches.concat([normal, anomalous])
        chosen.append(hits)
    drawn = [rng.permutation(np.flatnonzero(one))[:MOST_PATCHES] for some in chosen for one in some]
    item, location = np.repeat(np.arange(len(drawn)), [len(at) for at in drawn]), np.concatenate([*map(np.sort, drawn)])
    counts = counted(both)

    def projected(direction: Floats, at: Ints) -> Floats:
        d = torch.from_numpy(direction).to(device).float()
        values = torch.cat([both.white[some].float() @ d for some in torch.from_numpy(at).split(AT_ONCE)]).double()
        return values.masked_fill(~counts[at], -torch.inf).cpu().numpy()

    def scores(added: Floats, at: Ints) -> Floats:
        penalty = torch.from_numpy(added).to(device).unflatten(1, model.shape[1:])
        some: list[Any] = [None if t is None else t[torch.from_numpy(at)] for t in both]
        return pooled(Patches(*some), penalty).values.cpu().numpy()

    evidence = Evidence(
        vectors=both.white[item, location].double().cpu().numpy(),
        item=item,
        label=np.repeat([0, 1], [n, len(images)]),
        compared=np.ones(n + len(images), dtype=bool),
        centre=centre[both.stratum.cpu().numpy()],
        spread=float(normal.maps.flatten(1)[counted(normal)].std()),
        projected=projected,
        scores=scores,
        group=groups_of(normals, images),
    )
    return evidence, left_out


def groups_of(normals: Items, labelled: Items) -> Ints | None:
    """The groups of normal and labelled items, one after the other; None where every item is independent."""
    if normals.groups is None or labelled.groups is None:
        return None
    groups = np.concatenate([normals.groups, labelled.groups])
    return groups if len(np.unique(groups)) < len(groups) else None


def normal_locations(maps: Tensor, counted: Tensor, rng: np.random.Generator) -> Bools:
    """(N, P) of each normal image the 12 locations with the largest distances (N, h, w), and 12 others, at random."""
    chosen, top = np.zeros(counted.shape, dtype=bool), AN_IMAGE // 2
    for one, distances, counts in zip(chosen, maps.flatten(1).cpu().numpy(), counted.cpu().numpy(), strict=True):
        at = np.flatnonzero(counts)
        at = at[np.argsort(-distances[at], kind="stable")]
        one[at[:top]] = one[rng.permutation(at[top:])[: AN_IMAGE - top]] = True
    return chosen


def anomaly_locations(normal: Tensor, anomalous: Tensor, masks: Sequence[Tensor | None]) -> Bools:
    """(n, P) locations of the anomaly in labelled images, from smoothed maps (N, P) and (n, P), −inf where ignored.

    With a mask (h, w) those in it; without one the 2 % with the largest distances, as far as these exceed what 1 % of
    normal images reach anywhere.
    """
    reached = float(normal.amax(1).quantile(REACHED))
    hits = []
    for values, mask in zip(anomalous, masks, strict=True):
        counted = values > -torch.inf
        if mask is None:
            least = values.topk(max(1, round(TOP_SHARE * int(counted.sum())))).values[-1]
            hits.append(((values >= least) & (values > reached)).cpu())
        else:
            hits.append(mask.flatten() & counted.cpu())
    return torch.stack(hits).numpy()


def mask_locations(images: ImageSet, representation: Features) -> list[Tensor | None]:
    """(h, w) bool of each image: what its mask covers at least half as much as the location it covers most.

    None without a mask, or with an empty one. Masks are moved as the images are aligned.

    Raises:
        DataError: a mask does not have the size of its image.
    """
    as_mask = representation.pixels.model_copy(update={"channels": 1, "grey": False, "dtype": "uint8"})
    locations: list[Tensor | None] = []
    for i in range(len(images)):
        mask = images.mask(i)
        if mask is None or not mask.any():
            locations.append(None)
            continue
        shape = tuple(images.shapes()[i, :2].tolist())
        if mask.shape != shape:
            raise DataError(f"{images.ids[i]}: its mask is {mask.shape}, the image is {shape}; expected one size")
        marked, transform = mask[..., None].astype(np.uint8) * 255, representation.transforms(images, np.array([i]))[0]
        if isinstance(transform, Posed):
            assert representation.pose is not None
            prepared = representation.pose.normalised(marked, transform)
        else:
            prepared = warp(np.ascontiguousarray(as_mask.prepare(marked).transpose(1, 2, 0)), transform)
        share = adaptive_avg_pool2d(torch.from_numpy(prepared[None, ..., 0]).float(), representation.grid)[0]
        locations.append((share >= HALF * share.max()) & (share > 0))
    return locations
