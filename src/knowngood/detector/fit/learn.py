"""From a plan to a pipeline: representation, model, score, adjustments, each fitted in this order; and fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import folds
from knowngood.config import (
    FeatureOptions,
    HOGOptions,
    MemoryBankOptions,
    PatchGaussianOptions,
    PixelOptions,
    Settings,
    SharedGaussianOptions,
    TrainingOptions,
    VAEOptions,
    counted,
    implementation,
)
from knowngood.data import ImageSet
from knowngood.data.conditions import ConditionSchema
from knowngood.data.factor_targets import Standardised
from knowngood.data.progress import track
from knowngood.data.regions.blanked import blanked
from knowngood.detector.calibrate import NormalScores, marginalises, normal_scores
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.cached_hog import CachedHOG
from knowngood.detector.fit.few_labels import learn_penalty
from knowngood.detector.fit.known_defects import learn_defects
from knowngood.detector.fit.plan import Plan, build_objective, learned_from
from knowngood.detector.ignored import Ignored
from knowngood.detector.pipeline import Pipeline, Representation
from knowngood.detector.scoring import READERS, rows_at_once
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Batch, BatchSource, FitContext, Model, as_loaded
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.objectives.base import Objective
from knowngood.models.objectives.illuminated import Illuminated
from knowngood.models.objectives.penalties import ClassAware, Labelled
from knowngood.models.patch_gaussian import FEWEST, PatchGaussian
from knowngood.models.vae import ConditionalVAE, resolve
from knowngood.representations import HOG, Features, Pixels, prepare_all
from knowngood.scores import Adjustment
from knowngood.scores.adjustment import fit_adjustments
from knowngood.scores.illumination import IlluminationAdjustment
from knowngood.scores.marginal import Cells
from knowngood.training import History, Source, StreamSource, train
from knowngood.training.film import Film
from knowngood.training.loop import default_epochs

RANDOM_STATE = Lock()  # of torch, which all threads share
LEAST = 4  # normal images that Gaussians are fitted to
PIXEL_STEPS = 1300  # within 10 and 300 epochs
HOG_STEPS = 1000  # a VAE of HOG that trains longer separates unknown kinds less well


@dataclass(frozen=True)
class Run:
    """How a network is trained: folder of checkpoints, progress, a film to be taken."""

    run_dir: Path | None = None
    resume: bool = False
    progress: bool = False
    film: Film | None = None
    fingerprint: str | None = None


@dataclass
class Learned:
    """A pipeline without its calibration, and the record of the training."""

    pipeline: Pipeline
    history: History | None
    labels: dict[str, Any] | None = None  # what came of labelled anomalies


def represent(plan: Plan, index: np.ndarray, *, shares: bool = False) -> Representation:
    """The representation fitted to the normals at `index`; images that do not fit are refused before any is read.

    Args:
        shares: the model may have one Gaussian for all locations where they look alike.
    """
    options, items, data = plan.settings.representation, plan.normals[index], plan.settings.data
    if isinstance(options, FeatureOptions):
        assert isinstance(items, ImageSet)
        tile = (data.tile, data.tile_overlap) if isinstance(data.tile, int) else None
        cells = max(1, len(plan.schema.cells))
        located = plan.settings.model.name == "patch_gaussian"  # type: ignore[union-attr]
        fitted: Representation = Features.fit(
            items, options, plan.backbone, plan.schema.columns, tile, cells if located else 0, shares
        )
    elif plan.backbone is not None:
        raise SettingsError(
            "a backbone of your own needs representation={'name': 'features', 'backbone': 'own'}; set that, or leave "
            "backbone out"
        )
    else:
        fitted = implementation(options).fit(items, options)  # type: ignore[arg-type]
    if isinstance(items, ImageSet):
        dtype = getattr(getattr(fitted, "pixels", fitted), "dtype", None)
        for shape in np.unique(plan.normals.shapes(), axis=0):  # type: ignore[union-attr]
            fitted.check(tuple(shape.tolist()), dtype)
    return fitted


def cached(plan: Plan, representation: Features, images: ImageSet) -> CachedFeatures:
    """Features of images whose conditions are known, computed once; what is ignored is blank."""
    if plan.ignore is not None and representation.options.align == "none":
        images = blanked(images, plan.ignore, plan.schema, representation.pixels.low)
    return CachedFeatures.of(representation, images, plan.settings.training.memory_gb)


def learn(
    plan: Plan,
    fit: np.ndarray,
    select: np.ndarray,
    representation: Representation | CachedFeatures,
    run: Run = Run(),
    start: Pipeline | None = None,
) -> Learned:
    """Fit model, score and adjustments to the normals at `fit`; those at `select` are held out.

    Args:
        start: whose network is trained on, from its present weights.
    """
    settings, seed = plan.settings, plan.seed
    objective = build_objective(settings)
    scale = factor_scale(plan, objective, fit)
    width = plan.schema.width if objective is None or objective.conditional else 0
    with RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        every = np.concatenate([fit, select])
        model = build_model(plan, representation, objective, width, every) if start is None else deepcopy(start.model)
    chosen = {"model": getattr(model, "options", settings.model)}
    resolved = settings.model_copy(update=chosen | {"representation": resolved_options(representation, settings)})
    score = resolved.score.build()  # type: ignore[union-attr]
    score.check(model)
    adjustments: tuple[Adjustment, ...] = ()
    if isinstance(settings.representation, PixelOptions) and settings.representation.illumination is not None:
        adjustments = (IlluminationAdjustment(settings.representation.illumination),)
        adjustments[0].check(model)
    marginalises(resolved, score, adjustments, plan.schema)  # refuses what cannot be marginalised
    if objective is not None:
        compose(objective, plan, model, representation, scale)
    source = make_source(plan, fit, representation, scale, width)
    held_out = make_source(plan, select, representation, scale, width) if len(select) else None
    if objective is not None and start is not None:
        continue_from(start, objective, model, source)  # type: ignore[arg-type]
    history = fit_model(model, objective, resolved, plan, run, source, held_out, representation, scale)
    pipeline = Pipeline(resolved, plan.schema, representation, model.eval(), score, adjustments, ignore=plan.ignore)  # type: ignore[arg-type]
    if objective is not None:
        kept = {name: t.detach().cpu() for name, t in objective.kept_state().items()}
        pipeline = replace(pipeline, objective_state=kept)
    learned = Learned(replace(pipeline, state=score_state(pipeline, source, held_out)), history)
    if plan.labelled is not None and plan.shift is None:
        add_penalty(learned, plan, fit, select, representation)
    return learned


def factor_scale(plan: Plan, objective: Objective | None, fit: np.ndarray) -> Standardised | None:
    """The scale of the factors of the normals at `fit`; their number goes to the objective."""
    if plan.factors is None:
        return None
    within_unit = objective is not None and objective.unit_factors
    scale = (Standardised.within_unit if within_unit else Standardised.fit)(plan.factors[fit])
    if objective is not None:
        objective.factor_width = len(scale.mean)
    return scale


def continue_from(start: Pipeline, objective: Objective, model: ConditionalVAE, source: BatchSource) -> None:
    """Give the objective what it had learned when `start` was fitted."""
    objective.stratum_counts = source.facts.stratum_counts
    objective.prepare(model)
    try:
        objective.load_state_dict(start.objective_state, strict=False)
    except RuntimeError:
        raise DataError(
            f"factors {', '.join(objective.factors)} have other values than when the model was fitted; give the "
            "data that it was fitted to as the old items, with these columns"
        ) from None


def fit_model(
    model: Model,
    objective: Objective | None,
    settings: Settings,
    plan: Plan,
    run: Run,
    source: BatchSource,
    held_out: BatchSource | None,
    representation: Representation | CachedFeatures,
    scale: Standardised | None,
) -> History | None:
    """Fit the model in place; the history of a network's training."""
    history: list[History] = []
    if run.film is not None:
        run.film.show(held_out)

    def trained(model: Model, objective: Any, source: BatchSource, held_out: Any, anomalies: Any) -> None:
        found = train(
            model,
            objective,
            source,
            held_out,
            training_options(settings, len(source)),
            seed=plan.seed,
            device=settings.device,
            anomalies=anomalies,
            run_dir=run.run_dir,
            resume=run.resume,
            progress=run.progress,
            on_evaluation=run.film,
            fingerprint=run.fingerprint,
            settings=settings.model_dump(mode="json"),
        )
        history.append(found)

    anomalies = anomaly_source(plan, representation, scale) if plan.shift is not None else None
    model.fit(source, FitContext(trained, objective, held_out, anomalies, plan.seed))
    as_loaded(model)
    return history[0] if history else None


