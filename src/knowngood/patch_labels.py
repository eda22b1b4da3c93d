"""A few labelled defects teach what is odd on features: a direction in which their patches leave those of good images.

The score of a patch becomes score + weight · max(0, direction · b(v) − offset), v its whitened features and
b(v) = v / √(1 + |v|²/F): ridge-regularised logistic regression of the defects' patches against good ones. Nothing is
ever taken off a score, so a defect of another kind stays as odd as it was. Ridge and weight are chosen on labelled
defects that were held out, and 0 is among the weights: where these are not found better by it, or synthetic defects
are found worse, the score stays what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, logsigmoid

from knowngood import patch_settling as settling
from knowngood.errors import DataError
from knowngood.ignored import blanked
from knowngood.images import ImageSet
from knowngood.patches import FEWEST
from knowngood.representation import Features
from knowngood.representation.warping import warp
from knowngood.scores.patches import POOLINGS, TOP_SHARE, bounded, pool

if TYPE_CHECKING:
    from knowngood.fitting import Plan
    from knowngood.pipeline import Pipeline

RIDGES = (1.0, 0.1)
WEIGHTS = (0.5, 1.0, 2.0)  # beside scores whose spread over good patches is that of the term
LABELLED = 3  # labelled images that it takes
FOLDS = 10  # of labelled images, each held out once
LOST = 0.002  # AUROC on synthetic defects that teaching may cost
SURE = 1.5  # standard errors that the gain on held-out labelled defects has to exceed
EXCEEDED = 0.01  # share of good images whose largest score is above that of a defect's place, where no mask says more
UNMOVED = 0.5  # share of good images that the term leaves as they are
AN_IMAGE = 24  # patches of a good image that are learned against, half of them its oddest
MOST = 128  # patches of one labelled image
NEWTON = 50  # steps at most
KINDS = ("good", "bad", "labelled")  # of images in a trial


@torch.no_grad()
def teach(pipeline: Pipeline, plan: Plan, seed: int) -> dict[str, Any] | None:
    """Let the plan's labelled defects change the score, if held-out ones say that they should; in place.

    Masks say where defects are: the places that they cover at least half as much as the place they cover most. Without
    a mask these are the places, at most 2 % of them, that score above what 1 % of good images reach anywhere.

    Returns:
        What was done, plain data: "given" and "taught" images; "left_out", reasons by id; "weight", 0 if the score
        stays as it was; "auroc" of held-out labelled defects against good images, [before, after]; "synthetic", the
        same of synthetic defects; "sentence", for people. None without labelled defects.

    Raises:
        DataError: a mask does not fit its image.
    """
    if plan.labelled is None or not len(plan.labelled):
        return None
    known, given = _known(pipeline, plan, plan.labelled), len(plan.labelled)
    told: dict[str, Any] = {"given": given, "taught": 0, "left_out": known.left_out, "weight": 0.0}
    n, good = len(known.ids), len(plan.shares["fit"]) + len(plan.shares["select"])
    if n < LABELLED or good < FEWEST:
        few = f"{n} of {given} can be used, and to hold some out takes {LABELLED}"
        few = few if n < LABELLED else f"there are {good} good images to learn from, and it takes {FEWEST}"
        return told | {"sentence": f"Labelled defects change nothing: {few}."}
    rng = np.random.default_rng(seed)
    trial = _Trial.of(pipeline, plan, known, rng.permutation(good), seed)
    hits = [trial.hit(i, mask) for i, mask in enumerate(known.masks)]
    for name, hit in zip(known.ids, hits, strict=True):
        if not hit.any():
            known.left_out[name] = "no mask says where its defect is, and no place scores as good images never do"
    told["taught"] = sum(bool(hit.any()) for hit in hits)
    examples = _Examples.of(trial, hits, rng)
    k = min(FOLDS, n)
    folds = {"labelled": rng.permutation(n) % k, "good": np.arange(len(trial.good.maps)) % k}
    folds["bad"] = folds["good"][: len(trial.bad.maps)]  # of the same images
    choice = _choose(trial, examples, folds)
    told |= {"weight": choice.weight, "auroc": list(choice.labelled), "synthetic": list(choice.synthetic)}
    if choice.weight:
        direction = examples.direction(choice.ridge)
        values = trial.good.values(direction[:, None])[..., 0]
        factor, offset = trial.scaled(values, np.arange(len(values)))
        pipeline.state |= {
            "label_direction": (factor * direction).float(),
            "label_offset": torch.tensor(offset),
            "label_weight": torch.tensor(choice.weight),
        }
    return told | {"sentence": _sentence(told)}


# Labelled images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """Labelled images that can be used, where in them the defect is, if that is known, and why others cannot be."""

    sample: settling.Sample
    masks: list[Tensor | None]  # (h, w) bool
    ids: list[str]
    left_out: dict[str, str]


def _known(pipeline: Pipeline, plan: Plan, images: ImageSet) -> _Known:
    patches, reader = pipeline.model.patches, pipeline.representation
    assert patches is not None
    assert isinstance(reader, Features)
    told = ~np.isnan(plan.schema.encode_or_nan(images.conditions, len(images))).any(axis=1)
    left_out = dict.fromkeys(images.ids[~told].tolist(), "a condition of it is unknown, or new")
    seen = images = images[told]
    if plan.ignore is not None and pipeline.settings.align == "none":
        seen = blanked(images, plan.ignore, plan.schema, reader.pixels.low)
    features, errors = reader.read(seen) if len(seen) else (np.zeros((0, *patches.shape), np.float32), {})
    left_out |= {str(images.ids[i]): reason for i, reason in errors.items()}
    read = np.array([i for i in range(len(images)) if i not in errors], dtype=np.int64)
    images, features = images[read], features[read]
    encoded = plan.schema.encode(images.conditions, len(images))
    c = torch.from_numpy(encoded.c) if patches.keys.shape[1] else None
    device = patches.mean.device
    cell = patches.cell(None if c is None else c.to(device), len(images))
    white = [
        patches.whiten(torch.from_numpy(features[i : i + 1]).to(device), cell[i : i + 1])
        .clamp(-settling.LARGEST, settling.LARGEST)
        .half()
        .cpu()
        for i in range(len(images))
    ]
    sample = settling.Sample(white, c, torch.from_numpy(encoded.stratum), cell.cpu())
    return _Known(sample, _masks(images, reader), images.ids.tolist(), left_out)


def _masks(images: ImageSet, reader: Features) -> list[Tensor | None]:
    """(h, w) bool for each image, the places of its defect; None without a mask, or with an empty one."""
    as_mask = reader.pixels.model_copy(update={"channels": 1, "grey": False, "dtype": "uint8"})
    found: list[Tensor | None] = []
    for i in range(len(images)):
        mask = images.mask(i)
        if mask is None or not mask.any():
            found.append(None)
            continue
        shape = tuple(images.shapes()[i, :2].tolist())
        if mask.shape != shape:
            raise DataError(f"{images.ids[i]}: its mask is {mask.shape}, the image is {shape}; expected one size")
        prepared = as_mask.prepare(mask[..., None].astype(np.uint8) * 255).transpose(1, 2, 0)
        prepared = warp(np.ascontiguousarray(prepared), reader.transforms(images, np.array([i]))[0])
        share = adaptive_avg_pool2d(torch.from_numpy(prepared[None, ..., 0]).float(), reader.grid)[0]
        found.append((share >= settling.HIT * share.max()) & (share > 0))
    return found


# What would become of images ------------------------------------------------------------------------------------------


@dataclass
class _Shown:
    """Images to judge: their inner maps (N, h, w), bounded whitened patches (N, P, F) in half precision, cells (N,)."""

    maps: Tensor
    rows: Tensor
    cell: Tensor

    def values(self, directions: Tensor) -> Tensor:
        """(N, P, D) float64 along directions (F, D)."""
        found = [some.float() @ directions.float() for some in self.rows.split(settling.AT_ONCE)]
        return torch.cat(found).double()


@dataclass
class _Trial:
    """Good images, left out in turn; these with synthetic defects, the first of them; and labelled ones."""

    pipeline: Pipeline
    good: _Shown
    bad: _Shown
    labelled: _Shown
    scale: float  # standard deviation of the scores of good patches
    reached: float  # largest score that all but 1 % of good images keep below

    @classmethod
    def of(cls, pipeline: Pipeline, plan: Plan, known: _Known, drawn: np.ndarray, seed: int) -> _Trial:
        def shown(sample: settling.Sample) -> _Shown:
            maps = settling._maps(pipeline, pipeline.score.inner, sample)  # type: ignore[attr-defined]
            rows = torch.cat([bounded(white.float()).half() for white in sample.white])
            return _Shown(maps, rows, sample.cell)

        good = shown(settling._good(pipeline, plan, drawn[: settling.GOOD]))
        bad = shown(settling._bad(pipeline, plan, drawn[: settling.BAD], seed + 1)[0])
        trial = cls(pipeline, good, bad, shown(known.sample), 1.0, 0.0)
        counted = ~settling._ignored(pipeline)[good.cell]
        trial.scale = float(good.maps[counted].std())
        judged, ignored = trial.judged(good, 0.0)
        largest = judged.masked_fill(ignored, -torch.inf).flatten(1).amax(1)
        trial.reached = float(largest.quantile(1 - EXCEEDED))
        return trial

    def judged(self, shown: _Shown, term: Tensor | float) -> tuple[Tensor, Tensor]:
        """Maps (N, h, w) as the score pools them, with a term added, and where they are ignored."""
        state = self.pipeline.state
        level, spread = (state[name].cpu().double()[shown.cell] for name in ("level", "spread"))
        return settling._smoothed(self.pipeline, (shown.maps + term - level) / spread, shown.cell)

    def scores(self, shown: _Shown, term: Tensor | float) -> Tensor:
        """(N,) of images."""
        maps, ignored = self.judged(shown, term)
        return pool(maps, POOLINGS[int(self.pipeline.state["pooling"])], ignored)

    def hit(self, i: int, mask: Tensor | None) -> Tensor:
        """(h, w) bool: the places of labelled image i that teach."""
        one = _Shown(*(t[i : i + 1] for t in (self.labelled.maps, self.labelled.rows, self.labelled.cell)))
        maps, ignored = (t[0] for t in self.judged(one, 0.0))
        if mask is not None:
            return mask & ~ignored
        low = maps.masked_fill(ignored, -torch.inf)
        most = max(1, round(TOP_SHARE * int((~ignored).sum())))
        least = low.flatten().topk(most).values[-1]
        return (low >= least) & (low > self.reached)

    def scaled(self, values: Tensor, index: np.ndarray) -> tuple[float, float]:
        """Factor and offset of a direction, from its values (N, P) on good images, by those at `index`.

        Times the factor they spread as the scores do; then half of the images lie below the offset everywhere.
        """
        at = torch.from_numpy(index)
        ignored = settling._ignored(self.pipeline)[self.good.cell[at]].flatten(1)
        mine = values[at]
        spread = float(mine[~ignored].std())
        factor = self.scale / spread if spread > 0 else 0.0
        return factor, factor * float(mine.masked_fill(ignored, -torch.inf).amax(1).quantile(1 - UNMOVED))

    def terms(self, directions: Tensor, folds: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Terms (N, h, w) by kind of image, each along the direction, of (F, K), that knew neither it nor its fold."""
        grid = self.good.maps.shape[1:]
        values = {name: getattr(self, name).values(directions) for name in KINDS}
        found = {name: torch.zeros(v.shape[:2], dtype=torch.float64) for name, v in values.items()}
        for k in range(directions.shape[1]):
            factor, offset = self.scaled(values["good"][..., k], np.flatnonzero(folds["good"] != k))
            for name, v in values.items():
                mine = torch.from_numpy(folds[name] == k)
                found[name][mine] = (factor * v[mine, :, k] - offset).clamp_min(0)
        return {name: term.unflatten(1, grid) for name, term in found.items()}


