"""A model that takes new images equals one that is fitted to old and new ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.config import MemoryBankOptions
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.training import Source
from patch_models import F, empty, features, fitted, one_cell

BUFFERS = ("mean", "lower", "images", "own_mean", "weight", "between", "everywhere")


def grids(n: int, seed: int, size: int = 40) -> torch.Tensor:
    """(n, 40, 2, 3) correlated features."""
    draws = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(2, 3, size, size)) / size**0.5
    x = np.einsum("hwgf,nfhw->nghw", mixing, draws.normal(1 + seed, 1, (n, size, 2, 3)))
    return torch.from_numpy(x.astype(np.float32))


def close(one: PatchGaussian, other: PatchGaussian, tolerance: float = 2e-4) -> None:
    """Where a location does not count for a cell alone, that cell has nothing of its own, and no Gaussian is used."""
    counted = ~one.ignored | one.ignored.all(0)
    for name in BUFFERS:
        found, wanted = getattr(one, name), getattr(other, name)
        if found.shape[:2] == counted.shape:
            found, wanted = found[counted], wanted[counted]
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("share", [None, 0.0, 1.0])
def test_the_gaussian_of_old_and_new_images(n: int, share: float | None) -> None:
    x = torch.cat([grids(n, 0), grids(9, 1), grids(1, 2)])
    ignored = torch.zeros(1, 2, 3, dtype=torch.bool)
    ignored[0, 0, 1] = True
    options = {"shrinkage": share, "global_grid": 2}
    model, whole = fitted(x[:n], ignored=ignored, **options), fitted(x, ignored=ignored, **options)
    before = model.lower.clone()
    model.update_grids(x[n:-1], one_cell(x[n:-1])).update_grids(x[-1:], one_cell(x[-1:]))
    close(model, whole)
    assert model.coarse is not None
    assert whole.coarse is not None
    close(model.coarse, whole.coarse)
    assert (before - model.lower).abs().max() > 0.05
    new = grids(5, 3)
    torch.testing.assert_close(
        model.distances(new, one_cell(new)), whole.distances(new, one_cell(new)), rtol=1e-3, atol=1e-3
    )


def cells(n: int, seed: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Grids of three cells that differ in mean and scale; the last has a third of the images."""
    cell = torch.arange(n) % 7 // 3
    x = features(n, seed=seed) * (1 + apart * cell)[:, None, None, None] + apart * cell[:, None, None, None]
    return x, cell


@pytest.mark.parametrize("apart", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("share", [None, 0.3])
def test_new_images_of_one_condition_change_all_gaussians_as_a_fit_does(apart: float, share: float | None) -> None:
    x, cell = cells(70, 0, apart)
    new, of = cells(21, 5, apart)
    ignored = torch.zeros(3, 3, 4, dtype=torch.bool)
    ignored[1, 0, 1] = True
    ignored[:, 2, 2] = True
    model = fitted(x, cell, ignored, shrinkage=share, global_grid=2)
    before = model.lower.clone()
    model.update_grids(new[of == 1], of[of == 1]).update_grids(new[of != 1], of[of != 1])
    whole = empty(x, 3, ignored, shrinkage=share, global_grid=2)
    coarse = model.coarse
    assert coarse is not None
    order = torch.cat([(of == 1).nonzero()[:, 0], (of != 1).nonzero()[:, 0]])
    whole.fit_grids(torch.cat([x, new[order]]), torch.cat([cell, of[order]]), model.ridge)
    close(model, whole, 1e-3)
    close(coarse, whole.coarse, 1e-3)  # type: ignore[arg-type]
    assert (before - model.lower).abs().amax((1, 2, 3)).min() > 1e-3


def test_a_condition_without_images_gets_its_own_gaussian_by_an_update() -> None:
    x, cell = cells(70, 0, 3.0)
    kept = cell != 2
    model = empty(x, 3, shrinkage=None).fit_grids(x[kept], cell[kept])
    centre = model.own_mean[:2].mul(model.images[:2, None, None]).sum(0) / model.images.sum()
    torch.testing.assert_close(model.mean[2], centre, rtol=1e-4, atol=1e-4)
    model.update_grids(x[~kept], cell[~kept])
    far = (model.mean[2] - centre).norm()
    assert (model.mean[2] - model.own_mean[2]).norm() < 0.2 * far


def test_contexts_of_several_conditions_are_updated_exactly_given_all_directions() -> None:
    x, cell = features(700), torch.arange(700) % 2
    new = features(5, seed=3)
    model = fitted(x[:500], cell[:500], context=F, shrinkage=None)
    model.update_grids(x[500:], cell[500:])
    whole = empty(x, 2, context=F, shrinkage=None)
    whole.fit_grids(x, cell)
    assert model.basis.shape[1] == whole.basis.shape[1] == F
    found, wanted = (some.distances(new, one_cell(new)) for some in (model, whole))
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=5e-3)


