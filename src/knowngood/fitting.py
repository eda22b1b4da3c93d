"""What a fit decides before it trains: what is learned from, as what, and how the good items are shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from knowngood import factors
from knowngood.calibration import split_normals
from knowngood.config import LabelledTerm, PlaceGaussian, Settings, parse_settings
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from knowngood.ignored import Ignored, blanked, read_ignored
from knowngood.images import ImageSet, audit
from knowngood.images.conditions import ConditionSchema, Encoded
from knowngood.localisation import IgnoreRegions
from knowngood.objectives import Objective
from knowngood.objectives.class_aware import ClassAware
from knowngood.objectives.lit import Lit
from knowngood.patch_fitting import HELD_OUT, fit_patches
from knowngood.patches import Patches
from knowngood.pipeline import READERS, Items, Representation, sums_softly
from knowngood.representation import Backbone, Features, Pixels, Table, cached_features, prepare_all
from knowngood.scores import Score, build_score
from knowngood.scores.patches import PatchScore
from knowngood.tiled import Tiles, drawn
from knowngood.training import BatchSource, Source, StreamSource
from knowngood.training.patch_source import MOST, PatchSource
from knowngood.vae import ConditionalVAE

Part = Literal["fit", "select", "calibrate"]
HELD_OUT_TILES = 128  # that choices are made with


@dataclass(frozen=True)
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
    labelled: ImageSet | None = None  # defects that teach the score of patches

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
        if large and isinstance(part, ImageSet) and isinstance(self.representation, Pixels):
            return StreamSource(part, self.representation, workers=self.settings.workers, **facts)
        return Source(prepare_all(part, self.representation, workers=READERS), self.representation.scale, **facts)


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
    if settings.prior == "separated" and not objective.conditional:
        raise SettingsError(
            f"prior = 'separated' holds conditions apart, and objective '{settings.objective.name}' ignores conditions;"
            " take cvae or dcvae, or another prior"
        )
    if not isinstance(settings.labelled, str) and not (anomalies is not None and len(anomalies)):
        raise SettingsError(
            f"labelled = '{settings.labelled.name}', and no item is labelled anomalous; give anomalies=, or leave "
            "labelled out"
        )
    schema = _learn_conditions(normals, settings, objective)
    targets = factors.targets(normals, objective.factors)
    normals = only(normals, schema)
    encoded = schema.encode(normals.conditions, len(normals))
    left_out = leaves_out(settings) and set_aside
    kept = settings.calibrate_fraction if set_aside and not left_out else 0.0
    fractions = {"select": settings.select_fraction, "calibrate": kept}
    split = split_normals(len(normals), encoded.stratum, seed=seed, **fractions)
    if set_aside and not left_out and not len(split["calibrate"]):
        raise NotEnoughNormals(
            f"{len(normals)} good items leave none to calibrate with at calibrate_fraction = "
            f"{settings.calibrate_fraction:g}; give more good items, a larger fraction, or others "
            "by fit(calibration=...)",
            missing=1,
        )
    _refuse_without_features(settings)
    samples, shares = normals, split
    tiles = None
    if settings.tile is not None and isinstance(normals, ImageSet):
        tiles = Tiles.of(normals, settings.tile, settings.tile_overlap)
        tiles.check()
        samples, encoded = tiles.images, Encoded(encoded.c[tiles.owner], encoded.stratum[tiles.owner])
        shares = {name: tiles.positions(index) for name, index in split.items()}
    ignore = None
    if settings.ignore is not None and isinstance(normals, ImageSet):
        ignore = read_ignored(settings.ignore, schema, schema.width if objective.conditional else 0)
        if settings.align == "none":
            low = Pixels.fit(normals[split["fit"]], settings.model_copy(update={"image_size": 8})).low
            samples = blanked(normals, ignore, schema, low)
    fit = samples[shares["fit"]]
    representation = _represent(fit, settings, schema, backbone)
    if isinstance(normals, ImageSet) and not isinstance(representation, Table):
        for shape in np.unique(samples.shapes(), axis=0):  # type: ignore[union-attr]
            pixels = representation.pixels if isinstance(representation, Features) else representation
            pixels.check(tuple(shape.tolist()), pixels.dtype)
    scaled = None
    if targets is not None:
        objective.factor_width = targets.shape[1]
        scaled = factors.Standardised.fit(targets[split["fit"]])
        shown = factors.shown(targets, objective.labelled_share, seed)
        targets = scaled(np.where(shown[:, None], targets, np.nan))
    features = patches = None
    if isinstance(representation, Features) and settings.features != "none":
        _refuse_with_features(settings, objective)
        if tiles is not None:
            within = int(settings.memory_gb * 2**30) // representation.bytes_per_image
            shares["fit"] = drawn(shares["fit"], within, seed)
            shares["select"] = drawn(shares["select"], min(within, HELD_OUT_TILES), seed)
            fit = samples[shares["fit"]]
        features = {
            name: cached_features(samples[shares[name]], representation, memory_gb=settings.memory_gb, workers=READERS)  # type: ignore[arg-type]
            for name in ("fit", "select")
        }
        index = np.concatenate([shares["fit"], shares["select"]])
        seen, c = schema, encoded.c
        if not objective.conditional:
            seen, c = ConditionSchema(), c[:, :0]
        labels = schema.expand(samples.conditions, len(samples)).label
        patches = fit_patches(list(features.values()), index, c, seen, labels, settings.features, ignore)
        if ignore is not None:
            ignored = Ignored.of(ignore, seen, patches.keys.numpy())
            for shape in np.unique(normals.shapes()[:, :2], axis=0).tolist():  # type: ignore[union-attr]
                for k in range(len(ignored.values)):
                    ignored.mask((shape[0], shape[1]), k)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build_model(settings, objective, schema, representation, patches)
    scoring = settings.scoring
    if scoring == "auto":
        by_mean = patches is not None and objective.scoring == "elbo"
        named = {"name": "elbo", "samples": 0} if by_mean else objective.scoring
        scoring = parse_settings({"scoring": named}).scoring
    assert scoring != "auto"
    score = build_score(scoring, settings)
    score.check(model)
    sums_softly(settings, score, schema)  # refuses what cannot be summed
    if settings.light_tolerance is not None:
        objective = _lit(objective, settings, schema, representation, scaled)
    if settings.class_aware:
        objective = ClassAware(objective, settings.class_aware, *_class_vectors(schema, model))
    taught = None
    options = None if patches is not None else labelled_term(settings, objective)
    if options is not None and anomalies is not None and len(anomalies):
        taught = _anomaly_source(anomalies, schema, representation, objective, scaled)
        objective = options.build(objective)
    return Plan(
        settings,
        normals,
        split,
        samples,
        shares,
        schema,
        encoded,
        representation,
        objective,
        model,
        score,
        seed,
        targets,
        taught,
        features,
        _inners(settings, score, left_out),
        left_out,
        ignore,
        only(anomalies, schema) if isinstance(anomalies, ImageSet) and teaches_patches(settings) else None,  # type: ignore[arg-type]
    )


def leaves_out(settings: Settings) -> bool:
    """Whether all images learn, and calibrate each as if it had been left out. Gaussians of places allow that.

    Raises:
        SettingsError: it is asked for where it cannot be.
    """
    named = settings.scoring if settings.scoring == "auto" else settings.scoring.name
    able = settings.features != "none" and settings.tile is None and named in ("auto", "gaussian")
    able = able and settings.features.levels != "on"  # type: ignore[union-attr]  # they are the calibrating images' own
    if settings.calibrate_by == "left_out" and not able:
        raise SettingsError(
            "calibrate_by = 'left_out' needs features of whole images, scored by the Gaussian of the place; set "
            "features and scoring='gaussian' and leave tile and levels out, or take calibrate_by='split'"
        )
    return able and settings.calibrate_by != "split"


def _inners(settings: Settings, score: Score, left_out: bool) -> tuple[Score, ...]:
    """What patches may be scored by: as set; or the Gaussian of the place, or what the objective is defined with."""
    if not isinstance(score, PatchScore):
        return ()
    if settings.scoring != "auto":
        return (score.inner,)
    if left_out:
        return (PlaceGaussian().build(),)
    return PlaceGaussian().build(), score.inner


def _represent(fit: Items, settings: Settings, schema: ConditionSchema, backbone: Backbone | None) -> Representation:
    if settings.align != "none" and settings.features == "none":
        raise SettingsError(
            f"align = '{settings.align}' goes with features; set features='efficientnet_lite0', say, or leave align out"
        )
    if not isinstance(fit, ImageSet):
        if settings.features != "none":
            raise SettingsError(f"features = '{settings.features.name}' needs images; a table was given")
        return Table.fit(fit, settings)
    if settings.features != "none":
        return Features.fit(fit, settings, backbone, schema.columns)
    if backbone is not None:
        raise SettingsError("a backbone of your own is used with features='own'; set that, or leave backbone out")
    return Pixels.fit(fit, settings)


def _refuse_without_features(settings: Settings) -> None:
    """What works on the places of features alone, and what cannot be asked for at once."""
    asked = [f"{name} = {getattr(settings, name)!s:.60}" for name in ("ignore", "tile") if getattr(settings, name)]
    if not asked:
        return
    if settings.features == "none":
        raise SettingsError(f"{asked[0]} needs features; set features='efficientnet_lite0', say, or leave it out")
    if settings.crop or settings.pad:
        raise SettingsError(f"{asked[0]} is about images as they are; leave crop and pad out")
    if settings.tile is None:
        return
    if settings.ignore is not None:
        raise SettingsError("ignore is by place in the image, and tiles know none; leave one of them out")
    for name in ("align", "light_tolerance"):
        if getattr(settings, name) not in ("none", None):
            raise SettingsError(
                f"{name} compares whole images, tile = {settings.tile} cuts them; leave one of them out"
            )


def _refuse_with_features(settings: Settings, objective: Objective) -> None:
    """What has no meaning on patches, or is not there."""
    assert settings.features != "none"
    if objective.factors:
        raise SettingsError(
            f"objective '{settings.objective.name}' splits off nuisance factors of whole images, and with features the "
            "items are places; take cvae, or features='none'"
        )
    if not isinstance(settings.labelled, str):
        raise SettingsError(
            f"labelled = '{settings.labelled.name}' teaches nets of whole items, and with features these are places; "
            "set labelled='auto', which teaches the score of places, or labelled='ignore', or features='none'"
        )
    if settings.class_aware or settings.prior == "separated":
        raise SettingsError("class_aware and prior='separated' tell images apart, not places; leave them out here")


def _lit(
    objective: Objective,
    settings: Settings,
    schema: ConditionSchema,
    representation: Representation,
    scaled: factors.Standardised | None,
) -> Objective:
    """The objective under changing light. With features it stays: the light is undone before them."""
    tolerance = settings.light_tolerance
    assert tolerance is not None
    pixels = representation.pixels if isinstance(representation, Features) else representation
    if not isinstance(pixels, Pixels) or pixels.low:
        raise SettingsError(
            f"light_tolerance = {tolerance:g} needs images on which 0 is no light; give scaling=(0, largest value)"
        )
    told = [
        column.name for column in schema.columns if column.name in settings.measure and column.name in Lit.FOLLOWING
    ]
    if told:
        raise SettingsError(
            f"light_tolerance = {tolerance:g} changes the {told[0]} that measure tells the nets as a condition; "
            "leave one of them out"
        )
    if isinstance(representation, Features):
        return objective
    names = objective.factors
    if scaled is None or not set(names) & set(Lit.FOLLOWING):
        return Lit(objective, tolerance)
    widths = [2 if name == "rotation" else 1 for name in names]
    if sum(widths) != objective.factor_width:
        raise SettingsError(f"light_tolerance with the factors {', '.join(names)}: one is text; leave one of both out")
    follows = np.repeat([name in Lit.FOLLOWING for name in names], widths)
    return Lit(objective, tolerance, *(torch.from_numpy(v) for v in (follows, scaled.mean, scaled.std)))


def _class_vectors(schema: ConditionSchema, model: ConditionalVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, W) encoded conditions of every combination that occurred, and the log of their shares (K,)."""
    inferable = [column.name for column in schema.columns if "infer" in column.roles]
    if not model.condition_dim or len(schema.cells) < 2 or len(inferable) < len(schema.columns):
        raise SettingsError(
            "class_aware needs at least two conditions to tell apart, all with the role 'infer', and an objective that "
            "uses conditions; leave it 0 here"
        )
    cells = schema.expand({}, 1, unknown="infer")
    return torch.from_numpy(cells.c), torch.from_numpy(cells.log_weight)