@torch.no_grad()
def score_state(pipeline: Pipeline, source: BatchSource, held_out: BatchSource | None) -> dict[str, Tensor]:
    """What score and adjustments learn from normal images that the model was fitted to, and from held-out ones."""
    model, score, schema = pipeline.model, pipeline.score, pipeline.schema
    fitted, apart = (InOrder(some, model, pipeline.device) for some in (source, held_out))
    state = score.fit_held_out(model, score.fit(model, fitted), apart, fitted)
    several = pipeline.checked or marginalises(pipeline.settings, score, pipeline.adjustments, schema)
    cells = Cells.of(schema, pipeline.device) if several else None
    if cells is not None:
        state = score.fit_marginal(model, state, apart, fitted, cells)
    state = fit_adjustments(model, score, pipeline.adjustments, state, apart, fitted)
    return {name: t.contiguous() for name, t in state.items()}  # as they are loaded, too


def add_penalty(
    learned: Learned, plan: Plan, fit: np.ndarray, select: np.ndarray, representation: Representation | CachedFeatures
) -> None:
    """Learn from labelled anomalies: patches of known defects, or a penalty if it improves AUROC; in place."""
    assert plan.labelled is not None
    index = np.concatenate([fit, select])
    items, scoring = plan.normals[index], learned.pipeline
    if isinstance(representation, CachedFeatures | CachedHOG):
        scoring = replace(scoring, representation=representation.base)
    if isinstance(scoring.model, PatchGaussian):
        assert isinstance(items, ImageSet)
        assert isinstance(representation, Features | CachedFeatures)
        if isinstance(representation, Features):
            representation = cached(plan, representation, items)
        found, learned.labels = learn_defects(scoring, items, plan.labelled, representation.of_items(items), plan.seed)
    else:
        scores = None
        if isinstance(scoring.model, MemoryBank) and not isinstance(representation, CachedFeatures):
            folds_of = out_of_fold(replace(plan, labelled=None), index, representation)
            parts, of_parts = zip(*(task() for task in folds_of), strict=True)
            scores = NormalScores.concat(of_parts).values[np.argsort(np.concatenate(parts))]
        held_out = np.isin(index, select) if len(select) else None
        found, learned.labels = learn_penalty(
            scoring, items, plan.labelled, plan.seed, held_out=held_out, scores=scores
        )
    learned.pipeline = replace(found, representation=learned.pipeline.representation)