def test_a_context_of_all_directions_is_exact() -> None:
    x, new = features(240), features(5, seed=3)
    model, whole = (fitted(some, context=F, shrinkage=None) for some in (x[:170], x))
    model.update_grids(x[170:], one_cell(x[170:]))
    assert model.basis.shape[1] == F
    found, wanted = (some.distances(new, one_cell(new)) for some in (model, whole))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_a_context_of_few_directions_is_close() -> None:
    """Where features follow two factors of the image, the directions of the first fit are nearly those of all."""
    rng = np.random.default_rng(0)
    directions = np.random.default_rng(1).normal(size=(2, F, 3, 4))

    def images(n: int) -> torch.Tensor:
        x = np.einsum("nt,tfhw->nfhw", rng.normal(size=(n, 2)) * (3, 2), directions)
        return torch.from_numpy((x + rng.normal(0, 0.2, (n, F, 3, 4))).astype(np.float32))

    x, new = images(160), images(20)
    model, whole = (fitted(some, context=2, shrinkage=None) for some in (x[:100], x))
    model.update_grids(x[100:], one_cell(x[100:]))
    u = model._context(x, one_cell(x))
    torch.testing.assert_close(u.T.cov(), torch.eye(2) / 1.01, rtol=1e-3, atol=1e-3)
    found, wanted = (some.distances(new, one_cell(new)) for some in (model, whole))
    assert float((found / wanted - 1).abs().mean()) < 0.02
    stale = fitted(x[:100], context=2, shrinkage=None).distances(new, one_cell(new))
    assert float((stale / wanted - 1).abs().mean()) > 0.03


def test_a_loaded_model_takes_images_too() -> None:
    x = features(60)
    model = fitted(x[:40], shrinkage=None, context=1, global_grid=2)
    loaded = PatchGaussian(model.options, **model.sizes())
    loaded.load_state_dict(model.state_dict())
    close(loaded.update_grids(x[40:], one_cell(x[40:])), model.update_grids(x[40:], one_cell(x[40:])), tolerance=1e-6)
    with pytest.raises(ValueError, match="image counts"):
        PatchGaussian(model.options, **{**model.sizes(), "images": ()}).update_grids(x, one_cell(x))


def source(rows: torch.Tensor, strata: torch.Tensor) -> Source:
    return Source(rows, stratum=strata, n_strata=2)


@pytest.mark.parametrize("coreset", [None, 30])
def test_the_bank_of_old_and_new_items(coreset: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, strata = torch.randn(80, 3, generator=draw), torch.arange(80) % 2
    rows[60:] += 20
    options = MemoryBankOptions(coreset=coreset)
    model, whole = MemoryBank(options, (3,)), MemoryBank(options, (3,))
    model.fit(source(rows[:60], strata[:60]), None)  # type: ignore[arg-type]
    model.update(source(rows[60:], strata[60:]))
    whole.fit(source(rows, strata), None)  # type: ignore[arg-type]
    if coreset is None:
        assert torch.equal(model.bank, whole.bank)
        assert torch.equal(model.stratum, whole.stratum)
    else:
        assert len(model.bank) <= 31
        far = model.bank[:, 0] > 10
        assert far.any()
        assert (~far).any()
