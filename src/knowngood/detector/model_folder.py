"""A saved model: a folder of JSON, safetensors and Markdown. No pickle, nothing that runs code.

`pack` and `unpack` go between a fitted `Pipeline` and named files in memory; `write` and `read` put those in a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load, save

from knowngood import __version__
from knowngood.calibration import Calibration
from knowngood.calibration.map_thresholds import MapCalibration
from knowngood.config import LikelihoodOptions, NetOptions, ScoreOptions, Settings
from knowngood.data.conditions import ConditionSchema
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.detector.explain.reference import PREFIX, KnownGood
from knowngood.detector.pipeline import Pipeline
from knowngood.errors import ArtifactError, KnowngoodError
from knowngood.models.patch_gaussian import Patches
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Edges, Features, Pixels, Table
from knowngood.scores import build_score
from knowngood.scores.taught import with_taught

FORMAT = "knowngood-detector"
FORMAT_VERSION = 1
CONFIG, CARD, TRAINING = "config.json", "card.md", "training.json"
TENSORS = ("weights.safetensors", "scores.safetensors", "calibration.safetensors", "objective.safetensors")
BACKBONE = "backbone.safetensors"  # of a model on features alone
REPRESENTATIONS = {"pixels": Pixels, "oriented_gradients": Edges, "table": Table, "features": Features}


def pack(pipeline: Pipeline, about: Mapping[str, Any], training: Mapping[str, Any], card: str) -> dict[str, bytes]:
    """All files of a saved model by name.

    `about` is plain data kept beside the configuration; `training` is the longer record of the log and the audit, in a
    file of its own that scoring does without.
    """
    calibrations = {"known": pipeline.calibration, "hidden": pipeline.hidden, "maps": pipeline.maps_of_normals}
    arrays = {kind: c.to_tensors() for kind, c in calibrations.items() if c is not None}
    if pipeline.ignore is not None:
        arrays["ignore"] = pipeline.ignore.to_tensors()
    tensors = {
        TENSORS[0]: dict(pipeline.model.state_dict()),
        TENSORS[1]: {**pipeline.state, **({} if pipeline.known_good is None else pipeline.known_good.to_tensors())},
        TENSORS[2]: {
            f"{kind}.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for kind, named in arrays.items()
            for name, array in named.items()
        },
        TENSORS[3]: pipeline.objective_state,
    }
    if isinstance(pipeline.representation, Features):
        tensors[BACKBONE] = pipeline.representation.tensors()
    files = {
        name: save({k: v.detach().cpu().contiguous() for k, v in group.items()}) for name, group in tensors.items()
    }
    model = pipeline.model
    kind = next(k for k, cls in REPRESENTATIONS.items() if isinstance(pipeline.representation, cls))
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "knowngood_version": __version__,
        "settings": pipeline.settings.model_dump(mode="json"),
        "conditions": pipeline.schema.model_dump(mode="json"),
        "representation": {"kind": kind, **pipeline.representation.model_dump(mode="json")},
        "model": {
            "shape": list(model.shape),
            "latent_dim": model.latent_dim,
            "condition_dim": model.condition_dim,
            "net": model.net.options.model_dump(mode="json"),
            "likelihood": model.likelihood.options.model_dump(mode="json"),
            "prior": model.prior_name,
            "separation": model.separation,
            "nuisance_dim": model.nuisance_dim,
            "ensemble": len(model.members),
            "augment": [] if model.views is None else list(model.views.names),
            "patches": None if model.patches is None else list(model.patches.shape),
        },
        "score": pipeline.score.options.model_dump(mode="json"),
        "left_out": pipeline.left_out,
        "calibration": {kind: c.metadata() for kind, c in calibrations.items() if c is not None},
        "neighbours": None if pipeline.known_good is None else list(pipeline.known_good.ids),
        "ignore": None if pipeline.ignore is None else pipeline.ignore.metadata(),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "about": dict(about),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    log = json.dumps(dict(training), ensure_ascii=False)
    return {CONFIG: text.encode(), CARD: card.encode(), TRAINING: log.encode(), **files}


def unpack(files: Mapping[str, bytes], where: str = "model") -> tuple[Pipeline, dict[str, Any], dict[str, Any]]:
    """The pipeline, what was kept about it, and the record of its training (empty if that file is gone).

    Raises:
        ArtifactError: a file is missing, damaged, not one of ours, or of a newer format.
    """
    config = _config(files, where)
    for name in [*TENSORS, *([BACKBONE] if BACKBONE in config["sha256"] else [])]:
        if name not in files:
            raise ArtifactError(f"{where}: {name} is missing; copy the whole folder again")
        if hashlib.sha256(files[name]).hexdigest() != config["sha256"].get(name):
            raise ArtifactError(f"{where}: {name} is damaged (its SHA-256 is not the one in {CONFIG}); copy it again")
    try:
        training = json.loads(files.get(TRAINING, b"{}"))
        weights, state, arrays, objective_state = (load(files[name]) for name in TENSORS)
        settings = Settings.model_validate(config["settings"])
        net = TypeAdapter(NetOptions).validate_python(config["model"]["net"])
        likelihood = TypeAdapter(LikelihoodOptions).validate_python(config["model"]["likelihood"])
        score = TypeAdapter(ScoreOptions).validate_python(config["score"])
        sizes = config["model"]
        shape = tuple(sizes["shape"])
        widths = (sizes["latent_dim"], sizes["condition_dim"])
        priors = (sizes["prior"], sizes["nuisance_dim"], sizes["separation"], sizes.get("augment", ()))
        model = ConditionalVAE(shape, *widths, net, likelihood, *priors)
        for _ in range(1, sizes.get("ensemble", 1)):
            model.others.append(ConditionalVAE(shape, *widths, net, likelihood, *priors))
        if sizes.get("patches"):
            coarse = "patches.coarse.mean" in weights
            context = weights["patches.context.basis"].shape[1] if "patches.context.basis" in weights else 0
            model.patches = Patches(tuple(sizes["patches"]), weights["patches.keys"], coarse=coarse, context=context)
        model.load_state_dict(weights)
        shown = dict(config["representation"])
        representation = REPRESENTATIONS[shown.pop("kind")].model_validate(shown)
        if isinstance(representation, Features):
            representation = representation.with_tensors(load(files[BACKBONE]))
        told = config["calibration"]
        known, hidden = (
            Calibration.from_tensors(_under(arrays, kind), told[kind]) if kind in told else None
            for kind in ("known", "hidden")
        )
        maps = MapCalibration.from_tensors(_under(arrays, "maps"), told["maps"]) if "maps" in told else None
        ignored = config.get("ignore")
        neighbours = config.get("neighbours")
        good = None if neighbours is None else KnownGood.from_tensors(state, neighbours)
        pipeline = Pipeline(
            settings=settings,
            schema=ConditionSchema.model_validate(config["conditions"]),
            representation=representation,
            model=model.eval(),
            score=with_taught(build_score(score, settings), state),
            state={name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)},
            calibration=known,
            hidden=hidden,
            left_out=bool(config.get("left_out")),
            maps_of_normals=maps,
            ignore=None if ignored is None else IgnoreRegions.from_tensors(_under(arrays, "ignore"), ignored),
            objective_state=objective_state,
            known_good=good,
        )
    except (KnowngoodError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{where}: {CONFIG} does not describe a model this version can rebuild: {error}") from None
    return pipeline, config["about"], training


def write(folder: str | Path, files: Mapping[str, bytes]) -> Path:
    """Write the files into `folder`: completely or not at all. An older saved model there is replaced.

    Raises:
        ArtifactError: the folder exists and holds something else.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).exists())):
        raise ArtifactError(f"{folder} exists and is no saved model; give another place, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        fresh.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old)
        else:
            os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def read(folder: str | Path) -> dict[str, bytes]:
    """The files of a saved model.

    Raises:
        ArtifactError: there is no saved model at `folder`.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() and (folder / "model" / CONFIG).is_file():
        folder = folder / "model"  # what `knowngood train --out` writes
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder} is no saved model: it has no {CONFIG}")
    return {
        name: (folder / name).read_bytes()
        for name in (CONFIG, CARD, TRAINING, *TENSORS, BACKBONE)
        if (folder / name).is_file()
    }


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with the prefix and a dot, without both."""
    return {k.removeprefix(f"{prefix}."): v.numpy() for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _config(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    try:
        config = json.loads(files[CONFIG])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{where}: {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ArtifactError(f"{where}: {CONFIG} is not a {FORMAT} file")
    if config["format_version"] > FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: saved by knowngood {config.get('knowngood_version')} in format {config['format_version']}; "
            f"this is {__version__} and reads up to format {FORMAT_VERSION}: upgrade knowngood"
        )
    return config