# A direction ----------------------------------------------------------------------------------------------------------


@dataclass
class _Examples:
    """Bounded patches to learn from, (M, F), and the image each is of, by its number."""

    defect: Tensor
    defect_of: np.ndarray
    good: Tensor
    good_of: np.ndarray

    @classmethod
    def of(cls, trial: _Trial, hits: Sequence[Tensor], rng: np.random.Generator) -> _Examples:
        """All patches of defects, up to 128 an image; of good images the 12 oddest each and 12 others."""
        defect = [rng.permutation(np.flatnonzero(hit.flatten().numpy()))[:MOST] for hit in hits]
        counted = ~settling._ignored(trial.pipeline)[trial.good.cell].flatten(1)
        good = []
        for scores, some in zip(trial.good.maps.flatten(1), counted, strict=True):
            at = torch.nonzero(some)[:, 0]
            at = at[scores[at].argsort(descending=True, stable=True)].numpy()
            odd, others = at[: AN_IMAGE // 2], at[AN_IMAGE // 2 :]
            good.append(np.concatenate([odd, rng.permutation(others)[: AN_IMAGE // 2]]))
        found = []
        for shown, index in ((trial.labelled, defect), (trial.good, good)):
            of = np.repeat(np.arange(len(index)), [len(at) for at in index])
            found += [shown.rows[torch.from_numpy(of), torch.from_numpy(np.concatenate(index))].double(), of]
        return cls(*found)

    def direction(self, ridge: float, folds: dict[str, np.ndarray] | None = None, without: int = -1) -> Tensor:
        """(F,) from all examples, or from those of images that are not in the fold `without`; 0 if there are none.

        Every labelled image has the same weight, and all defects have that of all good patches.
        """
        kept = slice(None), slice(None)
        if folds is not None:
            kept = folds["labelled"][self.defect_of] != without, folds["good"][self.good_of] != without
        defect, good, of = self.defect[kept[0]], self.good[kept[1]], self.defect_of[kept[0]]
        if not len(defect) or not len(good):
            return torch.zeros(self.defect.shape[1], dtype=torch.float64)
        _, at, counts = np.unique(of, return_inverse=True, return_counts=True)
        weight = torch.from_numpy(np.r_[0.5 / (len(counts) * counts[at]), np.full(len(good), 0.5 / len(good))])
        sign = torch.cat([torch.ones(len(defect)), -torch.ones(len(good))]).double()
        return logistic(torch.cat([defect, good]), sign, weight, ridge)[0]


def logistic(x: Tensor, sign: Tensor, weight: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Direction d (F,) and intercept a that minimise Σ weight · log(1 + exp(−sign·(x·d + a))) + ridge/2 · |d|².

    By Newton's method with halved steps: the objective is convex. x is (M, F) float64, sign (M,) is 1 or −1, and
    weight (M,) adds up to 1; the minimum is reached to 1e-9 of the gradient's length, or in 50 steps.
    """
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    bend = torch.full((x.shape[1],), ridge, dtype=x.dtype)
    bend[-1] = 1e-6 * ridge  # the intercept is all but free
    d = torch.zeros_like(bend)

    def cost(d: Tensor) -> float:
        return float(-(weight * logsigmoid(sign * (x @ d))).sum() + (bend * d.square()).sum() / 2)

    now = cost(d)
    for _ in range(NEWTON):
        wrong = torch.sigmoid(-sign * (x @ d))
        gradient = bend * d - (x * (weight * sign * wrong)[:, None]).sum(0)
        if float(gradient.norm()) < 1e-9:
            break
        curved = (x * (weight * wrong * (1 - wrong))[:, None]).T @ x + torch.diag(bend)
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(curved))[:, 0]
        size = 1.0
        while size > 1e-6 and cost(d - size * step) > now:
            size /= 2
        d = d - size * step
        now = cost(d)
    return d[:-1], float(d[-1])


# The choice -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """The weight of the term, 0 for none, the ridge, and AUROC before and after."""

    weight: float
    ridge: float
    labelled: tuple[float, float]
    synthetic: tuple[float, float]


def _choose(trial: _Trial, examples: _Examples, folds: dict[str, np.ndarray]) -> _Choice:
    """The most that held-out labelled defects gain, by more than chance may give, at no cost to synthetic ones."""
    plain = {name: trial.scores(getattr(trial, name), 0.0) for name in KINDS}
    before = {name: found_among(plain[name], plain["good"]) for name in ("labelled", "bad")}
    labelled, synthetic = float(before["labelled"].mean()), float(before["bad"].mean())
    best = _Choice(0.0, RIDGES[0], (labelled, labelled), (synthetic, synthetic))
    for ridge in RIDGES:
        each = [examples.direction(ridge, folds, k) for k in range(int(folds["labelled"].max()) + 1)]
        terms = trial.terms(torch.stack(each, 1), folds)
        for weight in WEIGHTS:
            scores = {name: trial.scores(getattr(trial, name), weight * terms[name]) for name in KINDS}
            gain = found_among(scores["labelled"], scores["good"]) - before["labelled"]
            also = float(found_among(scores["bad"], scores["good"]).mean())
            sure = float(gain.mean()) > SURE * float(gain.std()) / len(gain) ** 0.5
            after = labelled + float(gain.mean())
            if sure and also >= synthetic - LOST and after > best.labelled[1] + 1e-9:
                best = _Choice(weight, ridge, (labelled, after), (synthetic, also))
    return best


def found_among(odd: Tensor, good: Tensor) -> Tensor:
    """(N,) of each odd image the share of good ones that score lower, ties half: their mean is the AUROC."""
    return (odd[:, None] > good).double().mean(1) + (odd[:, None] == good).double().mean(1) / 2


def _sentence(told: dict[str, Any]) -> str:
    taught, (before, after) = told["taught"], told["auroc"]
    if told["weight"]:
        return (
            f"{taught} labelled defects teach the score, with weight {told['weight']:g}: held out in turn, such "
            f"defects are told from good images with AUROC {after:.3f} instead of {before:.3f}."
        )
    return (
        f"{taught} labelled defects could teach, and change nothing: held out in turn, such defects are told from good "
        f"images with AUROC {before:.3f}, and not surely better by what the others teach."
    )