def _anomaly_source(
    anomalies: Items,
    schema: ConditionSchema,
    representation: Representation,
    objective: Objective,
    scaled: factors.Standardised | None,
) -> Source:
    """Labelled anomalies as training data. The conditions of one that lacks some, or has a new value, are NaN."""
    targets = factors.targets(anomalies, objective.factors)
    rows = schema.encode_or_nan(anomalies.conditions, len(anomalies))
    facts: dict[str, np.ndarray] = {"c": rows, "label": np.ones(len(anomalies))}
    if targets is not None and scaled is not None:
        facts["factors"] = scaled(targets)
    return Source(prepare_all(anomalies, representation, workers=READERS), representation.scale, **facts)


def labelled_term(settings: Settings, objective: Objective) -> LabelledTerm | None:
    """How labelled anomalies teach: as the settings say, or "auto" as the objective is defined; None for not at all."""
    term = objective.anomaly_term if settings.labelled == "auto" else settings.labelled
    options = parse_settings({"labelled": term}).labelled
    return None if isinstance(options, str) else options


def teaches_patches(settings: Settings) -> bool:
    """Whether labelled anomalies teach the score of patches: see `patch_labels`."""
    return settings.features != "none" and settings.labelled == "auto" and settings.tile is None


def audited(items: Items, settings: Settings) -> tuple[Items, list[dict[str, str]]]:
    """The items without unreadable ones, and all findings; refused if more is wrong than the settings tolerate."""
    if not isinstance(items, ImageSet):
        return items, []
    found = audit(items)
    found.check(0.0 if settings.strict else settings.tolerance)
    return found.images, found.to_records()


