"""Any score, taken in all views of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.objectives.viewed import in_view
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult


class ViewScore(Score):
    """Σ_k S(g_k x | c, k): a score S added up over the model's views g_k, each under itself as a condition.

    Parts are added up too. The map is Σ_k of the maps of S with every value where its pixel lies in x, so that it adds
    up to what the maps of S add up to. State is fitted to good images in all views, by view where it is by stratum.

    If S is −log p(x|c) or a bound on it, so is the sum for the K views taken as independent given c, and an unknown c
    is summed out of that: −log Σ_c π_c Π_k p(g_k x|c,k). All views are of one image, under one c.
    """

    def __init__(self, inner: Score) -> None:
        super().__init__(inner.options)
        self.inner = inner
        self.has_map, self.is_likelihood = inner.has_map, inner.is_likelihood

    def check(self, model: ConditionalVAE) -> None:
        if model.views is None:
            raise SettingsError("a score over views needs a model that was built with them; set augment_condition")
        self.inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        return self.inner.fit(model, _InAllViews(model, batches))

    def settle(
        self, model: ConditionalVAE, state: dict[str, Tensor], held_out: Iterable[Batch], fitted: Iterable[Batch]
    ) -> dict[str, Tensor]:
        return self.inner.settle(model, state, _InAllViews(model, held_out), _InAllViews(model, fitted))

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        views = model.views
        assert views is not None
        total: ScoreResult | None = None
        for view in range(len(views)):
            seen, told = views.apply(x, view), views.told(c, view, like=x)
            one = self.inner.score(model, state, seen, told, views.stratum(stratum, view), want_map=want_map)
            one = one._replace(map=None if one.map is None else views.back(one.map, view))
            total = one if total is None else _sum(total, one)
        assert total is not None
        return total


def _sum(a: ScoreResult, b: ScoreResult) -> ScoreResult:
    maps = None if a.map is None or b.map is None else a.map + b.map
    return ScoreResult(a.values + b.values, maps, {name: part + b.parts[name] for name, part in a.parts.items()})


class _InAllViews:
    """Batches in every view; they can be read as often as those that they are made of."""

    def __init__(self, model: ConditionalVAE, batches: Iterable[Batch]) -> None:
        self.model, self.batches = model, batches

    def __iter__(self) -> Iterator[Batch]:
        views = self.model.views
        assert views is not None
        for batch in self.batches:
            for view in range(len(views)):
                yield in_view(views, batch, view)
