"""Models in use by a service: by name, and exchanged for a new version while requests go on."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from knowngood.config import nearest
from knowngood.deploy.logs import event
from knowngood.detector.versions import OF_RUN, model_at
from knowngood.errors import ArtifactError, DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from knowngood.data import ImageSet
    from knowngood.data.readers.limits import Limits
    from knowngood.deploy.judgement import Asked, Row
    from knowngood.evaluation.drift_reference import Reference

EXPORTED = ".onnx"  # suffix of what `knowngood export` writes
LACKING = {
    "explain": "cannot explain: explanations compare with normal images",
    "learn": "does not learn from reviews: that needs the model and its training images",
    "roll back": "has no versions to go back to",
}


@dataclass(frozen=True, eq=False)
class ServedModel(ABC):
    """A version of a model, loaded; it never changes.

    path: as it was given. mark: the fingerprint of the version, which tables of `knowngood score` have as `scored_by`.
    explains, learns: whether it can say why, and make a new version from reviews.
    """

    name: str
    path: Path
    mark: str
    loaded: str

    explains: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    @property
    @abstractmethod
    def version(self) -> int | None:
        """Its number, if it is one of several."""

    @property
    @abstractmethod
    def alpha(self) -> float:
        """The false-alarm rate of the fit."""

    @property
    @abstractmethod
    def card(self) -> str:
        """The model card, Markdown."""

    @property
    def learned(self) -> dict[str, Any] | None:
        """What came of the reviews that this version learned from, if it did."""
        return None

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The condition columns that images may have."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """How large a file may be once decoded, by the settings of the model."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Plain data: representation, model, score, calibration_items, conditions, groups, maps, runs_on."""

    @abstractmethod
    def judged(self, images: ImageSet, asked: Asked) -> list[Row]:
        """See `judgement.judged`."""

    @abstractmethod
    def normal_image(self, reference: int) -> np.ndarray | None:
        """(H, W, C) the mean of the normal images in a group, if it has any."""

    @abstractmethod
    def drift_reference(self) -> Reference | None:
        """What its scores are compared with to find drift; None if it is not calibrated."""

    @abstractmethod
    def groups_of(self, conditions: list[str]) -> list[str]:
        """The Mondrian group of each item by the text of its condition."""

    @abstractmethod
    def is_changed(self) -> bool:
        """Whether another version is in use on the disk."""

    @abstractmethod
    def loaded_again(self) -> ServedModel:
        """The version that is in use on the disk now. Raises ArtifactError: it cannot be loaded."""

    def check_column(self, name: str) -> None:
        """Raise DataError for a condition that the model does not have."""
        if name not in self.columns:
            hint = nearest(name, self.columns) if self.columns else "; it has none: leave conditions out"
            raise DataError(f"the model '{self.name}' has no condition '{name}'{hint}")

    def describe(self) -> dict[str, Any]:
        """Plain data: what it is, what it expects and what it guarantees."""
        own = {"name": self.name, "version": self.version, "scored_by": self.mark, "loaded": self.loaded}
        return {**own, "alpha": self.alpha, **self.about(), "explains": self.explains, "learns": self.learns}

    def lacks(self, what: str) -> str:
        """Why an exported file cannot do this (a key of `LACKING`), and what can."""
        return f"'{self.name}' is an exported file, which {LACKING[what]}; serve the folder that `train` wrote"


class ServedModels(Mapping[str, ServedModel]):
    """Models by name. A reader gets the version of that moment and may keep it for as long as it works."""

    def __init__(self, models: list[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._lock = threading.Lock()
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
            self._models[name] = self[name].loaded_again()
        return self[name]

    def changed(self) -> list[str]:
        """The names of models of which another version is in use on the disk."""
        return [name for name, model in self.items() if model.is_changed()]


def name_of(path: Path) -> str:
    """What a model is called if no name is given: its folder, or that of its run."""
    whole = path.resolve()
    return whole.parent.name if whole.name == OF_RUN else whole.name


def now() -> str:
    """The time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_exported(path: Path) -> bool:
    """Whether a path names a file that `knowngood export` writes, and no model folder."""
    return path.suffix.lower() == EXPORTED and not path.is_dir()


def check_model(path: Path) -> None:
    """Raise ArtifactError if there is no model folder and no exported file; nothing heavy is loaded for it."""
    if not is_exported(path):
        model_at(path)
    elif not path.is_file():
        raise ArtifactError(f"{path}: no such file; `knowngood export MODEL {path.name}` writes one")


def load_model(path: Path, name: str | None = None, device: str = "cpu") -> ServedModel:
    """The model in a folder, or in an exported file: then torch is not imported.

    Raises:
        ArtifactError: there is no usable one. SettingsError: it is none of images.
    """
    check_model(path)
    if is_exported(path):
        from knowngood.deploy.served_file import FileModel

        return FileModel.load(path, name, device)
    from knowngood.deploy.served_folder import FolderModel

    return FolderModel.load(path, name, device)


def load_models(words: list[str], device: str = "cpu") -> ServedModels:
    """Models given as PATH or NAME=PATH.

    Raises:
        ArtifactError: there is no usable model at a path. SettingsError: two have the same name.
    """
    models = []
    for word in words:
        name, equals, path = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        models.append(load_model(Path(path if named else word), name if named else None, device))
    return ServedModels(models)


def exchange(models: ServedModels, name: str) -> ServedModel:
    """Take the version of a model that is in use on the disk into use here, and log it. Raises ArtifactError."""
    before = models[name].mark
    model = models.reload(name)
    event("model", model=name, before=before, scored_by=model.mark, version=model.version)
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