def out_of_fold(
    plan: Plan, index: np.ndarray, representation: Representation | CachedFeatures, *, refit: bool = False
) -> list[Callable[[], tuple[np.ndarray, NormalScores]]]:
    """Tasks, one a fold of the normals at `index`: positions in `index`, and scores by a model of the other folds.

    In each fold all that learns from images and conditions is fitted anew to the others: scales and bins of conditions,
    Gaussians, shrinkage, context, per-location statistics, global score. Out-of-fold scores come from models of fewer
    images than the final one, which scores new items. So p-values err on the large side; the guarantee of
    cross-conformal prediction (Vovk 2015; Barber et al., arXiv:1905.02928, P(p ≤ α) ≤ 2α + 2(1 − α)(K − 1)/(n + K)) is
    for scoring with all K models, not with one refitted to all items. Items of one group lie in one fold. The normals
    that are held out for early stopping, and for what is fitted on held-out ones, are those of the final model.

    Args:
        refit: fit the representation to the others too.
    """

    def scored(part: np.ndarray) -> tuple[np.ndarray, NormalScores]:
        rest = np.setdiff1d(index, index[part])
        others = learned_from(plan, rest)
        apart = np.setdiff1d(plan.split["select"], index)
        refitted = _refitted(others, rest, representation) if refit else representation
        learned = learn(others, rest, apart, refitted)
        scores = normal_scores(learned.pipeline, plan.normals[index[part]])
        strata = plan.encoded.stratum[index[part]]  # as the final model groups them
        if scores.stated is None:
            return part, scores._replace(strata=strata)
        looks = learned.pipeline.schema.strata_in(plan.schema)[scores.strata]
        return part, scores._replace(strata=np.where(looks < 0, strata, looks), stated=strata)

    normals = plan.normals[index]
    kinds = plan.schema.kinds(normals.conditions, len(index))
    if plan.chosen is not None:  # each fold holds its share of both
        kinds = 2 * kinds + plan.chosen[index]
    parts = folds(len(index), kinds, plan.settings.calibration.folds, plan.seed, groups=normals.groups)
    return [partial(scored, part) for part in parts]


