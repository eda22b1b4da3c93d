"""Models in use by a service: by name, and exchanged for a new version while requests go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from knowngood.config import nearest
from knowngood.deploy.logs import event
from knowngood.deploy.served_model import ServedModel
from knowngood.detector.versions import model_at
from knowngood.errors import ArtifactError, SettingsError
from knowngood.files import did_you_mean

Check = Callable[[ServedModel], None]  # raises for a version that may not come into use
EXPORTED = ".onnx"  # suffix of what `knowngood export` writes


class ServedModels(dict[str, ServedModel]):
    """Models by name. A reader gets the version of that moment and may keep it for as long as it works.

    bounds: on pictures, by the name of their setting, in place of those of the models.
    """

    def __init__(self, models: list[ServedModel], bounds: Mapping[str, float] | None = None) -> None:
        self.bounds = dict(bounds or {})
        super().__init__((model.name, self._bounded(model)) for model in models)
        self._lock = threading.Lock()
        for name in self:
            if [model.name for model in models].count(name) > 1:
                paths = " and ".join(str(model.path) for model in models if model.name == name)
                raise SettingsError(f"{paths} have the same name '{name}'; give names: first={paths.split(' and ')[0]}")

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

    def reload(self, name: str, check: Check | None = None) -> ServedModel:
        """Load the version that is in use now and switch to it; the same one is loaded again too.

        Raises:
            ArtifactError: it cannot be loaded. The former version stays, as it does where `check` raises.
        """
        with self._lock:
            model = self._bounded(self[name].loaded_again())
            if check is not None:
                check(model)
            self[name] = model
        return model

    def changed(self) -> list[str]:
        """The names of models of which another version is in use on the disk."""
        return [name for name, model in self.items() if model.is_changed()]

    def _bounded(self, model: ServedModel) -> ServedModel:
        return replace(model, limits=model.limits.with_settings(self.bounds)) if self.bounds else model


def is_exported(path: Path) -> bool:
    """Whether a path names a file that `knowngood export` writes, and no model folder."""
    return path.suffix.lower() == EXPORTED and not path.is_dir()


def check_model(path: Path) -> None:
    """Raise ArtifactError if there is no model folder and no exported file; nothing heavy is loaded for it."""
    if not is_exported(path):
        model_at(path)
    elif not path.is_file():
        hint = did_you_mean(path, is_exported)
        raise ArtifactError(f"{path}: no such file{hint}; `knowngood export MODEL {path.name}` writes one")


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


def load_models(words: list[str], device: str = "cpu", bounds: Mapping[str, float] | None = None) -> ServedModels:
    """Models given as PATH or NAME=PATH; bounds: see `ServedModels`.

    Raises:
        ArtifactError: there is no usable model at a path. SettingsError: two have the same name.
    """
    given: list[tuple[Path, str | None]] = []
    for word in words:
        name, equals, path = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        given.append((Path(path), name) if named else (Path(word), None))
        check_model(given[-1][0])  # of all, before one is loaded
    return ServedModels([load_model(path, name, device) for path, name in given], bounds)


def exchange(models: ServedModels, name: str, check: Check | None = None) -> ServedModel:
    """Take the version of a model that is in use on the disk into use here, and log it; see `ServedModels.reload`."""
    before = models[name].mark
    model = models.reload(name, check)
    event("model", model=name, before=before, scored_by=model.mark, version=model.version)
    return model


def exchange_changed(models: ServedModels, logged: dict[str, str], check: Check | None = None) -> None:
    """The same for every model of which another version is in use. `logged` holds the failures that were logged."""
    for name in models.changed():
        try:
            exchange(models, name, check)
            logged.pop(name, None)
        except Exception as error:  # whatever it is, the former version stays, and it is tried again
            if logged.get(name) != str(error):
                event("model not exchanged", logging.ERROR, model=name, reason=str(error))
            logged[name] = str(error)
