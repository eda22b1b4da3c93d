"""CorEx: learned marginals against their closed form, the VAE as limit, and its bound on total correlation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import CVAE, MLP, VAE, Bernoulli, CorEx, Options, TrainingOptions
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source, train


def evaluate(options: Options, prior: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], ConditionalVAE]:
    model = toy_model(condition_dim=0, prior=prior)
    batch = toy_batch(model)
    losses, terms = options.build().loss(model, batch, toy_context(batch))
    return losses["model"], terms, gradients(losses["model"], model), model


def test_the_marginals_are_the_models_learned_prior() -> None:
    """There every score that needs a prior finds them, and they are saved with the model."""
    objective = CorEx().build()
    assert objective.prior == "learned"
    assert not objective.conditional
    model = toy_model(condition_dim=0, prior=objective.prior)
    assert any(p is model.prior_bias for p in objective.players(model)["model"])
    assert "prior_bias" in model.state_dict()


def test_kl_to_the_marginals_worked_by_hand() -> None:
    _, terms, _, model = evaluate(CorEx(), "learned")
    q = model.encode(toy_batch(model).x)
    assert model.prior_bias is not None
    m, log_v = model.prior_bias.chunk(2)
    expected = 0.5 * ((q.log_var - log_v).exp() + (q.mean - m).square() / log_v.exp() - 1 - q.log_var + log_v)
    torch.testing.assert_close(terms["kl"], expected.sum(1))


def test_gradient_of_the_marginals_vanishes_at_the_moments_of_the_codes() -> None:
    """The best normal r_j has the mean and the variance of z_j over the data; anything else is pulled there."""
    model = toy_model(condition_dim=0, prior="learned")
    batch = toy_batch(model)
    assert model.prior_bias is not None
    with torch.no_grad():
        q = model.encode(batch.x)
        variance = q.mean.var(0, correction=0) + q.log_var.exp().mean(0)
        best = torch.cat((q.mean.mean(0), variance.log()))
    slopes = {}
    for shift in (-0.1, 0.0, 0.1):
        with torch.no_grad():
            model.prior_bias.copy_(best + shift)
        losses, _ = CorEx().build().loss(model, batch, toy_context(batch))
        (slopes[shift],) = torch.autograd.grad(losses["model"], [model.prior_bias])
    assert slopes[0.0].abs().max() < 1e-12
    assert (slopes[0.1] > 1e-3).all()
    assert (slopes[-0.1] < -1e-3).all()


def test_limit_marginals_fixed_at_the_standard_normal_is_the_vae_in_loss_and_gradient() -> None:
    loss, _, slopes, _ = evaluate(VAE(), "standard")
    same, _, same_slopes, _ = evaluate(CorEx(), "standard")
    assert torch.equal(loss, same)
    assert greatest_difference(slopes, same_slopes) == 0


def test_limit_no_condition_is_the_cvae_with_a_learned_prior() -> None:
    loss, _, slopes, _ = evaluate(CVAE(), "learned")
    same, _, same_slopes, _ = evaluate(CorEx(), "learned")
    assert torch.equal(loss, same)
    assert greatest_difference(slopes, same_slopes) == 0


def test_away_from_the_limit_loss_and_gradient_differ_from_the_vae() -> None:
    loss, _, slopes, standard = evaluate(VAE(), "standard")
    learned = toy_model(condition_dim=0, prior="learned")
    learned.load_state_dict(standard.state_dict(), strict=False)
    batch = toy_batch(learned)
    losses, _ = CorEx().build().loss(learned, batch, toy_context(batch))
    found = {name: slope for name, slope in gradients(losses["model"], learned).items() if name in slopes}
    assert abs(losses["model"].item() - loss.item()) > 1e-3
    assert greatest_difference(slopes, found) > 1e-3


# The bound ----------------------------------------------------------------------------------------------------------

PATTERNS = torch.tensor([[a, a, b, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
TC = 2 * math.log(2)  # four bits of one bit's entropy each, two bits together


def bound(model: ConditionalVAE) -> float:
    """Σ_i H(x_i) minus the loss, over all patterns and 500 draws of z each, in nats."""
    x = PATTERNS.to(next(model.parameters()).dtype).repeat(500, 1)
    n = len(x)
    batch = Batch(x, None, torch.zeros(n, dtype=torch.int64), torch.zeros(n), torch.arange(n))
    with torch.no_grad():
        losses, _ = CorEx().build().loss(model, batch, toy_context(batch))
    return 4 * math.log(2) - losses["model"].item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_holds_for_any_model_and_comes_near_tc_in_training(seed: int) -> None:
    """Two pairs of equal bits: Σ_i H(x_i) − loss ≤ TC(x) = 2 log 2, whatever encoder, decoder and marginals.

    Normal marginals of codes in two clumps keep it from being reached.
    """
    for jitter in (0.0, 0.5, 1.0):
        anything = toy_model(
            (4,), condition_dim=0, latent_dim=2, likelihood=Bernoulli(), prior="learned", seed=seed, jitter=jitter
        )
        assert bound(anything) < TC
    model = toy_model(
        (4,), condition_dim=0, latent_dim=2, net=MLP(hidden=(32,)), likelihood=Bernoulli(), prior="learned",
        seed=seed, dtype=torch.float32, jitter=0,
    )  # fmt: skip
    options = TrainingOptions(batch_size=64, epochs=300, lr=0.01, ema=None, precision="float32")
    train(model, CorEx().build(), Source(PATTERNS.repeat(16, 1)), None, options, seed=seed, device="cpu")
    assert 0.6 * TC < bound(model) < TC
