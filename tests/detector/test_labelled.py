"""Labelled anomalies beside any objective: what they cost, whom they move, and when."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood import Detector
from knowngood.cli import main
from knowngood.config import (
    CVAE,
    VAE,
    FactorVAE,
    Gaussian,
    Hinge,
    Options,
    Reciprocal,
    Shift,
    StridedBatchNorm,
    choices,
)
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc
from knowngood.models.objectives import Batch, Context
from knowngood.models.objectives.base import elbo_terms, stopped_reconstruction
from knowngood.models.objectives.labelled import Labelled, under_known_conditions
from knowngood.models.vae import ConditionalVAE, DiagonalGaussian

TERMS: dict[str, Any] = {"hinge": Hinge(warmup=0), "reciprocal": Reciprocal(warmup=0), "shift": Shift(warmup=0)}
every_term = pytest.mark.parametrize("options", TERMS.values(), ids=TERMS)


def made(options: Any, base: Options | None = None) -> tuple[ConditionalVAE, Labelled]:
    model = toy_model()
    objective = options.build((base or CVAE()).build())
    objective.prepare(model)
    return model, objective


def losses(objective: Any, model: ConditionalVAE, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
    found, terms = objective.loss(model, toy_batch(model), ctx)
    return found["model"], terms


def context(model: ConditionalVAE, anomalies: Batch | None, step: int = 99) -> Context:
    return replace(toy_context(toy_batch(model), step=step), anomalies=anomalies)


def odd(model: ConditionalVAE, n: int = 5) -> Batch:
    batch = toy_batch(model, n=n, seed=5)
    return replace(batch, x=batch.x + 3, label=torch.ones(n))


@every_term
@pytest.mark.parametrize(("anomalies", "step"), [(False, 99), (True, 24)], ids=["no labels", "warm-up"])
def test_limit_without_labelled_anomalies_it_is_the_objective(options: Any, anomalies: bool, step: int) -> None:
    model, objective = made(options.model_copy(update={"warmup": 0.25}))
    ctx = context(model, odd(model) if anomalies else None, step)
    expected, _ = losses(CVAE().build(), model, context(model, None, step))
    loss, terms = losses(objective, model, ctx)
    assert loss.equal(expected)
    assert "labelled" not in terms
    assert greatest_difference(gradients(loss, model), gradients(expected, model)) == 0


@every_term
def test_away_from_the_limit_loss_and_gradient_differ(options: Any) -> None:
    model, objective = made(options)
    expected, _ = losses(CVAE().build(), model, context(model, None))
    loss, terms = losses(objective, model, context(model, odd(model)))
    assert loss.item() == pytest.approx(expected.item() + options.weight * terms["labelled"][0].item(), rel=1e-12)
    assert terms["labelled"][0] > 0
    assert greatest_difference(gradients(loss, model), gradients(expected, model)) > 1e-3


@pytest.mark.parametrize("name", ["hinge", "reciprocal"])
def test_density_cost_is_the_formula_in_spreads_of_the_good_items(name: str) -> None:
    model = toy_model()
    normal = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)  # mean 3, standard deviation √3.5
    found = torch.tensor([3.0, 40.0, 4.0], dtype=torch.float64)
    objective = TERMS[name].build(_Fixed(found))
    cost = objective._cost(model, odd(model, 3), {"reconstruction": normal, "kl": torch.zeros(4)}, context(model, None))
    s = math.sqrt(3.5)
    e = [(value - 3) / s for value in found.tolist()]
    if name == "hinge":
        expected = [max(0.0, 10 - one) for one in e]
        assert expected[1] == 0
    else:
        expected = [1 / (math.log1p(math.exp(one)) + 0.1) for one in e]
    assert cost.item() == pytest.approx(s * sum(expected) / 3, rel=1e-12)


class _Fixed(type(VAE().build())):
    """Its surprise is given."""

    def __init__(self, found: Tensor) -> None:
        super().__init__(VAE())
        self.found = found

    def surprise(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Tensor:
        return self.found


def test_density_shift_is_reconstruction_plus_kl_to_the_shifted_prior() -> None:
    model, objective = made(Shift(warmup=0, shift=2.5))
    anomalies, ctx = odd(model), context(model, None)
    cost = objective._cost(model, anomalies, {}, ctx)
    ctx = context(model, None)  # the same noise again
    elbo = elbo_terms(model, anomalies, ctx)
    q = elbo.posterior
    kl = 0.5 * ((q.mean - 2.5).square() + q.log_var.exp() - 1 - q.log_var).sum(1)
    assert cost.item() == pytest.approx((elbo.reconstruction + kl).mean().item(), rel=1e-12)


def test_gradient_of_shifted_anomalies_stops_at_the_decoder() -> None:
    model, objective = made(Shift(warmup=0))
    cost = objective._cost(model, odd(model), {}, context(model, None))
    found = torch.autograd.grad(cost, list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None and g.any()}
    encoder = {name for name, _ in model.named_parameters() if name.startswith("net.encode")}
    assert reached == encoder
    assert encoder


@pytest.mark.parametrize("name", ["hinge", "reciprocal"])
def test_gradient_of_the_others_makes_anomalies_odder_and_leaves_the_good_items_scale_alone(name: str) -> None:
    model, objective = made(TERMS[name])
    anomalies = odd(model)
    normal = objective.base.loss(model, toy_batch(model), context(model, None))[1]
    cost = objective._cost(model, replace(anomalies, x=anomalies.x - 3), normal, context(model, None))
    step = torch.autograd.grad(cost, list(model.parameters()), allow_unused=True)
    before = objective.surprise(model, replace(anomalies, x=anomalies.x - 3), context(model, None)).mean()
    with torch.no_grad():
        for p, g in zip(model.parameters(), step, strict=True):
            if g is not None:
                p -= 1e-5 * g
    after = objective.surprise(model, replace(anomalies, x=anomalies.x - 3), context(model, None)).mean()
    assert after > before
    only = objective._cost(model, anomalies, {k: v.detach() for k, v in normal.items()}, context(model, None))
    same = objective._cost(model, anomalies, normal, context(model, None))
    assert greatest_difference(gradients(only, model), gradients(same, model)) == 0


def test_gradient_of_a_stopped_reconstruction_reaches_z_alone_and_its_value_is_the_plain_one() -> None:
    model, batch = toy_model(), toy_batch(toy_model())
    z = torch.randn(
        len(batch.x), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    found = stopped_reconstruction(model, batch, z)
    plain = -model.likelihood.log_prob(batch.x, model.decode(z, batch.c)).flatten(1).sum(1)
    assert found.equal(plain)
    (by_z,) = torch.autograd.grad(found.sum(), z, retain_graph=True)
    assert by_z.equal(torch.autograd.grad(plain.sum(), z)[0])
    assert all(g is None for g in torch.autograd.grad(found.sum(), list(model.parameters()), allow_unused=True))


@every_term
def test_gradcheck_of_the_cost(options: Any) -> None:
    model, objective = made(options)
    normal = {"reconstruction": torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), "kl": torch.zeros(3)}

    def cost(x: Tensor) -> Tensor:
        return objective._cost(model, replace(odd(model, 2), x=x), normal, context(model, None))

    torch.autograd.gradcheck(cost, (odd(model, 2).x.requires_grad_(),))


def test_unknown_conditions_are_those_of_good_items_in_the_batch() -> None:
    model = toy_model()
    normals, anomalies = toy_batch(model), odd(model, 30)
    assert anomalies.c is not None
    c = anomalies.c.clone()
    c[:20] = torch.nan
    filled = under_known_conditions(replace(anomalies, c=c), normals, torch.Generator().manual_seed(0)).c
    assert filled is not None
    assert filled[20:].equal(c[20:])
    assert {tuple(row) for row in filled[:20].tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_the_adversary_stays_out_of_what_is_kept_and_keeps_its_own_loss() -> None:
    model = toy_model(condition_dim=0)
    objective = Hinge(warmup=0).build(FactorVAE(discriminator_layers=1, discriminator_width=4).build())
    objective.prepare(model)
    assert set(objective.players(model)) == {"model", "discriminator"}
    assert objective.kept_state() == {}
    assert objective.second_batch


def textured(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rough images are good, nearly flat ones anomalous: simpler, and so of low surprise. (2n, 8, 8) and labels."""
    rng = np.random.default_rng(seed)
    images = 120 + rng.normal(0, 1, (2 * n, 8, 8)) * np.repeat([40, 10], n)[:, None, None]
    return images.clip(0, 255).astype(np.uint8), np.repeat([0.0, 1.0], n)


