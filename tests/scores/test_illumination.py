"""Scores standardised given the illumination, against closed forms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from helpers import toy_batch, toy_model
from knowngood.config import Elbo
from knowngood.models.base import Batch
from knowngood.scores.adjustment import fit_adjustments, scored
from knowngood.scores.illumination import (
    IlluminationAdjustment,
    features,
    fit_estimate,
    fit_moments,
    least_squares,
    log_illumination,
    standardised,
)


def test_density_least_squares_recovers_a_polynomial() -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    design = torch.stack((torch.ones(50), x, x**2), 1).double()
    truth = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(least_squares(design, design @ truth), truth, rtol=1e-6, atol=1e-6)


def test_density_standardised_scores_have_one_mean_and_spread_at_every_illumination() -> None:
    generator = torch.Generator().manual_seed(0)
    illumination = torch.empty(20_000, dtype=torch.float64).uniform_(0.2, 0.8, generator=generator)
    noise = torch.randn(20_000, dtype=torch.float64, generator=generator)
    scores = 100 + 40 * illumination.log() + 10 * illumination**1.5 * noise  # log s² is linear in log b
    found = standardised(scores, illumination.log(), fit_moments(scores, illumination.log()))
    parts = [found[(illumination > low) & (illumination <= low + 0.1)] for low in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    spread = torch.stack([part.std() for part in parts])
    centre = torch.stack([part.mean() for part in parts])
    assert (spread / spread.mean() - 1).abs().max() < 0.06
    assert (centre - centre.mean()).abs().max() < 0.1 * spread.mean()
    assert scores[illumination > 0.7].mean() - scores[illumination < 0.3].mean() > 30


def test_density_illumination_is_estimated_from_an_image_up_to_the_ridge() -> None:
    model = toy_model((1, 6, 6), condition_dim=0).eval()
    generator = torch.Generator().manual_seed(0)
    x = 0.2 + torch.rand(300, 1, 6, 6, generator=generator, dtype=torch.float64)
    x = x / x.amax(1).mean((1, 2))[:, None, None, None]  # all of one brightness, so that the illumination shows
    factor = torch.empty(300, dtype=torch.float64).uniform_(0.7, 1.3, generator=generator)
    with torch.no_grad():
        inputs = features(model, x * factor[:, None, None, None], None)
    assert inputs.shape == (300, 5)
    torch.testing.assert_close(inputs[:, 0], factor.log())
    state = fit_estimate(inputs[:200], factor[:200].log())
    torch.testing.assert_close(log_illumination(inputs[200:], state), factor[200:].log(), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("apart", "read"), [(30, (1, 0)), (29, (1, 1))])
def test_fitted_images_are_read_only_where_held_out_ones_are_too_few_and_no_more_than_needed(
    apart: int, read: tuple[int, int]
) -> None:
    model, made = toy_model((1, 6, 6), condition_dim=0).eval(), [0, 0]
    score, adjustment = Elbo(samples=0).build(), IlluminationAdjustment(0.3)

    def batches(which: int, size: int, count: int) -> Iterator[Batch]:
        for seed in range(count):
            made[which] += 1
            yield toy_batch(model, n=size, seed=seed)

    with torch.no_grad():
        state = fit_adjustments(
            model, score, [adjustment], {"kept": torch.ones(1)}, batches(0, apart, 1), batches(1, 5000, 3)
        )
    assert tuple(made) == read
    assert state.keys() > {"kept", "illumination.mean", "illumination.weights"}


def test_the_adjusted_score_is_the_standardised_one_and_no_likelihood() -> None:
    model, score, adjustment = toy_model((1, 6, 6), condition_dim=0).eval(), Elbo().build(), IlluminationAdjustment(0.3)
    normals, batch = [toy_batch(model, n=60)], toy_batch(model, n=9, seed=7)
    given = batch.x, batch.c, batch.stratum
    with torch.no_grad():
        state = fit_adjustments(model, score, [adjustment], score.fit(model, normals), normals, normals)
        plain, result = score.score(model, state, *given), scored(model, score, [adjustment], state, *given)
        own = {name.removeprefix("illumination."): t for name, t in state.items() if name.startswith("illumination.")}
        expected = standardised(plain.values, log_illumination(features(model, batch.x, None), own), own)
    torch.testing.assert_close(result.values, expected)
    assert result.parts.keys() == plain.parts.keys() | {"illumination"}
    assert score.is_likelihood
    assert not adjustment.additive
