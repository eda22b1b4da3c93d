"""A saved model: a folder of JSON, safetensors and Markdown. No pickle, nothing that runs code.

`pack` and `unpack` go between a fitted `Pipeline` and named files in memory; `versions` puts those in a folder.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save

from knowngood.calibration import Calibration
from knowngood.config import Settings, implementation
from knowngood.config.version import __version__
from knowngood.data.conditions import ConditionSchema
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.detector.added_groups import AddedGroup
from knowngood.detector.image_statistics import ImageStatistics
from knowngood.detector.pipeline import Method, Pipeline
from knowngood.detector.reference_index import PREFIX, ReferenceIndex
from knowngood.detector.versions import CONFIG, in_use
from knowngood.errors import ArtifactError
from knowngood.representations import Backbone, Features
from knowngood.scores import Adjustment
from knowngood.scores.adjustment import LabelPenalty
from knowngood.scores.illumination import IlluminationAdjustment

FORMAT = "knowngood-detector"
FORMAT_VERSION = 9
CARD, TRAINING = "card.md", "training.json"
COPY = "restore this version of the model from a copy, or switch to another one with `knowngood rollback MODEL`"
TENSORS = ("weights", "scores", "calibration", "objective", "representation")
SUFFIX = ".safetensors"


def pack(pipeline: Pipeline, about: Mapping[str, Any], training: Mapping[str, Any], card: str) -> dict[str, bytes]:
    """All files of a saved model by name.

    `about` is plain data kept beside the configuration; `training` is the longer record of the log and the audit, in a
    file of its own that scoring does without.
    """
    calibrations = {
        "known": pipeline.calibration,
        "marginal": pipeline.marginal_calibration,
        "maps": pipeline.map_calibration,
        **{f"mismatch{k}": one for k, one in enumerate(pipeline.mismatch_calibrations)},
    }
    arrays = {kind: one.to_tensors() for kind, one in calibrations.items() if one is not None}
    if pipeline.ignore is not None:
        arrays["ignore"] = pipeline.ignore.to_tensors()
    if pipeline.statistics is not None:
        arrays["images"] = pipeline.statistics.to_tensors()
    fitted = {"digests": pipeline.fitted_to, "groups": pipeline.fitted_groups}
    arrays["fitted"] = {name: array for name, array in fitted.items() if array is not None}
    arrays |= {f"added.{g}": group.to_tensors() for g, group in enumerate(pipeline.added)}
    reference = {} if pipeline.reference is None else pipeline.reference.to_tensors()
    tensors = {
        "weights": dict(pipeline.model.state_dict()),
        "scores": {**pipeline.state, **reference},
        "calibration": {
            f"{kind}.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for kind, named in arrays.items()
            for name, array in named.items()
        },
        "objective": pipeline.objective_state,
        "representation": pipeline.representation.state(),
    }
    files = {
        f"{name}{SUFFIX}": save({k: v.detach().cpu().contiguous() for k, v in group.items()})
        for name, group in tensors.items()
        if group
    }
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "knowngood_version": __version__,
        "settings": pipeline.settings.model_dump(mode="json"),
        "conditions": asdict(pipeline.schema),
        "representation": pipeline.representation.model_dump(mode="json"),
        "model": pipeline.model.sizes(),
        "adjustments": [adjustment.name for adjustment in pipeline.adjustments],
        "calibrated_by": pipeline.calibrated_by,
        "calibration": {kind: one.metadata() for kind, one in calibrations.items() if one is not None},
        "added": [group.metadata() for group in pipeline.added],
        "reference": None if pipeline.reference is None else list(pipeline.reference.ids),
        "ignore": None if pipeline.ignore is None else pipeline.ignore.metadata(),
        "about": dict(about),
    }
    files[TRAINING] = json.dumps(dict(training), ensure_ascii=False).encode()
    config["sha256"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    config["sha256"][CONFIG] = _digest(config)
    return {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode(), CARD: card.encode(), **files}


def unpack(
    files: Mapping[str, bytes], where: str = "model", backbone: Backbone | None = None
) -> tuple[Pipeline, dict[str, Any], dict[str, Any]]:
    """The pipeline, what was kept about it, and the record of its training (empty if that file is gone).

    Args:
        backbone: one of your own that the model was fitted with.

    Raises:
        ArtifactError: a file is missing, damaged, not one of ours, or of another format.
    """
    config = _config(files, where)
    training: dict[str, Any] = {}
    if hashlib.sha256(files.get(TRAINING, b"")).hexdigest() == config["sha256"].get(TRAINING):
        training = json.loads(files[TRAINING])
    elif TRAINING in files:
        warnings.warn(f"{where}: {TRAINING} is damaged; log and audit are left out, scores are as before", stacklevel=3)
    try:
        tensors = {name: _tensors(files, f"{name}{SUFFIX}", config["sha256"]) for name in TENSORS}
        settings = Settings.model_validate(config["settings"])
        model = settings.model.build(**config["model"])  # type: ignore[union-attr]
        model.load_state_dict(tensors["weights"])
        kind = implementation(settings.representation)  # type: ignore[arg-type]
        representation = kind.model_validate(config["representation"]).with_state(tensors["representation"])
        if backbone is not None and isinstance(representation, Features):
            representation = representation.with_backbone(backbone)
        metadata, arrays, state = config["calibration"], tensors["calibration"], tensors["scores"]
        known, marginal, maps = (
            Calibration.from_tensors(_under(arrays, kind), metadata[kind]) if kind in metadata else None
            for kind in ("known", "marginal", "maps")
        )
        ignored, ids = config["ignore"], config["reference"]
        pipeline = Pipeline(
            settings=settings,
            schema=ConditionSchema.of(config["conditions"]),
            representation=representation,
            model=model.eval(),
            score=settings.score.build(),  # type: ignore[union-attr]
            adjustments=adjustments_named(config["adjustments"], settings),
            state={name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)},
            calibration=known,
            marginal_calibration=marginal,
            map_calibration=maps,
            mismatch_calibrations=tuple(
                Calibration.from_tensors(_under(arrays, kind), facts)
                for kind, facts in metadata.items()
                if kind.startswith("mismatch")
            ),
            calibrated_by=config["calibrated_by"],
            ignore=None if ignored is None else IgnoreRegions.from_tensors(_under(arrays, "ignore"), ignored),
            objective_state=tensors["objective"],
            reference=None if ids is None else ReferenceIndex.from_tensors(state, ids),
            added=tuple(
                AddedGroup.from_tensors(_under(arrays, f"added.{g}"), one) for g, one in enumerate(config["added"])
            ),
            statistics=ImageStatistics.from_tensors(_under(arrays, "images")),
            fitted_to=_under(arrays, "fitted").get("digests"),
            fitted_groups=_under(arrays, "fitted").get("groups"),
        )
    except ArtifactError as error:  # says itself what does not fit
        raise ArtifactError(f"{where}: {error}") from None
    except Exception as error:  # whatever does not fit together, in any library below
        raise ArtifactError(f"{where}: {CONFIG} does not describe a model this version can rebuild: {error}") from None
    return pipeline, config["about"], training


def adjustments_named(names: list[str], settings: Settings) -> tuple[Adjustment, ...]:
    """The adjustments of a saved model."""
    tolerance: Any = getattr(settings.representation, "illumination", None)
    known = {LabelPenalty.name: LabelPenalty, IlluminationAdjustment.name: partial(IlluminationAdjustment, tolerance)}
    for name in names:
        if name not in known:
            raise ArtifactError(f"unknown adjustment '{name}'")
    return tuple(known[name]() for name in names)


def read(folder: str | Path) -> dict[str, bytes]:
    """The files of the version in use of a saved model; `folder` may also be that of its run, or a copied version.

    Raises:
        ArtifactError: there is no saved model at `folder`, or a file of it cannot be read.
    """
    version = in_use(folder)
    names = (CONFIG, CARD, TRAINING, *(f"{name}{SUFFIX}" for name in TENSORS))
    try:
        return {name: (version / name).read_bytes() for name in names if (version / name).is_file()}
    except OSError as error:
        raise ArtifactError(f"{version}: cannot be read: {error}") from None


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with the prefix and a dot, without both."""
    return {k.removeprefix(f"{prefix}."): v.numpy() for k, v in tensors.items() if k.startswith(f"{prefix}.")}


