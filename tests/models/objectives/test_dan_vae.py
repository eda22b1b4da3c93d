"""DAn-VAE: its terms by hand, the VAE as limit, who learns from whom, and brightness that ends up where it belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from benchmarks.factor_metrics import linear_probe
from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model
from knowngood.config import DANVAE, MLP, VAE, Gaussian, Options, Shift, TrainingOptions, VAEOptions, parse
from knowngood.data import ImageSet
from knowngood.data.factor_targets import Standardised, targets
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.dan_vae import DANVAEObjective
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source, train

SPEED = 10  # a factor of what the affine maps of y and z_n learn

LATENT, NUISANCE, FACTORS = 5, 2, 3
TWO: Any = {"nuisance_dim": NUISANCE, "factors": ("a", "b", "c")}
NAN = float("nan")


def split_model(**given: Any) -> ConditionalVAE:
    model = toy_model(**{"condition_dim": 0, "latent_dim": LATENT, **given})
    model.nuisance_dim = NUISANCE
    return model


def moved(options: DANVAE, model: ConditionalVAE) -> DANVAEObjective:
    """The objective with its own parameters away from where they start."""
    objective = prepared(options, model)
    assert isinstance(objective, DANVAEObjective)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in objective.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return objective


def factors(n: int, known: slice = slice(None), width: int = FACTORS) -> Tensor:
    """(n, K) standard normal, NaN but for the rows that are known."""
    y = torch.randn(n, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shown = torch.full_like(y, NAN)
    shown[known] = y[known]
    return shown


def evaluate(options: Options, y: Tensor | None = None, **given: Any) -> Any:
    """(loss, terms, model, objective) on the same model, batch and draws for all options."""
    model = split_model(**given)
    objective = moved(options, model) if isinstance(options, DANVAE) else prepared(options, model)
    batch = toy_batch(model)
    batch.factors = y
    losses, terms = objective.loss(model, batch, toy_context(batch))
    return losses["model"], terms, model, objective


def drawn(model: ConditionalVAE, batch: Batch) -> tuple[DiagonalGaussian, Tensor, Tensor]:
    """Posterior, z and −log p(x|z) with the draws of `toy_context`."""
    q = model.encode(batch.x, batch.c)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(2)))
    return q, z, -model.likelihood.log_prob(batch.x, model.decode(z, batch.c)).flatten(1).sum(1)


def kl_to(q: DiagonalGaussian, dims: slice, mean: Tensor | float, log_var: Tensor | float) -> Tensor:
    """KL of these dimensions to a normal distribution, by the library."""
    other = Normal(torch.as_tensor(mean).double(), torch.as_tensor(log_var).double().mul(0.5).exp())
    return kl_divergence(Normal(q.mean[:, dims], (0.5 * q.log_var[:, dims]).exp()), other).sum(1)


def of_nuisance_by_hand(objective: DANVAEObjective, q: DiagonalGaussian, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q(z_n|x) ‖ N(W y + b, exp s)) and |y − V z_n − d|² of rows that are all known."""
    w, b = (SPEED * p for p in (objective.nuisance_mean.weight, objective.nuisance_mean.bias))
    v, d = (SPEED * p for p in (objective.head.weight, objective.head.bias))
    kl = kl_to(q, slice(3, 5), torch.einsum("nk,bk->bn", w, y) + b, SPEED * objective.nuisance_log_var)
    return kl, (torch.einsum("kn,bn->bk", v, z[:, 3:]) + d - y).pow(2).sum(1)


# Its parts ------------------------------------------------------------------------------------------------------------


def test_density_terms_of_labelled_items_by_hand() -> None:
    y = factors(40)
    loss, terms, model, objective = evaluate(DANVAE(**TWO, beta_a=0.7, beta_n=2.5, head_weight=13), y)
    q, z, reconstruction = drawn(model, toy_batch(model))
    kl, error = of_nuisance_by_hand(objective, q, z, y)
    anomaly_kl = kl_to(q, slice(3), 0.0, 0.0)
    expected = {"reconstruction": reconstruction, "anomaly_kl": anomaly_kl, "nuisance_kl": kl, "factor_error": error}
    for name, values in {**expected, "kl": anomaly_kl + kl}.items():
        torch.testing.assert_close(terms[name], values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, (reconstruction + 0.7 * anomaly_kl + 2.5 * kl + 13 * error).mean())


