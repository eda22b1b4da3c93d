"""What a fit decides before it trains: what is learned from, as what, and how the good items are shared out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from knowngood.calibration import split_normals
from knowngood.config import Settings
from knowngood.data import ImageSet
from knowngood.data import factor_targets as factors
from knowngood.data.conditions import ConditionSchema, Encoded
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.data.tiling.tiles import Tiles
from knowngood.detector.fit.building import build_model, choose_score, represent, wrapped
from knowngood.detector.fit.given import anomaly_source, labelled_term, learn_conditions, only
from knowngood.detector.fit.patch_fitting import (
    HELD_OUT,
    features_of,
    inners,
    learn_patches,
    leaves_out,
    share_tiles,
    teaches_score,
)
from knowngood.detector.fit.refusals import (
    refuse_for_objective,
    refuse_with_edges,
    refuse_with_features,
    refuse_without_features,
)
from knowngood.detector.ignored import blanked, read_ignored
from knowngood.detector.rows import READERS, Items, Representation
from knowngood.errors import NotEnoughNormals
from knowngood.models.objectives import Objective
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Backbone, Edges, Features, Pixels, Table, prepare_all
from knowngood.scores import Score
from knowngood.training import BatchSource, Source, StreamSource
from knowngood.training.patch_source import MOST, PatchSource

Part = Literal["fit", "select", "calibrate"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that training needs. The pixels of calibration items have been looked at for nothing but their shape.

    Samples are what is trained on: the normals, or their tiles.
    """

    settings: Settings
    normals: Items  # with the columns of the schema alone
    split: dict[str, np.ndarray]
    samples: Items
    shares: dict[str, np.ndarray]  # of the samples; a normal's tiles are all in its own part of the split
    schema: ConditionSchema
    encoded: Encoded  # (samples)
    representation: Representation
    objective: Objective
    model: ConditionalVAE
    score: Score
    seed: int
    factors: np.ndarray | None = None  # (N, K) standardised nuisance factors of the normals, NaN where not shown
    anomalies: Source | None = None  # labelled ones that training uses
    features: dict[str, np.ndarray] | None = None  # of the parts "fit" and "select", where there are features
    inners: tuple[Score, ...] = ()  # scores of a patch to choose among
    left_out: bool = False  # all images learn, and calibrate each as if it had been left out
    ignore: IgnoreRegions | None = None
    labelled: Items | None = None  # anomalies that teach the score

    def part(self, name: Part) -> Items:
        """The normals of one part of the split, whole."""
        return self.normals[self.split[name]]

    def share(self, name: Part) -> Items:
        """The samples of one part of the split."""
        return self.samples[self.shares[name]]

    def source(self, name: Part) -> BatchSource:
        """Training data of one part: in memory, or streamed if they would take more than `memory_gb`."""
        part, index = self.share(name), self.shares[name]
        facts = {"c": self.encoded.c[index], "stratum": self.encoded.stratum[index], "n_strata": self.schema.n_strata}
        if self.model.patches is not None and isinstance(self.representation, Features):
            assert self.features is not None
            features, most = self.features[name], MOST if name == "fit" else HELD_OUT
            facts["c"] = facts["c"] if self.objective.conditional and self.schema.width else None
            return PatchSource(features, self.model.patches, seed=self.seed, most=most, **facts)
        facts["factors"] = None if self.factors is None else self.factors[index]
        large = len(part) * self.representation.bytes_per_image > self.settings.memory_gb * 2**30
        if large and isinstance(part, ImageSet) and isinstance(self.representation, Pixels | Edges):
            return StreamSource(part, self.representation, workers=self.settings.workers, **facts)
        prepared = prepare_all(part, self.representation, workers=READERS)
        if isinstance(self.representation, Edges):  # once, not at every step
            return Source(self.representation.scale_all(prepared), **facts)
        return Source(prepared, self.representation.scale, **facts)