class SavedConfig(BaseModel):
    """What config.json holds. What is a mapping here is checked by the part that it describes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["knowngood-detector"]
    format_version: int
    knowngood_version: str
    settings: dict[str, Any]
    conditions: dict[str, Any]
    representation: dict[str, Any]
    model: dict[str, Any]
    adjustments: list[str]
    calibrated_by: Method
    calibration: dict[str, dict[str, Any]]
    added: list[dict[str, Any]]
    reference: list[str] | None
    ignore: dict[str, Any] | None
    about: dict[str, Any]
    sha256: dict[str, str]


def _config(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """The configuration, as it was saved."""
    try:
        config = json.loads(files[CONFIG])
    except (KeyError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ArtifactError(f"{where}: {CONFIG} is not a {FORMAT} file")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        saved, newer = config.get("knowngood_version"), isinstance(version, int) and version > FORMAT_VERSION
        way_out = "upgrade knowngood" if newer else "fit it again with this version, or install the one it was saved by"
        raise ArtifactError(
            f"{where}: saved by knowngood {saved} in format {version}; this is {__version__} and reads format "
            f"{FORMAT_VERSION}: {way_out}"
        )
    try:
        SavedConfig.model_validate(config)
        changed = config["sha256"].pop(CONFIG, None) != _digest(config)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{where}: {CONFIG} is damaged: {field}: {first['msg']}; {COPY}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: {CONFIG} is damaged: {error}; {COPY}") from None
    if changed:
        raise ArtifactError(f"{where}: {CONFIG} was changed after the model was saved; {COPY}")
    return config


def _digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, whatever its layout."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _tensors(files: Mapping[str, bytes], name: str, digests: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of a file, finite where scores depend on them; none if the model was saved without it."""
    if name not in digests:
        return {}
    if name not in files:
        raise ArtifactError(f"{name} is missing; {COPY}")
    if hashlib.sha256(files[name]).hexdigest() != digests[name]:
        raise ArtifactError(f"{name} is damaged (its SHA-256 is not the one in {CONFIG}); {COPY}")
    tensors = load(files[name])
    for key, tensor in tensors.items() if name != f"calibration{SUFFIX}" else ():  # which checks its scores itself
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ArtifactError(f"{name}: {key} has values that are not finite; fit the model again")
    return tensors