def test_density_terms_of_items_without_factors_have_the_standard_prior_and_no_head_term() -> None:
    loss, terms, model, _ = evaluate(DANVAE(**TWO, beta_a=0.7, beta_n=2.5, head_weight=13))
    q, _, reconstruction = drawn(model, toy_batch(model))
    anomaly_kl, kl = kl_to(q, slice(3), 0.0, 0.0), kl_to(q, slice(3, 5), 0.0, 0.0)
    torch.testing.assert_close(terms["nuisance_kl"], kl, rtol=1e-9, atol=1e-9)
    assert not terms["factor_error"].any()
    torch.testing.assert_close(loss, (reconstruction + 0.7 * anomaly_kl + 2.5 * kl).mean())


def test_each_item_counts_as_what_it_is() -> None:
    y = factors(40, known=slice(0, 15))
    _, mixed, _, _ = evaluate(DANVAE(**TWO), y)
    _, shown, _, _ = evaluate(DANVAE(**TWO), factors(40))
    _, unlabelled, _, _ = evaluate(DANVAE(**TWO))
    for name, values in mixed.items():
        assert torch.equal(values[:15], shown[name][:15])
        assert torch.equal(values[15:], unlabelled[name][15:])


def test_a_row_with_one_unknown_factor_is_unknown() -> None:
    part, none = factors(40, known=slice(0, 20)), factors(40, known=slice(0, 10))
    part[10:20, 1] = NAN
    (loss, _, model, objective), (same, _, same_model, same_objective) = (
        evaluate(DANVAE(**TWO), y) for y in (part, none)
    )
    assert torch.equal(loss, same)
    assert greatest_difference(gradients(loss, model), gradients(same, same_model)) == 0
    assert greatest_difference(gradients(loss, objective), gradients(same, same_objective)) == 0


def test_it_starts_at_the_standard_prior_and_a_head_that_knows_nothing() -> None:
    model, y = split_model(), factors(40)
    batch = toy_batch(model)
    batch.factors = y
    objective = prepared(DANVAE(**TWO), model)
    _, terms = objective.loss(model, batch, toy_context(batch))
    _, unlabelled, _, _ = evaluate(DANVAE(**TWO))
    torch.testing.assert_close(terms["nuisance_kl"], unlabelled["nuisance_kl"])
    torch.testing.assert_close(terms["factor_error"], y.square().sum(1))


@pytest.mark.parametrize(
    ("shape", "share", "weight"), [((3, 20, 10), 1, 150), ((3, 20, 10), 0.5, 300), ((6,), 1, 10), ((6,), 0.1, 100)]
)
def test_head_weight_grows_with_the_values_of_an_item_and_makes_up_for_few_labels(
    shape: tuple[int, ...], share: float, weight: float
) -> None:
    model = split_model(shape=shape)
    assert moved(DANVAE(**TWO, labelled_share=share), model).head_weight == pytest.approx(weight)
    assert moved(DANVAE(**TWO, labelled_share=share, head_weight=7), model).head_weight == 7


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [None, "all"])
@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_limit_without_labels_and_with_beta_one_is_the_vae_in_loss_and_gradient(unknown: Any, prior: str) -> None:
    y = None if unknown is None else factors(40, known=slice(0, 0))
    theirs, theirs_terms, model, _ = evaluate(VAE(), prior=prior)
    ours, terms, same_model, objective = evaluate(DANVAE(**TWO, beta_n=1), y, prior=prior)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert greatest_difference(gradients(theirs, model), gradients(ours, same_model)) < 1e-12
    assert not any(slope.any() for slope in gradients(ours, objective).values())
    torch.testing.assert_close(terms["kl"], theirs_terms["kl"])


def test_limit_of_a_shift_of_zero_is_the_loss_of_a_normal_item_but_for_the_decoder() -> None:
    model, y = split_model(), factors(40, known=slice(0, 20))
    objective = moved(DANVAE(**TWO), model)
    batch = toy_batch(model)
    batch.factors = y
    of_normal = objective.loss(model, batch, toy_context(batch))[0]["model"]
    of_anomaly = objective.anomaly_loss(model, batch, toy_context(batch), 0.0)
    assert of_anomaly.item() == pytest.approx(of_normal.item(), rel=1e-12)
    theirs, ours = gradients(of_normal, model), gradients(of_anomaly, model)
    for name in theirs:
        assert torch.allclose(theirs[name], ours[name]) == name.startswith("net.encoder"), name


