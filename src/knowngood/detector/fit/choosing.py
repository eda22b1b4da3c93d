"""Which score: chosen on held-out good images and synthetic anomalies of these, never on real ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.config import Elbo, Fusion, Options, parse_settings
from knowngood.detector.calibrate import sums_out
from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.scores import Score, build_score
from knowngood.scores.fusion import ITEMS, VALUES, FusionScore, surprise_by, tail, values_of
from knowngood.scores.hidden import Cells
from knowngood.scores.trial import MOST, Floats, Trial, evenly, fitted_weights, fused, gain, placements

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

MARGIN = 0.01  # of mean AUROC by which another score has to be better than the default one
SURE = 2.0  # and standard errors of that
ROWS = 10_000  # scored for one candidate, about
MOST_CELLS = 64  # conditions an image could have, above which choices are made with conditions known


class Candidate(NamedTuple):
    """A score that could be taken."""

    name: str
    score: Score
    state: dict[str, Tensor]
    values: Tensor  # (n,) of held-out good items
    tail: Calibration  # of these


@torch.no_grad()
def choose(pipeline: Pipeline, plan: Plan, held_out: Iterable[Batch], fitted: Iterable[Batch]) -> dict[str, Any]:
    """Take the score that best tells synthetic anomalies from the good images that they were made of; in place.

    The candidates are the score that the pipeline has, those of `others`, and the fusion of all. What counts is the
    mean over kinds of the AUROC, of at most 256 held-out good images and an anomaly of each kind for each of them.
    Another score is taken if it is better than the default by .01 and by two standard errors. Conditions are known, or
    hidden where they are to be inferred (`unknown="infer"`) and an image could have at most 64.

    The score that the objective is defined with stays where fewer than 30 good images were held out, and where there is
    nothing to choose: for tables, and for objectives that come with a score of their own.

    Args:
        held_out, fitted: the good items that the model was not fitted on, and that it was; read more than once.

    Returns:
        What was done, plain data: "default" and "chosen", names; "images" that took part; "conditions", "known" or
        "hidden"; "auroc", by candidate its "mean" and that of each kind; "weights" of the fusion; "sentence".
    """
    default = pipeline.score.options
    told: dict[str, Any] = {"default": default.name, "chosen": default.name, "images": 0, "auroc": {}}
    hidden = _cells(pipeline)
    rows = 7 * (1 if hidden is None else len(hidden))
    options = others(pipeline) if isinstance(default, Elbo) else []
    trial = Trial.of(held_out, [plan.seed], min(MOST, ROWS // rows)) if options else None
    normals = evenly(held_out, ITEMS, VALUES)
    if trial is None or normals is None:
        why = "there is nothing to choose from" if not options else "to choose takes 30 held-out good images"
        return told | {"sentence": f"Score `{default.name}` is the default: {why}."}

    found = [_candidate(pipeline.score, pipeline, pipeline.state, normals)]
    for option in options:
        score = build_score(option, pipeline.settings)
        state = score.settle(pipeline.model, score.fit(pipeline.model, fitted), held_out, fitted)
        found.append(_candidate(score, pipeline, state, normals))
    joined = build_score(Fusion(scores=tuple(one.score.options for one in found)), pipeline.settings)  # type: ignore[arg-type]
    assert isinstance(joined, FusionScore)
    tails, equal = torch.stack([one.values for one in found]), torch.full((len(found),), 1 / len(found)).double()
    state = joined.joined([one.state for one in found], tails, normals.stratum, equal)
    each_by_itself = hidden is not None and sums_out(pipeline.settings, joined, pipeline.schema)
    if hidden is not None and each_by_itself:
        state = joined.settle_hidden(pipeline.model, state, held_out, fitted, hidden)

    values = [_values(pipeline, one, trial, hidden) for one in found]
    surprises: dict[str, Floats] = {}
    for kind in trial.x:
        of_kind = [each[kind] for each in values]
        if hidden is not None and each_by_itself:
            surprises[kind] = joined.surprises_hidden(state, joined.each_summed_out(hidden, of_kind))
        else:
            pairs = zip(found, of_kind, strict=True)
            surprises[kind] = np.stack([_surprises(one, each, trial, hidden) for one, each in pairs])
    weights = fitted_weights(surprises)
    state["weights"] = torch.from_numpy(weights)

    judged = {one.name: fused(surprises, np.eye(len(found))[k]) for k, one in enumerate(found)}
    for one, each in zip(found, values, strict=True):
        if each_by_itself and not one.score.is_likelihood:  # alone it would take the condition that explains best
            judged[one.name] = {kind: _surprises(one, v, trial, hidden).min(1) for kind, v in each.items()}
    judged["fusion"] = fused(surprises, weights)
    placed = {name: placements(each) for name, each in judged.items()}
    chosen = _best(placed, default.name)
    if chosen == "fusion":
        pipeline.score, pipeline.state = joined, state
    else:
        one = next(one for one in found if one.name == chosen)
        pipeline.score, pipeline.state = one.score, one.state
    told |= {
        "chosen": chosen,
        "images": len(trial),
        "conditions": "known" if hidden is None else "hidden",
        "auroc": {
            name: {"mean": float(each.mean()), **dict(zip(trial.kinds, each.mean(1).tolist(), strict=True))}
            for name, each in placed.items()
        },
        "weights": {one.name: float(weight) for one, weight in zip(found, weights, strict=True)},
    }
    return told | {"sentence": _sentence(told)}


def others(pipeline: Pipeline) -> list[Options]:
    """Scores beside the default one that fit this model and these settings."""
    model, settings = pipeline.model, pipeline.settings
    named: list[Any] = ["prior_distance"] if model.prior_name != "standard" else []
    if len(model.shape) == 3:
        named += ["reconstruction", "mahalanobis", {"name": "neighbours", "of": "gradients"}]
    found: list[Options] = []
    for name in named:
        option = parse_settings({"scoring": name}).scoring
        assert not isinstance(option, str)
        score = build_score(option, settings)
        try:
            score.check(model)
            sums_out(settings, score, pipeline.schema)
        except SettingsError:
            continue
        found.append(option)
    return found


# Inside ---------------------------------------------------------------------------------------------------------------


def _cells(pipeline: Pipeline) -> Cells | None:
    """The conditions an image could have, where they are to be inferred and few enough to try them all."""
    cells = Cells.of(pipeline.schema, pipeline.device)
    if pipeline.settings.unknown != "infer" or cells is None or len(cells) > MOST_CELLS:
        return None
    return cells


def _candidate(score: Score, pipeline: Pipeline, state: dict[str, Tensor], normals: Batch) -> Candidate:
    values = values_of(score, pipeline.model, state, normals)
    return Candidate(score.options.name, score, state, values, tail(values.numpy(), normals.stratum.cpu().numpy()))


def _values(pipeline: Pipeline, one: Candidate, trial: Trial, hidden: Cells | None) -> dict[str, Floats]:
    """By kind raw scores (n,), or with conditions hidden (n, R)."""

    def known(x: Tensor, c: Tensor | None, stratum: Tensor) -> Tensor:
        return one.score.score(pipeline.model, one.state, x, c, stratum).values

    if hidden is None:
        return trial.values(known)
    return trial.values(lambda x, c, stratum: hidden.under_each(known, x, seen=c is not None))


def _surprises(one: Candidate, values: Floats, trial: Trial, hidden: Cells | None) -> Floats:
    """Surprises of raw scores (n,) or (n, R), same shape."""
    strata = trial.stratum.cpu().numpy()
    if hidden is not None:
        strata = np.broadcast_to(hidden.stratum.cpu().numpy(), values.shape)
    return surprise_by(one.tail, values.ravel(), strata.ravel()).reshape(values.shape)


def _best(placed: dict[str, Floats], default: str) -> str:
    chosen = default
    for name, each in placed.items():
        lead, error = gain(each, placed[default])
        if lead > max(MARGIN, SURE * error) and each.mean() > placed[chosen].mean():
            chosen = name
    return chosen


def _sentence(told: dict[str, Any]) -> str:
    auroc = {name: each["mean"] for name, each in told["auroc"].items()}
    chosen = f"`{told['chosen']}` ({auroc[told['chosen']]:.3f})"
    if told["chosen"] == "fusion":
        shares = ", ".join(f"{name} {weight:.2f}" for name, weight in told["weights"].items() if weight)
        chosen = f"`fusion` of {shares} ({auroc['fusion']:.3f})"
    rest = ", ".join(f"{name} {value:.3f}" for name, value in auroc.items() if name != told["chosen"])
    return (
        f"score {chosen} chosen by the mean AUROC of synthetic anomalies of {told['images']} held-out good images; "
        f"the others: {rest}"
    )