def measured(items: Items, settings: Settings, schema: ConditionSchema | None = None) -> Items:
    """Items with the nuisance factors of the settings as columns; once fitted, those that the schema knows.

    Raises:
        SettingsError: the items are a table.
    """
    names: tuple[str, ...] = settings.measure
    if not names:
        return items
    if not isinstance(items, ImageSet):
        raise SettingsError(f"measure = {', '.join(names)} needs images; a table was given")
    if schema is None:
        return factors.with_measured(items, names)
    columns = {column.name: column for column in schema.columns}
    means = {name: float(columns[name].mean) for name in names if name in columns}
    return factors.with_measured(items, tuple(means), means)


def only(items: Items, schema: ConditionSchema) -> Items:
    """Items with just the columns that the schema knows."""
    known = {column.name for column in schema.columns}
    return items.replace(conditions={k: v for k, v in items.conditions.items() if k in known})


def _learn_conditions(normals: Items, settings: Settings, objective: Objective) -> ConditionSchema:
    """The schema of the columns that are used: those with roles, or all that vary if the method is conditional."""
    roles = settings.roles
    if roles is None:
        usable = {k: v for k, v in normals.conditions.items() if objective.conditional and k not in objective.factors}
        columns = {k: v for k, v in usable.items() if len(set(map(str, v))) > 1}
        return ConditionSchema.fit(columns, len(normals))
    twice = [name for name in roles if name in objective.factors]
    if twice:
        raise SettingsError(
            f"'{twice[0]}' is a nuisance factor of {settings.objective.name} and a condition at once; "
            "leave it out of roles, or out of factors"
        )
    missing = [name for name in roles if name not in normals.conditions]
    if missing:
        known = ", ".join(normals.conditions) or "none"
        raise DataError(f"roles name the condition '{missing[0]}', which the data do not have (they have: {known})")
    return ConditionSchema.fit({name: normals.conditions[name] for name in roles}, len(normals), roles)


