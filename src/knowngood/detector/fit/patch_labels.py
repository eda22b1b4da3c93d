"""A few labelled defects teach what is odd on features: a direction in which their patches leave those of good images.

The score of a patch becomes score + weight · max(0, direction · b(v) − offset), v its whitened features and
b(v) = v / √(1 + |v|²/F): ridge-regularised logistic regression of the defects' patches against good ones. Nothing is
ever taken off a score, so a defect of another kind stays as odd as it was. Ridge and weight are chosen on labelled
defects that were held out, and 0 is among the weights: where these are not found better by it, or synthetic defects
are found worse, the score stays what it was, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from knowngood.data import ImageSet
from knowngood.detector.fit.discriminant import found_among
from knowngood.detector.fit.patch_defects import known_defects
from knowngood.detector.fit.patch_direction import Examples
from knowngood.detector.fit.patch_label_trial import KINDS, Trial
from knowngood.models.patch_gaussian import FEWEST

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

RIDGES = (1.0, 0.1)
WEIGHTS = (0.5, 1.0, 2.0)  # beside scores whose spread over good patches is that of the term
LABELLED = 3  # labelled images that it takes
FOLDS = 10  # of labelled images, each held out once
LOST = 0.002  # AUROC on synthetic defects that teaching may cost
SURE = 1.5  # standard errors that the gain on held-out labelled defects has to exceed


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
    labelled = plan.labelled
    if not isinstance(labelled, ImageSet) or not len(labelled):
        return None
    known, given = known_defects(pipeline, plan, labelled), len(labelled)
    told: dict[str, Any] = {"given": given, "taught": 0, "left_out": known.left_out, "weight": 0.0}
    n, good = len(known.ids), len(plan.shares["fit"]) + len(plan.shares["select"])
    if n < LABELLED or good < FEWEST:
        few = f"{n} of {given} can be used, and to hold some out takes {LABELLED}"
        few = few if n < LABELLED else f"there are {good} good images to learn from, and it takes {FEWEST}"
        return told | {"sentence": f"Labelled defects change nothing: {few}."}
    rng = np.random.default_rng(seed)
    trial = Trial.of(pipeline, plan, known, rng.permutation(good), seed)
    hits = [trial.hit(i, mask) for i, mask in enumerate(known.masks)]
    for name, hit in zip(known.ids, hits, strict=True):
        if not hit.any():
            known.left_out[name] = "no mask says where its defect is, and no place scores as good images never do"
    told["taught"] = sum(bool(hit.any()) for hit in hits)
    examples = Examples.of(trial, hits, rng)
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


# The choice -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """The weight of the term, 0 for none, the ridge, and AUROC before and after."""

    weight: float
    ridge: float
    labelled: tuple[float, float]
    synthetic: tuple[float, float]


def _choose(trial: Trial, examples: Examples, folds: dict[str, np.ndarray]) -> _Choice:
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