QUICK: dict[str, Any] = {"net": "mlp", "latent_dim": 2, "epochs": 150, "batch_size": 32, "precision": "float32"}


def test_labels_change_a_detector_only_where_the_setting_says_so() -> None:
    images, labels = textured(60)
    plain = Detector(**QUICK, scoring="elbo", patience=None).fit(images[labels == 0])
    kept_out = Detector(**QUICK, scoring="elbo", patience=None).fit(images, anomalies=labels)
    taught = Detector(**QUICK, scoring="elbo", labelled={"name": "hinge", "margin": 20}).fit(images, anomalies=labels)
    np.testing.assert_array_equal(plain.score_samples(images), kept_out.score_samples(images))
    assert kept_out.about_["data"]["taught_anomalies"] == 0
    assert taught.about_["data"]["taught_anomalies"] == 60
    assert [row["labelled"] for row in taught.training_["history"] if "labelled" in row][-1] > 0
    new, truth = textured(100, seed=1)
    aurocs = [roc_auc(truth, -detector.score_samples(new)) for detector in (plain, taught)]
    assert aurocs[0] < 0.2
    assert aurocs[1] > 0.7


def test_anomalies_of_a_condition_never_seen_teach_under_those_that_were() -> None:
    images, labels = textured(40)
    kind = np.where(labels == 1, "flat", np.where(np.arange(80) % 2, "odd", "even"))
    detector = Detector(**QUICK, labelled="hinge").fit(images, anomalies=labels, conditions={"kind": kind})
    assert detector.pipeline_.schema.stratum_names == ["kind=even", "kind=odd"]
    assert np.isfinite([row["loss/model"] for row in detector.training_["history"]]).all()


