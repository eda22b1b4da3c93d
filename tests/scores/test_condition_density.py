"""What conditions are compared by: differences of energies between conditions against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.config import Elbo, MemoryBankOptions, Neighbours, VAEOptions
from knowngood.models.base import Model
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.vae import resolve
from knowngood.scores.condition_density import NearestDensity, PriorDensity, condition_density
from knowngood.scores.elbo import ElboScore


def bank(patches: bool = False) -> MemoryBank:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    shape = (3, 2, 2) if patches else (3,)
    made = MemoryBank(MemoryBankOptions(), shape, patches=patches, rows=40)
    made.bank, made.stratum = rows, torch.arange(40) % 2
    return made


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_of_a_memory_bank_it_is_the_log_ratio_of_mean_distances_to_the_nearest(patches: bool, k: int) -> None:
    model = bank(patches)
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = x if patches else x[..., 0, 0]
    density = condition_density(model, Neighbours(k=k).build())
    assert isinstance(density, NearestDensity)
    found = [density.score(model, {}, x, None, torch.full((5,), s)).values.numpy() for s in (0, 1)]
    rows = model.rows(x).double().numpy()
    each = [np.linalg.norm(rows[:, None] - model.bank[s::2].double().numpy(), axis=2) for s in (0, 1)]
    far = [np.sort(one, axis=1)[:, :k].mean(1) for one in each]
    wanted = np.log(far[0] / far[1]).reshape(5, -1).mean(1)
    np.testing.assert_allclose(found[0] - found[1], wanted, rtol=1e-6)
    if not patches:
        itself = density.score(model, {}, model.bank[:1], None, torch.zeros(1).long())
        assert torch.isfinite(itself.values).all()


def test_of_a_vae_it_is_the_elbo_or_the_prior_where_the_encoder_does_not_see_the_condition() -> None:
    plain, apart = (
        resolve(VAEOptions(prior=prior), "standard", (4,)).build((4,), 2, 0) for prior in ("standard", "separated")
    )
    assert isinstance(condition_density(plain, Neighbours().build()), ElboScore)
    density = condition_density(apart, Neighbours().build())
    assert isinstance(density, PriorDensity)
    x, each = torch.randn(6, 4), torch.eye(2)
    with torch.no_grad():
        found = [density.score(apart, {}, x, c.expand(6, 2), torch.zeros(6)).values for c in each]
        mean = apart.encode(x, each[:1].expand(6, 2)).mean
        centres = [apart.prior(c[None], like=mean[:1]).mean for c in each]
    wanted = 0.5 * ((mean - centres[0]).square().sum(1) - (mean - centres[1]).square().sum(1))
    torch.testing.assert_close((found[0] - found[1]).float(), wanted, rtol=1e-4, atol=1e-3)


def test_of_another_model_it_is_its_score_where_that_is_a_likelihood() -> None:
    model, likelihood, other = Model(), Elbo().build(), Neighbours().build()
    assert condition_density(model, likelihood) is likelihood
    assert condition_density(model, other) is None
