"""Class-conditional priors, the latent that separates conditions, and the distance to the nearest prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model, vae
from knowngood.config import CVAE, DCVAE, PriorDistance
from knowngood.errors import SettingsError
from knowngood.models.objectives.penalties import ClassAware
from knowngood.models.vae import ConditionalVAE, spread_directions

EYE = torch.eye(2, dtype=torch.float64)


def aware(weight: float = 3.0, shares: tuple[float, ...] = (0.25, 0.75)) -> ClassAware:
    return ClassAware(weight, torch.eye(2), torch.tensor(shares).log()).double()


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "count"), [(5, 3), (4, 4), (32, 10)])
def test_directions_are_orthonormal_where_there_is_room(dims: int, count: int) -> None:
    found = spread_directions(dims, count)
    torch.testing.assert_close(found.t() @ found, torch.eye(count), atol=1e-5, rtol=0)
    assert spread_directions(dims, count).equal(found)


def test_directions_are_unit_vectors_and_differ_where_there_is_none() -> None:
    found = spread_directions(3, 20)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(20))
    assert torch.pdist(found.t()).min() > 0.05


def test_density_separated_priors_are_unit_normals_as_far_apart_as_asked() -> None:
    model = vae((6,), 5, 3, prior="separated", separation=12.0)
    prior = model.prior(torch.eye(3), like=torch.eye(3))
    torch.testing.assert_close(torch.pdist(prior.mean), torch.full((3,), 12.0))
    assert not prior.log_var.any()
    assert not any(name.startswith("prior") for name, _ in model.named_parameters())
    assert {"prior_weight", "prior_bias"} <= model.state_dict().keys()


def test_encoder_is_blind_to_conditions_with_separated_priors_only_and_the_decoder_is_not() -> None:
    for prior, blind in (("separated", True), ("learned", False)):
        model = toy_model(prior=prior)
        x = toy_batch(model).x
        first, second = (torch.eye(2, dtype=torch.float64)[[k]].expand(len(x), -1) for k in (0, 1))
        assert model.encode(x, first).mean.equal(model.encode(x, second).mean) == blind
        z = model.encode(x, first).mean
        assert not model.decode(z, first).equal(model.decode(z, second))


def test_separated_priors_need_conditions() -> None:
    with pytest.raises(SettingsError, match="prior = 'separated' needs conditions"):
        toy_model(prior="separated", condition_dim=0)


def test_density_class_posterior_is_bayes_rule_over_the_priors() -> None:
    model = toy_model(prior="learned")
    z = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = model.prior(EYE, like=EYE)
    weights = []
    for k, share in enumerate((0.25, 0.75)):
        normal = torch.distributions.Normal(prior.mean[k], (0.5 * prior.log_var[k]).exp())
        weights.append(share * normal.log_prob(z).sum(1).exp())
    for k in (0, 1):
        found = aware().log_posterior(model, z, EYE[[k]].expand(7, -1))
        torch.testing.assert_close(found.exp(), weights[k] / sum(weights))


def evaluated(objective: Any, model: ConditionalVAE) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    batch = toy_batch(model)
    losses, terms = objective.training_loss(model, batch, toy_context(batch))
    return losses["model"], terms, gradients(losses["model"], model)


@pytest.mark.parametrize("base", [CVAE(), DCVAE(beta=3)], ids=["cvae", "dcvae"])
def test_limit_weight_zero_is_the_objective_and_away_from_it_loss_and_gradient_differ(base: Any) -> None:
    model = toy_model(prior="learned")
    plain, terms, slopes = evaluated(prepared(base, model), model)
    for weight, same in ((0.0, True), (2.0, False)):
        objective = prepared(base, model)
        objective.penalties.append(aware(weight, (0.5, 0.5)))
        loss, more, found = evaluated(objective, model)
        assert loss.item() == pytest.approx((plain + weight * more["class_error"].mean()).item(), rel=1e-12)
        assert (greatest_difference(found, slopes) < 1e-12) == same
        assert terms.keys() < more.keys()
        assert (more["class_error"] > 0).all()


def test_gradient_of_the_class_error_reaches_encoder_and_prior_and_not_the_decoder() -> None:
    model = toy_model(prior="learned")
    objective = CVAE().build()
    objective.penalties.append(aware())
    _, terms, _ = evaluated(objective, model)
    found = torch.autograd.grad(terms["class_error"].mean(), list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None and g.any()}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(("net.encoder", "prior"))}


def test_gradcheck_of_the_class_posterior() -> None:
    model = toy_model(prior="learned")
    z = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    objective = aware()
    assert torch.autograd.gradcheck(lambda z: objective.log_posterior(model, z, EYE[[0, 1, 1]]), (z,))


def test_density_prior_distance_is_half_the_mahalanobis_distance_of_the_mean() -> None:
    model = toy_model(prior="learned").eval()
    batch = toy_batch(model)
    with torch.no_grad():
        found = PriorDistance().build().score(model, {}, batch.x, batch.c, batch.stratum).values
        mean, prior = model.encode(batch.x, batch.c).mean, model.prior(batch.c, like=batch.x)
    for i in range(len(found)):
        spread = torch.diag(prior.log_var[i].exp())
        shift = mean[i] - prior.mean[i]
        expected = 0.5 * shift @ torch.cholesky_solve(shift[:, None], torch.linalg.cholesky(spread)).squeeze(1)
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-9)
