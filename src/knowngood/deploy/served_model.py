"""A model in use by a service, and what is asked of it: that of a folder and that of an exported file answer alike."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from knowngood.config import nearest
from knowngood.detector.versions import MARK, OF_RUN
from knowngood.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from knowngood.data import ImageSet
    from knowngood.data.columns import Column
    from knowngood.data.readers.limits import Limits
    from knowngood.deploy.judgement import Asked, Row
    from knowngood.evaluation.drift_reference import Reference

EXTRA = ("map", "explanation", "kept", "view")  # of a row, beside what the command line writes
LACKING = {
    "explain": "cannot explain: explanations compare with normal images",
    "learn": "does not learn from reviews: that needs the model and its training images",
    "roll back": "has no versions to go back to",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedModel(ABC):
    """A version of a model, loaded; it never changes.

    path: as it was given. mark: the fingerprint of the version, which tables of `knowngood score` have as `scored_by`.
    version: its number, if it is one of several. alpha: the false-alarm rate of the fit. card: Markdown. columns: the
    condition columns that images may have. limits: how large a file may be once decoded, by the settings of the model.
    about: plain data, representation, model, score, calibration_items, conditions, groups, maps and runs_on. learned:
    what came of the reviews that this version learned from, if it did. reconstructs: it is a VAE of pictures, it has
    latent dimensions and decodes them. explains, learns: whether it can say why, and make a new version from reviews.
    """

    name: str
    path: Path
    mark: str
    version: int | None = None
    alpha: float
    card: str
    columns: list[str]
    limits: Limits
    about: dict[str, Any]
    learned: dict[str, Any] | None = None
    reconstructs: bool = False
    loaded: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    explains: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    @abstractmethod
    def judged(self, images: ImageSet, asked: Asked) -> list[Row]:
        """See `judged`."""

    def normal_image(self, reference: int) -> np.ndarray | None:
        """(H, W, C) the mean of the normal images in a group, if it has any."""
        return None

    def compared_image(self, images: ImageSet) -> np.ndarray | None:
        """(H, W, C) one image as it is compared with `normal_image`: resized, and turned and cropped if parts are."""
        return None

    def code(self, images: ImageSet, moved: Mapping[int, float]) -> tuple[list[dict[str, float]], np.ndarray]:
        """The latent dimensions of one image and what is decoded from them, (H, W, C), scaled as pictures are.

        Each dimension has its number `dim`, its position `z` in standard deviations of the prior, and `kl` in nats;
        those of the highest come first. Dimensions in `moved` are decoded from other positions.

        Raises:
            SettingsError: no such dimension. DataError: the image cannot be read, or the model does not reconstruct.
        """
        raise DataError(f"the model '{self.name}' has no latent dimensions: it does not reconstruct pictures")

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
        can = {"explains": self.explains, "learns": self.learns, "reconstructs": self.reconstructs}
        return {**own, "alpha": self.alpha, **self.about, **can}

    def lacks(self, what: str) -> str:
        """Why an exported file cannot do this (a key of `LACKING`), and what can."""
        return f"'{self.name}' is an exported file, which {LACKING[what]}; serve the folder that `train` wrote"


def described(columns: Iterable[Column]) -> dict[str, Any]:
    """The values that condition columns have, by name."""
    return {one.name: list(one.values) if one.kind == "categorical" else "a number" for one in columns if one.roles}


def judged(model: ServedModel, images: ImageSet, asked: Asked) -> list[Row]:
    """A row an image, as `knowngood score` writes it, with `error` (None if it was read) and what else was asked for.

    Unlike the command line it warns of no batch: the images of a request are few.

    Raises:
        SettingsError, DataError: as `Detector.detect`, but not where no image can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.judged(images, asked)


def for_sinks(rows: Iterable[Row], model: ServedModel) -> list[Row]:
    """Rows with the time, the model and its version, and without pictures."""
    about = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "model": model.name, MARK: model.mark}
    return [{**{name: row[name] for name in row if name not in EXTRA}, **about} for row in rows]


def name_of(path: Path) -> str:
    """What a model is called if no name is given: its folder, or that of its run."""
    whole = path.resolve()
    return whole.parent.name if whole.name == OF_RUN else whole.name