@pytest.mark.parametrize(
    ("given", "labelled"), [({"beta_n": 1}, True), ({"beta_n": 3}, False), ({"beta_n": 1, "beta_a": 2}, False)]
)
def test_away_from_the_limit_loss_and_gradient_differ_from_the_vae(given: Any, labelled: bool) -> None:
    theirs, _, model, _ = evaluate(VAE())
    ours, _, same_model, _ = evaluate(DANVAE(**TWO, **given), factors(40, known=slice(0, 5)) if labelled else None)
    assert abs(ours.item() - theirs.item()) > 1e-3
    assert greatest_difference(gradients(theirs, model), gradients(ours, same_model)) > 1e-3


# Gradient -------------------------------------------------------------------------------------------------------------


def test_head_and_nuisance_prior_get_gradient_from_labelled_items_only() -> None:
    model, y = split_model(), factors(40, known=slice(0, 15))
    objective = moved(DANVAE(**TWO), model)

    def slopes(rows: slice) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of the objective's own parameters and of the model, after the items of `rows` were changed."""
        batch = toy_batch(model)
        batch.factors, batch.x[rows] = y, batch.x[rows] + 0.5
        loss = objective.loss(model, batch, toy_context(batch))[0]["model"]
        return gradients(loss, objective), gradients(loss, model)

    (own, shared), (own_unlabelled, shared_unlabelled) = slopes(slice(0, 0)), slopes(slice(15, 40))
    assert all(slope.any() for slope in own.values())
    assert greatest_difference(own, own_unlabelled) < 1e-12
    assert greatest_difference(shared, shared_unlabelled) > 1e-3
    own_labelled, _ = slopes(slice(0, 15))
    assert all((own[name] - own_labelled[name]).abs().max() > 1e-6 for name in own)
    assert all(slope.isfinite().all() for slope in (own | shared).values())


def test_gradient_of_the_head_reaches_the_nuisance_dimensions_alone() -> None:
    _, terms, model, objective = evaluate(DANVAE(**TWO), factors(40))
    slopes = gradients(terms["factor_error"].mean(), model)
    into_codes = slopes["net.encoder.2.bias"]  # (2·D,): means, then log variances
    assert into_codes.reshape(2, LATENT).abs().gt(1e-9).tolist() == [[False] * 3 + [True] * 2] * 2
    assert not any(slope.any() for name, slope in slopes.items() if not name.startswith("net.encoder"))
    assert not gradients(terms["factor_error"].mean(), objective)["nuisance_log_var"].any()


def test_gradient_of_anomalies_reaches_the_encoder_and_neither_decoder_nor_likelihood() -> None:
    model, y = split_model(), factors(40, known=slice(0, 20))
    objective, batch = moved(DANVAE(**TWO), model), toy_batch(model)
    batch.factors = y
    loss = objective.anomaly_loss(model, batch, toy_context(batch), 10)
    for name, slope in gradients(loss, model).items():
        assert bool(slope.any()) == name.startswith("net.encoder"), name
    assert all(slope.any() for slope in gradients(loss, objective).values())
    assert {name.split(".")[1] for name, _ in model.named_parameters()} == {"encoder", "decoder", "raw"}


class Step(nn.Module):
    """A loss as a function of all parameters, with the same draws at every call."""

    def __init__(self, model: ConditionalVAE, objective: DANVAEObjective, batch: Batch, of: str) -> None:
        super().__init__()
        self.model, self.objective, self.batch, self.of = model, objective, batch, of

    def forward(self) -> Tensor:
        ctx = toy_context(self.batch)
        if self.of == "loss":
            return self.objective.loss(self.model, self.batch, ctx)[0]["model"]
        return self.objective.anomaly_loss(self.model, self.batch, ctx, 10)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["loss", "anomaly_loss"])
def test_gradient_is_right_by_finite_differences(of: str) -> None:
    model = toy_model((3,), latent_dim=3, condition_dim=0, net=MLP(hidden=(2,)))
    model.nuisance_dim = 2
    objective = moved(DANVAE(**TWO, head_weight=2), model)
    batch = toy_batch(model, n=4)
    batch.factors = factors(4, known=slice(0, 2))
    step = Step(model, objective, batch, of)
    stopped = ("model.net.decoder", "model.likelihood") if of == "anomaly_loss" else ()
    names, values = zip(*((k, v) for k, v in step.named_parameters() if not k.startswith(stopped)), strict=True)

    def function(*given: Tensor) -> Tensor:
        return torch.func.functional_call(step, dict(zip(names, given, strict=True)), ())

    assert torch.autograd.gradcheck(function, [v.detach().clone().requires_grad_() for v in values])


