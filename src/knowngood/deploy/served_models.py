"""Saved models in use by a service: by name, and exchanged for a new version while requests go on."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from knowngood.config import nearest
from knowngood.data.readers.limits import Limits
from knowngood.deploy.logs import event
from knowngood.detector.estimator import Detector
from knowngood.detector.versions import OF_RUN, fingerprint, in_use, model_at
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations import Table


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A version of a saved model, loaded; it never changes.

    path: the model folder as it was given. folder: of the version. mark: the fingerprint of the version, which tables
    of `knowngood score` have as `scored_by`.
    """

    name: str
    path: Path
    folder: Path
    mark: str
    detector: Detector
    loaded: str

    @classmethod
    def load(cls, path: Path, name: str | None = None, device: str = "cpu") -> ServedModel:
        """The version in use of the model at `path`.

        Raises:
            ArtifactError: there is none, or it is damaged. SettingsError: it is none of images.
        """
        folder = in_use(path)
        mark = fingerprint(folder)
        detector = Detector.load(folder, device=device)
        if isinstance(detector.pipeline_.representation, Table):
            raise SettingsError(f"{path}: this model was fitted to a table; expected a model of images")
        name, now = name or name_of(path), datetime.now(UTC).isoformat(timespec="seconds")
        if math.isinf(detector.offset_):
            why = "nothing is flagged: too few calibration images for this alpha"
            event(why, logging.WARNING, model=name, alpha=detector.alpha)
        return cls(name, path, folder, mark, detector, now)

    @property
    def columns(self) -> list[str]:
        """The condition columns that images may have."""
        pipeline = self.detector.pipeline_
        measured = pipeline.settings.conditioning.measure
        known = [column.name for column in pipeline.schema.columns if column.name not in measured]
        return list(dict.fromkeys([*known, *(name for group in pipeline.added for name in group.values)]))

    @property
    def limits(self) -> Limits:
        """How large a file may be once decoded, by the settings of the model."""
        return Limits.of(self.detector.pipeline_.settings.data)

    def check_column(self, name: str) -> None:
        """Raise DataError for a condition that the model does not have."""
        if name not in self.columns:
            hint = nearest(name, self.columns) if self.columns else "; it has none: leave conditions out"
            raise DataError(f"the model '{self.name}' has no condition '{name}'{hint}")

    def describe(self) -> dict[str, Any]:
        """Plain data: what it is, what it expects and what it guarantees."""
        pipeline, settings = self.detector.pipeline_, self.detector.pipeline_.settings
        columns = [column for column in pipeline.schema.columns if column.name in self.columns]
        numbered = self.folder.name.isdecimal()
        parts: dict[str, Any] = {part: getattr(settings, part) for part in ("representation", "model", "score")}
        return {
            "name": self.name,
            "version": int(self.folder.name) if numbered else None,
            "scored_by": self.mark,
            "loaded": self.loaded,
            **{part: options.name for part, options in parts.items()},
            "alpha": settings.alpha,
            "calibration_items": len(pipeline.calibration or ()),
            "conditions": {
                column.name: list(column.values) if column.kind == "categorical" else "a number"
                for column in columns
                if column.roles
            },
            "groups": [dict(group.values) for group in pipeline.added],
            "maps": bool(pipeline.score.has_map),
        }


class ServedModels(Mapping[str, ServedModel]):
    """Models by name. A reader gets the version of that moment and may keep it for as long as it works."""

    def __init__(self, models: list[ServedModel], device: str = "cpu") -> None:
        self._models = {model.name: model for model in models}
        self._device, self._lock = device, threading.Lock()
        for name in self._models:
            if [model.name for model in models].count(name) > 1:
                paths = " and ".join(str(model.path) for model in models if model.name == name)
                raise SettingsError(f"{paths} have the same name '{name}'; give names: first={paths.split(' and ')[0]}")

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def named(self, name: str | None) -> ServedModel:
        """The model of that name; without a name the only one.

        Raises:
            KeyError: there is none; the message names those there are.
        """
        if name is None and len(self) > 1:
            raise KeyError(f"several models are served; give model=NAME, one of: {', '.join(self)}")
        if name is not None and name not in self:
            raise KeyError(f"there is no model '{name}'{nearest(name, list(self))}")
        return self[name or next(iter(self))]

    def reload(self, name: str) -> ServedModel:
        """Load the version that is in use now and switch to it; the same one is loaded again too.

        Raises:
            ArtifactError: it cannot be loaded. The former version stays.
        """
        with self._lock:
            old = self[name]
            self._models[name] = ServedModel.load(old.path, name, self._device)
        return self[name]

    def changed(self) -> list[str]:
        """The names of models of which another version is in use on the disk."""
        found = []
        for name, model in self.items():
            try:
                folder = in_use(model.path)
                mark = fingerprint(folder)
            except (ArtifactError, OSError):  # half-way through a copy
                continue
            if mark and (mark, folder) != (model.mark, model.folder):
                found.append(name)
        return found


def name_of(path: Path) -> str:
    """What a model is called if no name is given: its folder, or that of its run."""
    whole = path.resolve()
    return whole.parent.name if whole.name == OF_RUN else whole.name


def load_models(words: list[str], device: str = "cpu") -> ServedModels:
    """Models given as PATH or NAME=PATH.

    Raises:
        ArtifactError: there is no usable model at a path. SettingsError: two have the same name.
    """
    models = []
    for word in words:
        name, equals, path = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        place = Path(path if named else word)
        model_at(place)
        models.append(ServedModel.load(place, name if named else None, device))
    return ServedModels(models, device)


def exchange(models: ServedModels, name: str) -> ServedModel:
    """Take the version of a model that is in use on the disk into use here, and log it. Raises ArtifactError."""
    before = models[name].mark
    model = models.reload(name)
    event("model", model=name, before=before, scored_by=model.mark, version=model.folder.name)
    return model


def exchange_changed(models: ServedModels, told: dict[str, str]) -> None:
    """The same for every model of which another version is in use. `told` holds the failures that were logged."""
    for name in models.changed():
        try:
            exchange(models, name)
            told.pop(name, None)
        except (ArtifactError, OSError) as error:
            if told.get(name) != str(error):
                event("model not exchanged", logging.ERROR, model=name, reason=str(error))
            told[name] = str(error)
