"""One Gaussian for all locations: its moments, what it scores, and what it is saved as."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from knowngood.config import SharedGaussianOptions
from knowngood.models.base import FitContext
from knowngood.models.shared_gaussian import SharedGaussian
from knowngood.training import Source
from patch_models import features, one_cell

X = features(40)
OPTIONS = SharedGaussianOptions()


def shared(ignored: torch.Tensor | None = None, **more: Any) -> SharedGaussian:
    model = SharedGaussian(OPTIONS, tuple(X.shape[1:]), **more)
    if ignored is not None:
        model.ignored.copy_(ignored)
    return model.fit_grids(X, one_cell(X))


def test_it_is_the_gaussian_of_all_patches() -> None:
    model, patches = shared(), X.flatten(2).movedim(1, 2).flatten(0, 1)  # (N·P, F)
    torch.testing.assert_close(model.mean[0], patches.mean(0).expand_as(model.mean[0]), rtol=1e-4, atol=1e-4)
    covariance = torch.cov(patches.T) + 0.01 * torch.eye(len(patches.T))
    torch.testing.assert_close(model.lower[0, -1] @ model.lower[0, -1].T, covariance, rtol=1e-3, atol=1e-3)
    off = patches[:12] - patches.mean(0)
    expected = 0.5 * (off * torch.cholesky_solve(off.T, torch.linalg.cholesky(covariance)).T).sum(1)
    found = model.distances(X[:1], one_cell(X[:1])).flatten().float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_where_a_patch_lies_does_not_count() -> None:
    model, turned = shared(), X.flip(2, 3)
    here, there = (model.distances(x, one_cell(x)) for x in (X, turned))
    torch.testing.assert_close(here.flip(1, 2), there)


def test_an_ignored_location_teaches_nothing() -> None:
    ignored = torch.zeros(1, X[0, 0].numel(), dtype=torch.bool)
    ignored[0, 0] = True
    patches = X.flatten(2)[:, :, 1:].movedim(1, 2).flatten(0, 1)
    torch.testing.assert_close(shared(ignored).mean[0, 0], patches.mean(0), rtol=1e-4, atol=1e-4)


def test_its_factor_is_held_and_saved_once() -> None:
    model = shared()
    assert model.lower.stride(1) == 0
    again = SharedGaussian(OPTIONS, **model.sizes())
    again.load_state_dict(model.state_dict())
    assert model.state_dict()["_extra_state"].shape[1] == 1
    assert torch.equal(model.distances(X, one_cell(X)), again.distances(X, one_cell(X)))


def test_numbers_move_its_features_when_it_scores_as_when_it_is_fitted() -> None:
    """A condition that is a number shifts a feature: given it, images far apart in it score as normal ones."""
    number = torch.linspace(-1, 1, len(X))[:, None]
    x = X.clone()
    x[:, 0] += 20 * number[:, :, None]
    model = SharedGaussian(OPTIONS, tuple(X.shape[1:]), keys=[[0.0]], continuous=[True])
    model.fit(Source(x, c=number), FitContext())
    distances = model.distances(*model.given(x, number)).mean((1, 2))
    assert float(model.number_slope[:, 0].mean()) == pytest.approx(20, abs=1)
    assert float(distances[[0, -1]].mean() / distances.mean()) < 1.5