# Labelled anomalies ---------------------------------------------------------------------------------------------------


def test_density_terms_of_labelled_anomalies_by_hand() -> None:
    model, y = split_model(), factors(40, known=slice(0, 25))
    objective, batch = moved(DANVAE(**TWO, beta_a=0.7, beta_n=2.5, head_weight=13), model), toy_batch(model)
    batch.factors = y
    q, z, reconstruction = drawn(model, batch)
    shown, error = of_nuisance_by_hand(objective, q, z, y.nan_to_num())
    known = torch.arange(40) < 25
    nuisance = 2.5 * torch.where(known, shown, kl_to(q, slice(3, 5), 0.0, 0.0)) + 13 * torch.where(known, error, 0)
    expected = reconstruction + 0.7 * kl_to(q, slice(3), 4.0, 0.0) + nuisance
    found = objective.anomaly_loss(model, batch, toy_context(batch), 4.0)
    assert found.shape == ()
    torch.testing.assert_close(found, expected.mean())


def test_anomalies_come_in_after_the_warm_up() -> None:
    model = split_model()
    objective = moved(DANVAE(**TWO), model)
    batch, anomalies = toy_batch(model), toy_batch(model, n=8, seed=5)
    assert objective.learns_from_anomalies
    assert Shift() == Shift(shift=10, warmup=0.25)
    objective.penalties.append(Shift().build())
    for step in (0, 24, 25, 99):
        ctx = toy_context(batch, step=step)
        ctx.anomalies = anomalies
        found = objective.training_loss(model, batch, ctx)[0]["model"]
        ctx = toy_context(batch, step=step)
        expected = objective.loss(model, batch, ctx)[0]["model"]
        if step >= 25:
            expected = expected + objective.anomaly_loss(model, anomalies, ctx, 10)
        torch.testing.assert_close(found, expected)


# In use ---------------------------------------------------------------------------------------------------------------


def test_a_model_with_another_split_is_refused() -> None:
    model = toy_model(condition_dim=0)
    with pytest.raises(SettingsError, match=r"keeps 0 of its 3 dimensions .*the objective 2; build .*nuisance_dim=2"):
        prepared(DANVAE(**TWO), model)


def test_no_factors_at_all_are_refused() -> None:
    with pytest.raises(SettingsError, match="factors"):
        parse(VAEOptions, {"objective": {"name": "dan_vae", "factors": []}})


def test_an_axis_is_two_numbers_and_a_width_that_was_set_counts() -> None:
    assert DANVAE(factors=("brightness", "rotation")).build().factor_width == 3
    objective, model = DANVAE(**TWO).build(), split_model()
    objective.factor_width = 6  # a text column of four values, say
    objective.prepare(model)
    head = objective.head
    objective.prepare(model)
    assert objective.head is head
    assert head.weight.shape == (6, NUISANCE)
    assert objective.nuisance_mean.weight.shape == (NUISANCE, 6)


def test_one_player_trains_the_model_and_the_objectives_own_parameters() -> None:
    _, _, model, objective = evaluate(DANVAE(**TWO))
    players = objective.players(model)
    assert players.keys() == {"model"}
    every = [*model.parameters(), *objective.parameters()]
    assert sorted(map(id, players["model"])) == sorted(map(id, every))
    assert objective.kept_state().keys() == dict(objective.named_parameters()).keys()


def test_the_terms_of_z_n_keep_their_precision_in_bf16() -> None:
    model = split_model(dtype=torch.float32)
    objective, batch = moved(DANVAE(**TWO), model), toy_batch(model)
    batch.factors = factors(40)
    with torch.no_grad():
        q = model.encode(batch.x)
        exact = objective.nuisance_terms(model, batch, q, q.mean)
        with torch.autocast("cpu", torch.bfloat16):
            half = objective.nuisance_terms(model, batch, q, q.mean)
    assert all(torch.equal(*pair) for pair in zip(exact, half, strict=True))


# Training -------------------------------------------------------------------------------------------------------------

SIDE, N = 12, 1000