def test_the_settings_name_every_term_and_refuse_others() -> None:
    assert set(choices("labelled")) == set(TERMS)
    with pytest.raises(SettingsError, match=r"unknown labelled 'hing'; did you mean 'hinge'"):
        Detector(labelled="hing").fit(textured(30)[0])


def test_the_prior_of_anomalies_is_where_the_option_says() -> None:
    model, objective = made(Shift(warmup=0, shift=4))
    assert objective.base.shift == 4
    q = DiagonalGaussian(torch.full((1, 3), 4.0), torch.zeros(1, 3))
    assert q.kl(DiagonalGaussian(torch.full((1, 3), 4.0), torch.zeros(1, 3))).sum() == 0
    assert model.nuisance_dim == 0


def test_shifted_anomalies_leave_the_decoders_batch_statistics_alone() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((1, 16, 16), 3, 0, StridedBatchNorm(), Gaussian(), "standard").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.startswith("net.up")}
    batch = Batch(torch.rand(6, 1, 16, 16), None, torch.zeros(6).long(), torch.ones(6), torch.arange(6))
    stopped_reconstruction(model, batch, torch.randn(6, 3))
    assert before
    assert all(dict(model.named_buffers())[name].equal(value) for name, value in before.items())


def test_a_term_without_labelled_anomalies_and_a_held_out_class_that_would_teach_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match="labelled = 'hinge', and no item is labelled anomalous"):
        Detector(**QUICK, labelled="hinge").fit(textured(30)[0])
    command = ["train", "digits", "--holdout", "9", "--epochs", "1", "--out", str(tmp_path / "m")]
    with pytest.raises(SystemExit) as refused:
        main([*command, "--labelled", "hinge"])
    assert refused.value.code == 2
    assert "--holdout 9 keeps classes away from training" in capsys.readouterr().err
    with pytest.raises(SystemExit) as fine:
        main([*command, "--objective", "dan_vae"])
    assert not fine.value.code
    assert Detector.load(tmp_path / "m").about_["data"]["taught_anomalies"] == 0


def test_prior_and_film_that_cannot_be_are_refused_by_their_reason() -> None:
    images, labels = textured(30)
    with pytest.raises(SettingsError, match="objective 'vae' ignores conditions; take cvae or dcvae"):
        Detector(**QUICK, objective="vae", prior="separated").fit(images, conditions={"kind": labels})
    with pytest.raises(SettingsError, match=r"ends in \.gif"):
        Detector(**QUICK).fit(images, film="learning.mp4")
