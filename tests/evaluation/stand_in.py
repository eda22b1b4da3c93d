"""A subject of figures whose arrays are given instead of computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.data import ImageSet
from knowngood.evaluation.figures.subject import Codes, Conditions, Reconstructed, spread


class StandIn:
    """Codes (N, D) with groups and labels (N,); or a model of D dimensions, each with its `kl`, under named conditions.

    What it decodes is random, and kept in `pictures`. `views`: model → inputs and what that model makes of them.
    """

    def __init__(
        self,
        codes: np.ndarray | None = None,
        *,
        groups: Any = None,
        labels: Any = None,
        kl: np.ndarray | None = None,
        relevance: np.ndarray | None = None,
        names: list[str] | None = None,
        what: str = "condition",
        size: int = 8,
        views: dict[str, tuple[np.ndarray, Reconstructed]] | None = None,
    ) -> None:
        n = next((len(some) for some in (codes, labels) if some is not None), 1)
        columns = {} if groups is None else {"group": np.asarray(groups)}
        self.images = ImageSet.from_arrays(np.zeros((n, 8, 8), np.uint8), labels, columns)
        self.given, self.kl, self.learned = codes, kl, relevance
        self.names, self.what, self.size = names, what, size
        self.views = views or {}
        self.models = {name: name for name in self.views}

    def data(self) -> ImageSet:
        return self.images

    def chosen(self, ids: list[str]) -> ImageSet:
        return self.images

    def sample(self, most: int) -> ImageSet:
        return self.images[spread(len(self.images), most)]

    def groups(self, images: ImageSet, by: str | None) -> np.ndarray | None:
        return images.conditions.get("group")

    def codes(self, images: ImageSet) -> Codes:
        assert self.given is not None
        return Codes(self.given, self.given**2 / 2, None)

    def mean_kl(self) -> np.ndarray:
        assert self.kl is not None
        return self.kl

    def relevance(self) -> np.ndarray | None:
        return self.learned

    def reconstructed(self, images: ImageSet, detector: str = "") -> tuple[np.ndarray, Reconstructed]:
        return self.views[detector]

    def conditions(self, only: list[str] | None) -> Conditions:
        return Conditions(self.names, None if self.names is None else np.eye(len(self.names)), self.what)

    def prior(self, known: Conditions) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(known.names or [""]), len(self.mean_kl()))
        return np.zeros(shape), np.ones(shape)

    def decoded(self, z: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        self.z = z
        self.pictures = np.random.default_rng(0).random((*z.shape[:-1], self.size, self.size, 1))
        return np.round(7 * self.pictures) / 7


def stand_in(*arrays: Any, **given: Any) -> Any:
    return StandIn(*arrays, **given)
