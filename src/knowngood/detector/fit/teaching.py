"""A few labelled anomalies teach what is odd in whole images and tables: a direction in which they leave good items.

The score becomes score + weight · max(0, direction · b(v) − offset), see `scores.taught`: ridge-regularised logistic
regression of labelled anomalies against good items, on codes v that need no net. Nothing is ever taken off a score, and
of good items hardly one reaches the offset, so that an anomaly of another kind stays as odd as it was. Ridge, offset
and weight are chosen on labelled anomalies and good items that were held out, and 0 is among the weights: where these
anomalies are not found better by it, or others could lose more than .005 of AUROC, the score stays what it was, to the
bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from knowngood.detector.fit.discriminant import found_among, gain, harm
from knowngood.detector.fit.teaching_trial import Offset, Trial
from knowngood.detector.rows import Items
from knowngood.scores.taught import TaughtScore, taught_state

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

RIDGES = (1.0, 0.1, 0.01)
OFFSETS = (Offset(0.0, 1.0), Offset(0.0), Offset(0.003), Offset(0.01))
WEIGHTS = (0.3, 1.0, 3.0)  # beside scores whose spread over good items is that of what the term is made of
LABELLED, GOOD = 3, 30  # labelled anomalies and good items that it takes
MOST, ROWS = 2000, 20_000  # labelled anomalies that teach, and rows of these to score, at most
UNMOVED = 0.99  # share of held-out good items that the term leaves as they are
LOST = 0.005  # AUROC that it may cost an anomaly of any other kind, at most
PRICE = 3.0  # gains that make up for as much of that
SURE = 1.5  # standard errors that the gain on held-out labelled anomalies has to exceed


@torch.no_grad()
def teach(pipeline: Pipeline, plan: Plan, seed: int) -> dict[str, Any] | None:
    """Let the plan's labelled anomalies change the score, if held-out ones say that they should; in place.

    Returns:
        What was done, plain data: "given" and "taught" anomalies; "left_out", reasons by id; "weight", 0 if the score
        stays as it was; "auroc" of held-out labelled anomalies against good items, [before, after]; "harm", the most
        AUROC that an anomaly of another kind may lose; "sentence", for people. None without labelled anomalies.
    """
    if plan.labelled is None or not len(plan.labelled):
        return None
    labelled, left_out = usable(pipeline, plan.labelled, np.random.default_rng([seed, 0]))
    told: dict[str, Any] = {"given": len(plan.labelled), "taught": 0, "left_out": left_out, "weight": 0.0}
    n, good = len(labelled), len(plan.split["fit"]) + len(plan.split["select"])
    if n < LABELLED or good < GOOD:
        few = f"{n} of {told['given']} can be used, and to hold some out takes {LABELLED}"
        few = few if n < LABELLED else f"there are {good} good items to learn from, and it takes {GOOD}"
        return told | {"sentence": f"Labelled anomalies change nothing: {few}."}
    trial = Trial.of(pipeline, plan, labelled, np.random.default_rng([seed, 1]))
    choice = choose(trial)
    told |= {"taught": n, "weight": choice.weight, "auroc": list(choice.auroc), "harm": choice.harm}
    if choice.weight:
        sides, line = trial.sides(choice.ridge), trial.line(choice.ridge)
        factor, begins = trial.factor(sides), choice.offset.of(sides.good) - line.intercept
        pipeline.state |= taught_state(trial.usually, factor * line.direction, factor * begins, choice.weight)
        pipeline.score = TaughtScore(pipeline.score)
    return told | {"sentence": _sentence(told)}


def usable(pipeline: Pipeline, labelled: Items, rng: np.random.Generator) -> tuple[Items, dict[str, str]]:
    """At most 2,000 anomalies whose conditions are known or can be inferred; and by id why others cannot teach."""
    schema, left_out = pipeline.schema, {}
    told = ~np.isnan(schema.encode_or_nan(labelled.conditions, len(labelled))).any(axis=1)
    if not all("infer" in column.roles for column in schema.columns):
        left_out = dict.fromkeys(labelled.ids[~told].tolist(), "a condition of it is unknown, or new")
        labelled = labelled[told]
    most = MOST if told.all() else min(MOST, max(LABELLED, ROWS // len(schema.cells)))
    if len(labelled) > most:
        labelled = labelled[np.sort(rng.permutation(len(labelled))[:most])]
    return labelled, left_out


# The choice -----------------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """The weight of the term, 0 for none, how it is learned, AUROC before and after, and what others may lose."""

    weight: float
    ridge: float
    offset: Offset
    auroc: tuple[float, float]
    harm: float = 0.0


def choose(trial: Trial) -> Choice:
    """The most that held-out labelled anomalies gain, less what others may lose; by more than chance may give."""
    plain = trial.scores
    before = float(found_among(*plain).mean())
    best, most = Choice(0.0, RIDGES[0], OFFSETS[0], (before, before)), 0.0
    for ridge in RIDGES:
        sides = trial.sides(ridge)
        for offset in OFFSETS:
            terms = trial.terms(sides, offset)
            if float((terms.good == 0).double().mean()) < UNMOVED:
                continue
            for weight in WEIGHTS:
                raised = trial.raised(terms, weight)
                (by, error), lost = gain(plain, raised), harm(plain.good, raised.good)
                if by > SURE * error and lost <= LOST and by - PRICE * lost > most + 1e-9:
                    best, most = Choice(weight, ridge, offset, (before, before + by), lost), by - PRICE * lost
    return best


def _sentence(told: dict[str, Any]) -> str:
    taught, (before, after) = told["taught"], told["auroc"]
    if told["weight"]:
        return (
            f"{taught} labelled anomalies teach the score, with weight {told['weight']:g}: held out in turn, such "
            f"anomalies are told from good items with AUROC {after:.3f} instead of {before:.3f}."
        )
    return (
        f"{taught} labelled anomalies could teach, and change nothing: held out in turn, such anomalies are told from "
        f"good items with AUROC {before:.3f}, and not surely better by what the others teach."
    )