def lit_spots() -> Tensor:
    """(N, 1, 12, 12): a spot anywhere on a grey ground, under an illumination from .4 to 1, with noise .02."""
    generator = torch.Generator().manual_seed(0)
    at, (y, x) = torch.arange(SIDE), 3 + 5 * torch.rand(2, N, 1, 1, generator=generator)
    spot = torch.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / 4)
    illumination = 0.4 + 0.6 * torch.rand(N, 1, 1, generator=generator)
    images = illumination * (0.3 + 0.7 * spot) + 0.02 * torch.randn(N, SIDE, SIDE, generator=generator)
    return images.clamp(0, 1)[:, None]


def brightness_read_from(options: Options, seed: int) -> tuple[float, float]:
    """R² of a linear probe for the measured brightness, from the one dimension of z_n and from the two of z_a.

    It reads draws: the mean of a dimension that carries next to nothing can still follow the illumination a little.
    There are as many dimensions as things that vary; a spare one would keep some of it for thousands of steps.
    """
    x = lit_spots()
    y = targets(ImageSet.from_arrays(x), ("brightness",))
    assert y is not None
    y = (y - y.mean(0)) / y.std(0)
    model = toy_model(
        (1, SIDE, SIDE), latent_dim=3, condition_dim=0, net=MLP(hidden=(64,)), seed=seed, dtype=torch.float32, jitter=0
    )
    model.nuisance_dim = 1
    given: Any = {"batch_size": 64, "epochs": 40, "lr": 0.003, "ema": None, "precision": "float32"}
    train(model, options.build(), Source(x, factors=y), None, TrainingOptions(**given), seed=seed, device="cpu")
    with torch.no_grad():
        q = model.encode(x)
    z = q.rsample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(0))).double().numpy()
    of_nuisance, of_anomaly = (
        float(linear_probe(z[:, dims], y).factors_from_codes[0]) for dims in (slice(2, 3), slice(2))
    )
    return of_nuisance, of_anomaly


@pytest.mark.slow
def test_trained_dan_vae_holds_brightness_in_z_n_and_not_in_z_a() -> None:
    seed = 0
    of_nuisance, of_anomaly = brightness_read_from(DANVAE(nuisance_dim=1), seed)
    assert of_nuisance > 0.9
    assert of_anomaly < 0.3


@pytest.mark.slow
def test_trained_vae_has_no_dimension_of_its_own_for_brightness() -> None:
    of_last, of_others = brightness_read_from(VAE(), 0)
    assert max(of_last, of_others) < 0.9


# As its source has it -------------------------------------------------------------------------------------------------

SOURCE = DANVAE(**TWO, variant="source", beta_a=0.7, beta_n=2.5, head_weight=13)


def in_source_form(y: Tensor | None, step: int = 25) -> tuple[Tensor, Tensor, ConditionalVAE, Any, Batch]:
    """Loss and −ELBO's reconstruction (B,) at a step of 100, with the model, the objective and the batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = VAEOptions(net=MLP(hidden=(8,)), latent_dim=LATENT, likelihood=Gaussian(), prior="standard")
        model = ConditionalVAE(options, (6,), 0, NUISANCE, apart=True).double()
    objective = moved(SOURCE, model)
    batch = toy_batch(model)
    batch.factors = y
    losses, terms = objective.loss(model, batch, toy_context(batch, step=step))
    return losses["model"], terms["reconstruction"], model, objective, batch


def by_hand(model: ConditionalVAE, objective: Any, batch: Batch, risen: float, mean: float) -> Tensor:
    """The source's loss with the prior N(mean·1, I) on z_a, item by item."""
    q, z, reconstruction = drawn(model, batch)
    cost = reconstruction.mean() + risen * 0.7 * kl_to(q, slice(3), mean, 0.0).mean()
    known = torch.zeros(40, dtype=torch.bool) if batch.factors is None else ~batch.factors.isnan().any(1)
    kl = kl_to(q, slice(3, 5), 0.0, 0.0)
    if known.any():
        y = batch.factors[known]  # type: ignore[index]
        h = (y @ objective.hidden.weight.T + objective.hidden.bias).clamp(min=0)
        centre, spread = (
            h @ layer.weight.T + layer.bias for layer in (objective.nuisance_mean, objective.nuisance_spread)
        )
        own = DiagonalGaussian(q.mean[known], q.log_var[known])
        kl = torch.cat([kl_to(own, slice(3, 5), centre, spread), kl[~known]])
        guess = torch.sigmoid(z[known, 3:].clamp(min=0) @ objective.head.weight.T + objective.head.bias)
        cost = cost + 13 * len(y) / 40 * (guess - y).square().mean().sqrt()
    return cost + risen * 2.5 * kl.mean()