def _refitted(plan: Plan, index: np.ndarray, representation: Representation | CachedFeatures) -> Representation:
    options, items = plan.settings.representation, plan.normals[index]
    if isinstance(representation, CachedHOG) and isinstance(options, HOGOptions) and isinstance(items, ImageSet):
        return representation.refitted(items, options)
    return represent(plan, index)


def side_by_side(tasks: Sequence[Callable[[], Any]], most: int) -> list[Any]:
    """Results of the tasks, `most` of them at a time and no more than torch has threads, with one torch thread each.

    Factors and triangular solves of many small matrices take one core, whatever torch is allowed.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, len(tasks), most)
    if len(tasks) == 1:
        return [tasks[0]()]
    if at_once < 2:
        return [task() for task in track(tasks, "fit and calibration", len(tasks), "steps")]
    pool = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = [pool.submit(task) for task in tasks]
        for one in track(as_completed(waiting), "fit and calibration", len(waiting), "steps"):
            one.result()  # an error ends the others
        return [one.result() for one in waiting]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def learns(representation: Representation | CachedFeatures) -> bool:
    """Whether a representation learns more from images than their size and type."""
    base = representation.base if isinstance(representation, CachedFeatures) else representation
    options = getattr(base, "options", None)
    moved = options is not None and options.align not in ("none", "pose")  # of a pose see `Pose`
    return options is None or moved or options.illumination is not None or options.scaling == "data"


def resolved_options(representation: Representation | CachedFeatures, settings: Settings) -> Any:
    """The options of the representation, with what "auto" became when it was fitted."""
    base = representation.base if isinstance(representation, CachedFeatures) else representation
    return base.options if isinstance(base, Features) else settings.representation


# The model ----------------------------------------------------------------------------------------------------------


def build_model(
    plan: Plan,
    representation: Representation | CachedFeatures,
    objective: Objective | None,
    width: int,
    index: np.ndarray,
) -> Model:
    """The model of the settings, for what the representation gives."""
    options, shape = plan.settings.model, representation.shape
    if isinstance(options, VAEOptions):
        assert objective is not None
        return resolve(options, objective.prior, shape).build(shape, width, objective.nuisance_dim, objective.apart)
    if isinstance(options, PatchGaussianOptions | SharedGaussianOptions):
        sizes = gaussian_cells(plan, options, width, index)
        model = options.build(shape=shape, **sizes)
        if plan.ignore is not None:
            ignored = Ignored.of_model(plan.ignore, plan.schema, model)
            assert ignored is not None
            model.ignored.copy_(torch.from_numpy(ignored.locations(*shape[1:])))
            for height, width in np.unique(plan.normals.shapes()[:, :2], axis=0).tolist():  # type: ignore[union-attr]
                for value in ignored.values:
                    ignored.regions.mask((height, width), value)  # refuses regions that do not fit an image
        return model
    if isinstance(options, MemoryBankOptions):
        patches = isinstance(plan.settings.representation, FeatureOptions)
        return options.build(shape, width, patches=patches)
    return options.build(shape=shape, condition_dim=width)  # type: ignore[union-attr]


def gaussian_cells(
    plan: Plan, options: PatchGaussianOptions | SharedGaussianOptions, width: int, index: np.ndarray
) -> dict[str, Any]:
    """Sizes of a PatchGaussian: its cells, those of all normals, whatever images at `index` it is fitted to.

    Raises:
        DataError: a cell of several has fewer than 8 normal images and `few` is "refuse", or all have fewer than 4; too
            few of each where regions to ignore depend on their condition.
    """
    c = plan.encoded.c[:, :width]
    kinds = [column.kind for column in plan.schema.columns for _ in range(column.width)]
    continuous = np.array([kind == "continuous" for kind in kinds[:width]], dtype=bool)
    keys, cell = np.unique(np.where(continuous, 0.0, c).astype(np.float32), axis=0, return_inverse=True)
    counts = np.bincount(cell.reshape(-1), minlength=len(keys))
    if len(c) < LEAST:
        raise DataError(
            f"{counted(len(c), 'normal image')} to fit to; a Gaussian at each location needs at least {LEAST}. Give "
            "more"
        )
    if options.few == "refuse" and len(keys) > 1 and counts.min() < FEWEST:
        where = int(counts.argmin())
        label = plan.schema.expand(plan.normals.conditions, len(plan.normals)).label
        name = label[int(np.flatnonzero(cell.reshape(-1) == where)[0])]
        raise DataError(
            f"{counted(counts[where], 'normal image')} of {name} to fit to; a Gaussian at each location needs at least "
            f"{FEWEST}. Give more, leave them out, or set model={{'name': 'patch_gaussian', 'few': 'pool'}} to let it "
            "rest on the others"
        )
    fitted = np.bincount(cell.reshape(-1)[index], minlength=len(keys))
    varying = int(fitted.sum() - np.count_nonzero(fitted))
    if plan.ignore is not None and plan.ignore.column is not None:  # each cell has regions of its own
        if varying < LEAST - 1:
            raise DataError(
                f"{fitted.sum()} normal images of {np.count_nonzero(fitted)} kinds to fit to are too few where regions "
                f"to ignore depend on condition '{plan.ignore.column}'; give more, or one set of regions for all"
            )
    elif varying < FEWEST - 1:
        keys = np.zeros((1, width))  # nothing says how images of one cell vary: all are one
    return {"keys": keys.tolist(), "continuous": continuous.tolist()}


def compose(
    objective: Objective, plan: Plan, model: Model, representation: Representation | CachedFeatures, scale: Any
) -> None:
    """Give the objective the augmentation and the penalties that the settings ask for, in place."""
    options, settings = plan.settings.model, plan.settings
    assert isinstance(options, VAEOptions)
    if isinstance(settings.representation, PixelOptions) and settings.representation.illumination is not None:
        objective.augmentation = illuminated(objective, settings, plan.schema, representation, scale)
    if options.class_aware:
        objective.penalties.append(ClassAware(options.class_aware, *class_vectors(plan.schema, model)))
    if plan.shift is not None:
        objective.penalties.append(Labelled(plan.shift))


def illuminated(
    objective: Objective, settings: Settings, schema: ConditionSchema, representation: Any, scale: Any
) -> Illuminated:
    """Training under changing illumination; nuisance factors that follow it are changed alike."""
    assert isinstance(settings.representation, PixelOptions)
    tolerance = settings.representation.illumination
    assert tolerance is not None
    if representation.low:
        raise SettingsError(
            f"illumination = {tolerance:g} needs images whose value 0 is black; give scaling=(0, largest value)"
        )
    names, measured = objective.factors, settings.conditioning.measure
    known = [c.name for c in schema.columns if c.name in measured and c.name in Illuminated.FOLLOWING]
    if known:
        raise SettingsError(
            f"illumination = {tolerance:g} changes the {known[0]} that conditioning.measure gives the model; leave one "
            "of them out"
        )
    if scale is None or not set(names) & set(Illuminated.FOLLOWING):
        return Illuminated(tolerance)
    widths = [2 if name == "rotation" else 1 for name in names]
    if sum(widths) != objective.factor_width:
        raise SettingsError(f"illumination with the factors {', '.join(names)}: one is text; leave one of both out")
    follows = np.repeat([name in Illuminated.FOLLOWING for name in names], widths)
    return Illuminated(tolerance, *(torch.from_numpy(v) for v in (follows, scale.mean, scale.std)))


def class_vectors(schema: ConditionSchema, model: Model) -> tuple[Tensor, Tensor]:
    """(K, W) encoded conditions of every combination that occurred, and the log of their shares."""
    if not (model.condition_dim and schema.inferable):
        raise SettingsError(
            "class_aware can be above 0 only if the objective uses conditions (cvae, for example), every condition "
            "column has the role 'infer', and there are at least two condition values; set class_aware = 0"
        )
    cells = schema.expand({}, 1, unknown="infer")
    return torch.from_numpy(cells.c), torch.from_numpy(cells.log_weight)


def training_options(settings: Settings, items: int) -> TrainingOptions:
    """The options with a number of epochs where the representation decides it."""
    options, representation = settings.training, settings.representation
    if options.epochs is not None:
        return options
    steps_an_epoch = max(1.0, items / options.batch_size)
    if isinstance(representation, HOGOptions):
        return options.model_copy(update={"epochs": max(1, round(HOG_STEPS / steps_an_epoch))})
    if isinstance(representation, PixelOptions):
        return options.model_copy(update={"epochs": default_epochs(steps_an_epoch, PIXEL_STEPS)})
    return options


# The data -----------------------------------------------------------------------------------------------------------


def make_source(
    plan: Plan, index: np.ndarray, representation: Representation | CachedFeatures, scale: Any, width: int
) -> BatchSource:
    """Training data of the normals at `index`: in memory, or streamed if they would take more than `memory_gb`."""
    items, training = plan.normals[index], plan.settings.training
    facts: dict[str, Any] = {"stratum": plan.encoded.stratum[index], "n_strata": plan.schema.n_strata}
    facts["c"] = plan.encoded.c[index] if width else None
    if isinstance(representation, CachedFeatures):
        assert isinstance(items, ImageSet)
        return Source(representation.of_items(items), **facts)
    if plan.factors is not None and scale is not None:
        facts["factors"] = scale(plan.factors[index])
    if isinstance(representation, Features):
        assert isinstance(items, ImageSet)
        return Source(cached(plan, representation, items).grids, **facts)
    large = len(items) * representation.bytes_per_image > training.memory_gb * 2**30
    if large and isinstance(items, ImageSet) and isinstance(representation, Pixels | HOG):
        return StreamSource(items, representation, workers=training.workers, **facts)
    if isinstance(representation, HOG):  # once, not at every step
        return Source(representation.to_tensor(items, READERS), **facts)
    prepared = prepare_all(items, representation, workers=READERS)
    return Source(prepared, representation.scale, **facts)


def anomaly_source(plan: Plan, representation: Any, scale: Any) -> Source:
    """Labelled anomalies as training data. The conditions of one that lacks some, or has a new value, are NaN."""
    labelled = plan.labelled
    assert labelled is not None
    facts: dict[str, Any] = {"label": np.ones(len(labelled))}
    facts["c"] = plan.schema.encode_or_nan(labelled.conditions, len(labelled))
    if plan.labelled_factors is not None and scale is not None:
        facts["factors"] = scale(plan.labelled_factors)
    return Source(prepare_all(labelled, representation, workers=READERS), representation.scale, **facts)


class InOrder:
    """All items of a source once, as many at a time as are scored together; as often as is asked."""

    def __init__(self, source: BatchSource | None, model: Model, device: torch.device) -> None:
        self.source = None if source is None or not len(source) else source.to(device)
        self.at_once = rows_at_once(model.shape)

    def __iter__(self) -> Iterator[Batch]:
        if self.source is None:
            return iter(())
        return self.source.batches(torch.arange(len(self.source)).split(self.at_once))
