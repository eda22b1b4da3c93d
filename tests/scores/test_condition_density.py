"""What conditions are compared by: differences of energies between conditions against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from knowngood.config import Elbo, Fusion, MemoryBankOptions, Neighbours, VAEOptions
from knowngood.models.base import Model
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.vae import ConditionalVAE, resolve
from knowngood.scores.base import Score, State
from knowngood.scores.condition_density import CodeDensity, NearestDensity, PriorDensity, condition_density
from knowngood.scores.elbo import ElboScore


def bank(patches: bool = False) -> MemoryBank:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    shape = (3, 2, 2) if patches else (3,)
    made = MemoryBank(MemoryBankOptions(), shape, patches=patches, rows=40)
    made.bank, made.stratum = rows, torch.arange(40) % 2
    return made


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_of_a_memory_bank_it_is_the_log_ratio_of_mean_distances_times_dimensions(patches: bool, k: int) -> None:
    model = bank(patches)
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = x if patches else x[..., 0, 0]
    density, state = energy_of(model, Neighbours(k=k).build())
    assert isinstance(density, NearestDensity if patches else CodeDensity)
    found = [density.score(model, state, x, None, torch.full((5,), s)).values.numpy() for s in (0, 1)]
    rows = model.rows(x).double().numpy()
    each = [np.linalg.norm(rows[:, None] - model.bank[s::2].double().numpy(), axis=2) for s in (0, 1)]
    far = [np.sort(one, axis=1)[:, : 1 if patches else k].mean(1) for one in each]
    wanted = 3 * np.log(far[0] / far[1]).reshape(5, -1).mean(1)
    np.testing.assert_allclose(found[0] - found[1], wanted, rtol=1e-6)
    if not patches:
        itself = density.score(model, state, model.bank[:1], None, torch.zeros(1).long())
        assert torch.isfinite(itself.values).all()


def test_of_a_vae_it_is_the_elbo_or_the_prior_where_the_encoder_does_not_see_the_condition() -> None:
    plain, apart = (vae(prior) for prior in ("standard", "separated"))
    assert isinstance(energy_of(plain, Elbo().build())[0], ElboScore)
    density, _ = energy_of(apart, Elbo().build(), strata=2)
    assert isinstance(density, PriorDensity)
    x, each = torch.randn(6, 4), torch.eye(2)
    with torch.no_grad():
        found = [density.score(apart, {}, x, c.expand(6, 2), torch.zeros(6)).values for c in each]
        mean = apart.encode(x, each[:1].expand(6, 2)).mean
        centres = [apart.prior(c[None], like=mean[:1]).mean for c in each]
    wanted = 0.5 * ((mean - centres[0]).square().sum(1) - (mean - centres[1]).square().sum(1))
    torch.testing.assert_close((found[0] - found[1]).float(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_of_codes_with_priors_far_apart_it_is_the_log_ratio_of_distances_to_codes_of_each_condition(
    fused: bool,
) -> None:
    model, near = vae("separated"), Neighbours(k=2)
    own = {"codes": torch.randn(30, model.latent_dim), "code_stratum": torch.arange(30) % 2}
    score = Fusion(scores=(Elbo(), near)).build() if fused else near.build()
    state = {f"1.{name}": t for name, t in own.items()} if fused else own
    density, kept = energy_of(model, score, state, strata=2)
    assert isinstance(density, CodeDensity)
    x, c = torch.randn(5, 4), torch.eye(2)[:1].expand(5, 2)
    with torch.no_grad():
        found = [density.score(model, kept, x, c, torch.full((5,), s)).values.numpy() for s in (0, 1)]
        mean = model.encode(x, c).mean.double().numpy()
    each = [np.linalg.norm(mean[:, None] - own["codes"][s::2].double().numpy(), axis=2) for s in (0, 1)]
    far = [np.sort(one, axis=1)[:, :2].mean(1) for one in each]
    np.testing.assert_allclose(found[0] - found[1], model.latent_dim * np.log(far[0] / far[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("counts", "strata"), [((30, 9), 2), ((30, 30), 3), ((30, 30), 0)])
def test_where_a_condition_has_too_few_codes_or_no_group_of_its_own_it_is_the_prior(
    counts: tuple[int, int], strata: int
) -> None:
    of = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    model = vae("separated")
    state = {"codes": torch.randn(len(of), model.latent_dim), "code_stratum": of}
    assert isinstance(energy_of(model, Neighbours().build(), state, strata=strata)[0], PriorDensity)


def test_of_another_model_it_is_its_score_where_that_is_a_likelihood() -> None:
    model, likelihood, other = Model(), Elbo().build(), Neighbours().build()
    assert condition_density(model, likelihood, {}) == (likelihood, {})
    assert condition_density(model, other, {}) is None


def vae(prior: Any) -> ConditionalVAE:
    return resolve(VAEOptions(prior=prior), "standard", (4,)).build((4,), 2, 0)


def energy_of(model: Model, score: Score, state: State | None = None, strata: int = 0) -> tuple[Score, State]:
    found = condition_density(model, score, state or {}, strata)
    assert found is not None
    return found