@pytest.mark.parametrize(("step", "risen"), [(0, 0.04), (11, 0.48), (24, 1), (99, 1)])
@pytest.mark.parametrize("known", [0, 15, 40])
def test_density_terms_of_the_source_by_hand(known: int, step: int, risen: float) -> None:
    loss, _, model, objective, batch = in_source_form(factors(40, known=slice(0, known)).sigmoid(), step)
    torch.testing.assert_close(loss, by_hand(model, objective, batch, risen, 0.0))
    of_anomalies = objective.anomaly_loss(model, batch, toy_context(batch, step=step), 10)
    torch.testing.assert_close(of_anomalies, by_hand(model, objective, batch, risen, 10.0))


def test_the_variance_of_the_sources_nuisance_prior_depends_on_the_factors() -> None:
    *_, objective, _ = in_source_form(factors(40).sigmoid())
    spread = objective.nuisance_prior(torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.1, 0.2]]).double()).log_var
    assert (spread[0] - spread[1]).abs().max() > 1e-3
    fresh = prepared(SOURCE, in_source_form(None)[2])
    assert not any(part.any() for part in fresh.nuisance_prior(torch.rand(4, 3).double()))  # type: ignore[operator]


def test_gradient_of_each_part_of_the_sources_latent_reaches_its_own_encoder_alone() -> None:
    loss, _, model, objective, batch = in_source_form(factors(40).sigmoid())
    q = model.encode(batch.x)
    assert q.mean.shape == (40, LATENT)
    for part, dims in enumerate((slice(3), slice(3, 5))):
        slopes = gradients(q.mean[:, dims].sum() + q.log_var[:, dims].sum(), model)
        assert {name.split(".")[1] for name, slope in slopes.items() if slope.any()} == {str(part)}
    every = {**gradients(loss, model), **gradients(loss, objective)}
    assert all(slope.isfinite().all() and slope.any() for slope in every.values())


def test_gradient_is_finite_where_the_source_guesses_exactly_or_no_item_is_labelled() -> None:
    for y in (torch.full((40, 3), 0.5).double(), factors(40, known=slice(0, 0))):
        *_, model, objective, batch = in_source_form(None)
        batch.factors = y
        with torch.no_grad():
            objective.head.weight.zero_()
            objective.head.bias.zero_()
        loss = objective.loss(model, batch, toy_context(batch))[0]["model"]
        assert all(slope.isfinite().all() for slope in (gradients(loss, model) | gradients(loss, objective)).values())


def test_limit_of_the_source_without_factors_and_with_weights_of_one_is_the_vae() -> None:
    *_, model, _, batch = in_source_form(None)
    objective = prepared(SOURCE.model_copy(update={"beta_a": 1.0, "beta_n": 1.0}), model)
    context = {"step": 50}
    ours = objective.loss(model, batch, toy_context(batch, **context))[0]["model"]
    theirs = VAE().build().loss(model, batch, toy_context(batch, **context))[0]["model"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert greatest_difference(gradients(theirs, model), gradients(ours, model)) < 1e-12


@pytest.mark.parametrize(("share", "weight"), [(1, 3500), (0.5, 7000)])
def test_the_sources_head_weight_is_3500_over_the_labelled_share(share: float, weight: float) -> None:
    *_, model, _, _ = in_source_form(None)
    options = DANVAE(**TWO, variant="source", labelled_share=share)
    assert prepared(options, model).head_weight == weight


def test_a_model_with_two_encoders_is_built_again_from_its_sizes() -> None:
    *_, model, _, batch = in_source_form(None)
    again = model.options.build(**model.sizes()).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(batch.x).mean, model.encode(batch.x).mean)
    assert not [name for name in model.state_dict() if name.startswith("net.encoder") or ".decoder." in name[4:]]


def test_factors_of_the_source_lie_in_0_to_1() -> None:
    rows = np.array([[0.2, 10, 3], [0.8, 30, 3], [np.nan, 20, 3]])
    scaled = Standardised.within_unit(rows)
    assert scaled(rows) == pytest.approx(np.array([[0.2, 0, 0], [0.8, 1, 0], [np.nan, 0.5, 0]]), nan_ok=True)
    with pytest.raises(DataError, match="unknown for every training item"):
        Standardised.within_unit(np.full((3, 1), np.nan))
