"""Learning from reviews beside a server: one new version at a time, in the background, then taken into use."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from knowngood.deploy.judged_store import JudgedStore
from knowngood.deploy.logs import event
from knowngood.deploy.reviewed_images import reviewed_images
from knowngood.deploy.served_model import ServedModel
from knowngood.deploy.served_models import ServedModels, exchange
from knowngood.detector.versions import in_use, model_at
from knowngood.errors import ArtifactError, DataError, KnowngoodError
from knowngood.files import LOCK, locked


class ReviewJob:
    """Makes new versions of served models from the reviews in a store; see `learn_reviews`.

    The version in use goes on judging meanwhile. A server that ends leaves the model as it was.
    """

    def __init__(self, models: ServedModels, store: JudgedStore) -> None:
        self.models, self.store = models, store
        self._lock, self._running = threading.Lock(), ""
        self._errors: dict[str, str] = {}

    def state(self, model: ServedModel) -> dict[str, Any] | None:
        """new: reviews that the version in use did not learn from. running. error: of the last attempt, or None.

        learned: what came of the reviews that the version in use learned from, with `rows` and `sentences`, or None.
        All of it None of a model that does not learn.
        """
        if not model.learns:
            return None
        learned = model.learned
        new = self.store.count_reviews(model.name, after=0 if learned is None else learned["latest"])
        running = self._running == model.name
        return {"new": new, "running": running, "error": self._errors.get(model.name), "learned": learned}

    def start(self, name: str) -> None:
        """Begin. Raises DataError: there is no new review, or it runs already, or the model does not learn."""
        model = self.models.named(name)
        if not model.learns:
            raise DataError(model.lacks("learn"))
        with self._lock:
            if self._running:
                raise DataError(f"'{self._running}' learns from its reviews just now; wait until it has finished")
            if not (self.state(model) or {})["new"]:
                raise DataError(f"'{name}': this version has learned from all reviews already")
            self._running = name
            self._errors.pop(name, None)
        threading.Thread(target=self._run, args=(model,), name="reviews", daemon=True).start()

    def _run(self, model: ServedModel) -> None:
        try:
            self._learn(model)
        except KnowngoodError as error:
            self._errors[model.name] = str(error)
            event("not learned", logging.ERROR, model=model.name, reason=str(error))
        except Exception as error:
            self._errors[model.name] = f"{type(error).__name__}: {error}"
            event("not learned", logging.ERROR, model=model.name, reason=self._errors[model.name])
        finally:
            self._running = ""

    def _learn(self, model: ServedModel) -> None:
        from knowngood.deploy.review_update import learn_reviews
        from knowngood.deploy.served_folder import FolderModel
        from knowngood.detector.run_record import training_images

        assert isinstance(model, FolderModel)
        try:
            old = training_images(model.path, model.limits)
        except KnowngoodError as error:  # moved or gone: a random sample may do
            event("no training images", logging.WARNING, model=model.name, reason=str(error))
            old = None
        reviewed = reviewed_images(self.store, model.name, model.limits)
        done = learn_reviews(model.detector, reviewed, old=old)
        folder = model_at(model.path)
        with locked(_lock_of(folder), str(folder)):
            if in_use(model.path) != model.folder:
                raise ArtifactError("another version came into use meanwhile, and nothing was changed; try again")
            done.detector.save(folder)
        exchange(self.models, model.name)


def _lock_of(folder: Path) -> Path:
    """The lock that commands take too which write a model."""
    whole = folder.resolve()
    return whole.with_name(f".{whole.name}{LOCK}")
