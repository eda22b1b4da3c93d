"""Training and scoring under changing light."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood import Detector
from knowngood.config import CVAE, Elbo, FactorVAE
from knowngood.errors import SettingsError
from knowngood.models.objectives import Batch
from knowngood.models.objectives.lit import Lit
from knowngood.scores.steady import SteadyScore, adjusted, adjustment, features, fit_reading, least_squares, read


def test_limit_without_tolerance_it_is_the_objective_and_away_from_it_it_differs() -> None:
    model = toy_model()
    batch = toy_batch(model)
    base = CVAE().build()
    plain = base.loss(model, batch, toy_context(batch))[0]["model"]
    for tolerance, same in ((0.0, True), (0.3, False)):
        ctx = toy_context(batch)
        lit = Lit(base, tolerance)
        ctx.generator.manual_seed(5)
        relit = lit.relit(batch, ctx.generator)
        found = base.loss(model, relit, toy_context(batch))[0]["model"]
        assert (found.item() == plain.item()) == same
        assert (greatest_difference(gradients(found, model), gradients(plain, model)) == 0) == same


def test_light_is_uniform_between_its_bounds_one_factor_an_image_and_brightness_follows() -> None:
    model = toy_model()
    batch = toy_batch(model, n=4000)
    mean, std = torch.tensor([0.5, 3.0]), torch.tensor([0.1, 2.0])
    raw = torch.stack((batch.x.mean(1).float(), torch.arange(4000.0)), 1)
    batch = replace(batch, factors=(raw - mean) / std)
    lit = Lit(CVAE().build(), 0.3, torch.tensor([True, False]), mean, std)
    after = lit.relit(batch, torch.Generator().manual_seed(0))
    factor = after.x / batch.x
    assert factor.std(1).max() < 1e-12
    factor = factor[:, 0]
    assert 0.7 <= factor.min() < 0.702
    assert 1.298 < factor.max() <= 1.3
    assert factor.mean().item() == pytest.approx(1, abs=0.01)
    assert after.factors is not None
    restored = after.factors * std + mean
    torch.testing.assert_close(restored[:, 0].float(), after.x.mean(1).float())
    torch.testing.assert_close(restored[:, 1].float(), raw[:, 1])


def test_a_second_batch_is_relit_too() -> None:
    model = toy_model(condition_dim=0)
    objective = Lit(FactorVAE(discriminator_layers=1, discriminator_width=4).build(), 0.5)
    objective.prepare(model)
    batch = toy_batch(model)
    seen: list[Any] = []
    objective.base.loss = lambda model, batch, ctx: seen.extend((batch, ctx.second))  # type: ignore[method-assign]
    objective.loss(model, batch, toy_context(batch, second=batch))
    assert not seen[0].x.equal(batch.x)
    assert not seen[1].x.equal(batch.x)
    assert not seen[1].x.equal(seen[0].x)


def test_density_least_squares_recovers_a_polynomial() -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    design = torch.stack((torch.ones(50), x, x**2), 1).double()
    truth = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(least_squares(design, design @ truth), truth, rtol=1e-6, atol=1e-6)


def test_density_adjusted_scores_have_one_mean_and_spread_at_every_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    light = torch.empty(20_000, dtype=torch.float64).uniform_(0.2, 0.8, generator=generator)
    noise = torch.randn(20_000, dtype=torch.float64, generator=generator)
    scores = 100 + 40 * light.log() + 10 * light**1.5 * noise  # log s² is linear in log b
    found = adjusted(scores, light.log(), adjustment(scores, light.log()))
    parts = [found[(light > low) & (light <= low + 0.1)] for low in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    spread = torch.stack([part.std() for part in parts])
    centre = torch.stack([part.mean() for part in parts])
    assert (spread / spread.mean() - 1).abs().max() < 0.06
    assert (centre - centre.mean()).abs().max() < 0.1 * spread.mean()
    assert scores[light > 0.7].mean() - scores[light < 0.3].mean() > 30


def test_density_light_is_read_off_an_image_up_to_what_ridge_costs() -> None:
    model = toy_model((1, 6, 6), condition_dim=0).eval()
    generator = torch.Generator().manual_seed(0)
    x = 0.2 + torch.rand(300, 1, 6, 6, generator=generator, dtype=torch.float64)
    x = x / x.amax(1).mean((1, 2))[:, None, None, None]  # all of one brightness, so that the light tells itself
    factor = torch.empty(300, dtype=torch.float64).uniform_(0.7, 1.3, generator=generator)
    with torch.no_grad():
        seen_as = features(model, x * factor[:, None, None, None], None)
    assert seen_as.shape == (300, 5)
    torch.testing.assert_close(seen_as[:, 0], factor.log())
    state = fit_reading(seen_as[:200], factor[:200].log())
    torch.testing.assert_close(read(seen_as[200:], state), factor[200:].log(), atol=5e-3, rtol=0)


def stripes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(12) * rng.uniform(0.4, 0.9, n)[:, None] + rng.uniform(0, 6, n)[:, None])
    images = 110 + 50 * wave[:, None, :] + rng.normal(0, 12, (n, 12, 12))
    return images.clip(0, 190).astype(np.uint8)


def test_false_alarms_stay_under_other_light_where_those_of_the_plain_model_do_not() -> None:
    good, new = stripes(700, 0), stripes(600, 1)
    shared: dict[str, Any] = {"objective": "vae", "net": "mlp", "latent_dim": 6, "epochs": 40, "scaling": (0, 255)}
    rates = {}
    for tolerance in (None, 0.3):
        detector = Detector(**shared, scoring="elbo", light_tolerance=tolerance).fit(good)
        rates[tolerance] = [(detector.predict((new * f).astype(np.uint8)) == -1).mean() for f in (0.7, 1.0, 1.3)]
    assert max(rates[None]) > 0.3
    assert max(rates[0.3]) < 0.12


def test_what_cannot_be_made_steady_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"light_tolerance = 0\.3 needs images"):
        Detector(light_tolerance=0.3).fit(np.random.default_rng(0).normal(size=(60, 4)))
    with pytest.raises(SettingsError, match="changes the brightness that measure tells"):
        Detector(light_tolerance=0.3, measure=("brightness",)).fit(stripes(60, 0))
    with pytest.raises(SettingsError, match="0 is no light"):
        Detector(light_tolerance=0.3, scaling=(10, 255)).fit(stripes(60, 0))


def test_a_measured_condition_that_is_no_light_goes_with_it() -> None:
    detector = Detector(
        light_tolerance=0.3, measure=("sharpness",), net="mlp", latent_dim=2, epochs=2, roles={"sharpness": ["model"]}
    ).fit(stripes(60, 0))
    assert [column.name for column in detector.pipeline_.schema.columns] == ["sharpness"]


@pytest.mark.parametrize(("apart", "read"), [(30, (1, 0)), (29, (1, 1))])
def test_the_adjustment_reads_fitted_images_only_where_others_are_too_few_and_no_more_than_it_needs(
    apart: int, read: tuple[int, int]
) -> None:
    model, made = toy_model((1, 6, 6), condition_dim=0).eval(), [0, 0]
    score = SteadyScore(Elbo(samples=0).build(), 0.3)

    def batches(which: int, size: int, count: int) -> Iterator[Batch]:
        for seed in range(count):
            made[which] += 1
            yield toy_batch(model, n=size, seed=seed)

    with torch.no_grad():
        state = score.settle(model, {"kept": torch.ones(1)}, batches(0, apart, 1), batches(1, 5000, 3))
    assert tuple(made) == read
    assert state.keys() > {"kept", "steady_mean", "steady_weights"}