def plan(
    normals: Items,
    settings: Settings,
    seed: int,
    *,
    anomalies: Items | None = None,
    set_aside: bool = True,
    backbone: Backbone | None = None,
) -> Plan:
    """Decide everything, and refuse now what could only fail after training.

    With `set_aside` false no normals are kept for calibration, since others will calibrate. `anomalies` are labelled
    ones; the objective and the settings say whether they teach or are left out.

    The split comes first: the representation is fitted on the part "fit" alone, else calibration items would be easier
    to represent than new ones, and p-values too small.

    Raises:
        DataError, SettingsError: what is asked for and what is there do not go together.
    """
    objective: Objective = settings.objective.build()
    refuse_with_edges(settings, normals)
    refuse_for_objective(settings, objective, anomalies)
    schema = learn_conditions(normals, settings, objective)
    targets = factors.targets(normals, objective.factors)
    normals = only(normals, schema)
    encoded = schema.encode(normals.conditions, len(normals))
    left_out = leaves_out(settings) and set_aside
    split = _share_out(normals, encoded, settings, seed, calibrates=set_aside and not left_out)
    refuse_without_features(settings)
    cut = _cut(normals, encoded, split, settings, schema, objective)
    samples, shares, encoded = cut.samples, cut.shares, cut.encoded
    representation = represent(samples[shares["fit"]], settings, schema, backbone)
    _check_shapes(samples, representation)
    scaled = None
    if targets is not None:
        objective.factor_width = targets.shape[1]
        scaled = factors.Standardised.fit(targets[split["fit"]])
        shown = factors.shown(targets, objective.labelled_share, seed)
        targets = scaled(np.where(shown[:, None], targets, np.nan))
    features = patches = None
    if isinstance(representation, Features) and settings.features != "none":
        refuse_with_features(settings, objective)
        assert isinstance(samples, ImageSet)
        if settings.tile is not None:
            shares = share_tiles(shares, representation, settings, seed)
        features = features_of(samples, shares, representation, settings)
        seen, c = (schema, encoded.c) if objective.conditional else (ConditionSchema(), encoded.c[:, :0])
        labels = schema.expand(samples.conditions, len(samples)).label
        index = np.concatenate([shares["fit"], shares["select"]])
        patches = learn_patches(samples, features, index, c, seen, labels, settings.features, cut.ignore)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(settings, objective, schema, representation, patches)
    score = choose_score(settings, objective, schema, model)
    objective = wrapped(objective, settings, schema, representation, model, scaled)
    taught = None
    options = None if patches is not None else labelled_term(settings, objective)
    if options is not None and anomalies is not None and len(anomalies):
        taught = anomaly_source(anomalies, schema, representation, objective, scaled)
        objective = options.build(objective)
    labelled = None
    if anomalies is not None and options is None and teaches_score(settings):
        labelled = only(anomalies, schema)
    return Plan(
        settings=settings,
        normals=normals,
        split=split,
        samples=samples,
        shares=shares,
        schema=schema,
        encoded=encoded,
        representation=representation,
        objective=objective,
        model=model,
        score=score,
        seed=seed,
        factors=targets,
        anomalies=taught,
        features=features,
        inners=inners(settings, score, left_out),
        left_out=left_out,
        ignore=cut.ignore,
        labelled=labelled,
    )


def _share_out(
    normals: Items, encoded: Encoded, settings: Settings, seed: int, *, calibrates: bool
) -> dict[str, np.ndarray]:
    """The split of the normals; with `calibrates` some only calibrate."""
    kept = settings.calibrate_fraction if calibrates else 0.0
    fractions = {"select": settings.select_fraction, "calibrate": kept}
    split = split_normals(len(normals), encoded.stratum, seed=seed, **fractions)
    if calibrates and not len(split["calibrate"]):
        raise NotEnoughNormals(
            f"{len(normals)} good items leave none to calibrate with at calibrate_fraction = "
            f"{settings.calibrate_fraction:g}; give more good items, a larger fraction, or others "
            "by fit(calibration=...)",
            missing=1,
        )
    return split


class _Cut(NamedTuple):
    """What is learned from: the normals, their tiles, or they without what is ignored."""

    samples: Items
    shares: dict[str, np.ndarray]  # of the samples
    encoded: Encoded  # (samples)
    ignore: IgnoreRegions | None = None


def _cut(
    normals: Items,
    encoded: Encoded,
    split: dict[str, np.ndarray],
    settings: Settings,
    schema: ConditionSchema,
    objective: Objective,
) -> _Cut:
    samples, shares = normals, dict(split)
    if not isinstance(normals, ImageSet):
        return _Cut(samples, shares, encoded)
    if settings.tile is not None:
        tiles = Tiles.of(normals, settings.tile, settings.tile_overlap)
        tiles.check()
        shares = {name: tiles.positions(index) for name, index in split.items()}
        samples, encoded = tiles.images, Encoded(encoded.c[tiles.owner], encoded.stratum[tiles.owner])
    if settings.ignore is None:
        return _Cut(samples, shares, encoded)
    ignore = read_ignored(settings.ignore, schema, schema.width if objective.conditional else 0)
    if settings.align == "none":
        low = Pixels.fit(normals[split["fit"]], settings.model_copy(update={"image_size": 8})).low
        samples = blanked(normals, ignore, schema, low)
    return _Cut(samples, shares, encoded, ignore)


def _check_shapes(samples: Items, representation: Representation) -> None:
    """Refuse images that do not fit, before any is read."""
    if not isinstance(samples, ImageSet) or isinstance(representation, Table):
        return
    pixels = representation if isinstance(representation, Pixels) else representation.pixels
    for shape in np.unique(samples.shapes(), axis=0):
        pixels.check(tuple(shape.tolist()), pixels.dtype)
