"""From a plan to a pipeline: train the nets, fit the score, choose, and remember the good images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from knowngood.config import Settings
from knowngood.detector import condition_posterior as inferring
from knowngood.detector import explain as explaining
from knowngood.detector.calibrate import sums_out
from knowngood.detector.fit.building import build_model
from knowngood.detector.fit.patch_fitting import training_settings
from knowngood.detector.fit.plan import Plan
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.rows import Items, rows_at_once
from knowngood.errors import SettingsError
from knowngood.models.objectives import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Edges, Table
from knowngood.scores.hidden import Cells
from knowngood.training import BatchSource, History, train

EDGE_STEPS = 1000  # a model of edges that trains longer tells unknown kinds less well


class Learned(NamedTuple):
    """A pipeline without its calibration, and what happened on the way."""

    pipeline: Pipeline
    history: History
    told: dict[str, Any] | None  # of labelled anomalies, see `teaching.teach` and `patch_labels.teach`
    chosen: dict[str, Any] | None  # of the score, see `choosing.choose`
    fingerprint: str  # of the normals


def learn(
    plan: Plan,
    known: Items,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    film: Path | None = None,
) -> Learned:
    """Carry out a plan. `known` are the labelled anomalies among the items; the rest is as for `Detector.fit`.

    Raises:
        TrainingError: the loss became non-finite.
    """
    settings, seed = plan.settings, plan.seed
    fit, held_out, fingerprint = plan.source("fit"), plan.source("select"), plan.normals.fingerprint()
    marks = f"+{known.fingerprint()}" if plan.anomalies is not None else ""
    how = {"run_dir": run_dir, "resume": resume, "progress": progress, "fingerprint": fingerprint + marks}
    further = list(members(plan))
    history = _train(plan, fit, held_out, film, **how)
    for k, member in enumerate(further, 1):
        how["run_dir"] = None if run_dir is None else run_dir / f"member-{k}"
        _train(member, fit, held_out, None, **how)
    plan.model.others.extend(member.model for member in further)
    pipeline = Pipeline(settings, plan.schema, plan.representation, plan.model.eval(), plan.score, ignore=plan.ignore)
    pipeline.objective_state = {name: t.detach().cpu() for name, t in plan.objective.kept_state().items()}
    with torch.no_grad():
        both = [_InOrder(source.to(pipeline.device), plan.model) for source in (held_out, fit)]
        state = plan.score.fit(plan.model, both[1])
        pipeline.state = plan.score.settle(plan.model, state, *both)
        cells = Cells.of(plan.schema, pipeline.device)
        if cells is not None and sums_out(settings, plan.score, plan.schema):
            pipeline.state = plan.score.settle_hidden(plan.model, pipeline.state, both[0], both[1], cells)
    chosen = None
    if settings.scoring == "choose" and settings.features == "none":
        from knowngood.detector.fit.choosing import choose

        chosen = choose(pipeline, plan, *both)
    if settings.features != "none":
        from knowngood.detector.fit.patch_settling import settle

        settle(pipeline, plan, plan.inners, settings.features, seed)
    told = None
    if plan.labelled is not None:
        if settings.features == "none":
            from knowngood.detector.fit.teaching import teach
        else:
            from knowngood.detector.fit.patch_labels import teach

        told = teach(pipeline, plan, seed)
    if inferring.tells_conditions(pipeline) and settings.tile is None:
        found = inferring.temperature(pipeline, plan.part("select"))
        pipeline.state[inferring.TEMPERATURE] = torch.tensor(found, dtype=torch.float64)
    if not isinstance(plan.representation, Table) and settings.tile is None:
        index = plan.split["fit"]
        about = plan.encoded.stratum[index], plan.encoded.c[index], (plan.features or {}).get("fit")
        pipeline.known_good = explaining.learn(pipeline, plan.part("fit"), plan.part("select"), *about, seed)  # type: ignore[arg-type]
    return Learned(pipeline, history, told, chosen, fingerprint)


def members(plan: Plan) -> Iterator[Plan]:
    """The same with a fresh model, objective and seed, for each further member of an ensemble; before training."""
    for k in range(1, plan.settings.ensemble):
        seed = int(np.random.SeedSequence([plan.seed, k]).generate_state(1)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(plan.settings, plan.objective, plan.schema, plan.representation)
        yield replace(plan, model=model, objective=copy.deepcopy(plan.objective), seed=seed)


def _train(plan: Plan, fit: BatchSource, held_out: BatchSource, film: Path | None, **how: Any) -> History:
    """Train the plan's model, in place; `how` is for `train`."""
    watch = None
    if film is not None:
        if isinstance(plan.representation, Edges):
            raise SettingsError("film: it shows what a model of pixels makes of images; this one reconstructs edges")
        from knowngood.training.film import Film

        watch = Film.of(held_out)
    patches, plan.model.patches = plan.model.patches, None  # no weights: kept out of averages and checkpoints
    history = train(
        plan.model,
        plan.objective,
        fit,
        held_out if len(held_out) else None,
        _training_settings(plan, len(fit)),
        seed=plan.seed,
        anomalies=plan.anomalies,
        on_evaluation=watch,
        **how,
    )
    if patches is not None:
        plan.model.patches = patches.to(next(plan.model.parameters()).device)
    if watch is not None and film is not None:
        watch.write(film, history.steps)
    return history


def _training_settings(plan: Plan, items: int) -> Settings:
    """The settings with the number of epochs, where what is modelled says it: edges are soon learned."""
    settings = plan.settings
    if plan.features is not None:
        return training_settings(settings, items)
    if not isinstance(plan.representation, Edges) or settings.epochs is not None:
        return settings
    epochs = max(1, round(EDGE_STEPS * settings.batch_size / max(items, settings.batch_size)))
    return settings.model_copy(update={"epochs": epochs})


class _InOrder:
    """All items of a source once, as many at a time as are scored together; as often as is asked."""

    def __init__(self, source: BatchSource, model: ConditionalVAE) -> None:
        self.source, self.model = source, model

    def __iter__(self) -> Iterator[Batch]:
        n = len(self.source)
        return self.source.batches(torch.arange(n).split(rows_at_once(self.model.shape)) if n else ())