def _build_model(
    settings: Settings,
    objective: Objective,
    schema: ConditionSchema,
    representation: Representation,
    patches: Patches | None = None,
) -> ConditionalVAE:
    shape: tuple[int, ...] = representation.shape if patches is None else representation.shape[:1]
    image = len(shape) == 3
    net, likelihood = settings.net, settings.likelihood
    if net == "auto":
        net = {"name": "conv" if image and min(shape[1:]) >= 8 else "mlp"}
        if patches is not None:
            net = {"name": "mlp", "hidden": (256, 256), "noise": 1.0}
    if likelihood == "auto":
        likelihood = {"name": "gaussian", "sigma": "scalar" if patches is None else "input"}
    chosen = parse_settings({"net": net, "likelihood": likelihood})
    assert chosen.net != "auto"
    assert chosen.likelihood != "auto"
    width = schema.width if objective.conditional else 0
    if patches is not None:
        width = patches.condition_width
    model = ConditionalVAE(
        shape,
        settings.latent_dim or (32 if image or patches is not None else max(1, min(16, math.ceil(shape[0] / 2)))),
        width,
        chosen.net,
        chosen.likelihood,
        objective.prior if settings.prior == "auto" else settings.prior,
        objective.nuisance_dim,
        settings.separation,
    )
    model.patches = patches
    return model
