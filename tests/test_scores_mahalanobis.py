from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.config import Mahalanobis
from knowngood.errors import DataError
from knowngood.scores.mahalanobis import shrunk_covariance, stratum_moments
from score_models import batches, items, small_model


def codes(n: int, dims: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dims, dims, dtype=torch.float64, generator=generator)
    return torch.randn(n, dims, dtype=torch.float64, generator=generator) @ mix


@pytest.mark.parametrize("n", [12, 60, 2000])
def test_shrinkage_to_identity_is_ledoit_wolf(n: int) -> None:
    from sklearn.covariance import ledoit_wolf

    centred = codes(n) - codes(n).mean(0)
    expected, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(centred).numpy(), expected, rtol=1e-10)


def test_shrinkage_to_a_target_minimises_the_expected_error() -> None:
    """Averaged over samples, the estimated weight does nearly as well as the best fixed one, and better than none."""
    truth, target = torch.diag(torch.tensor([4.0, 1, 1, 0.5]).double()), torch.eye(4).double()
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(300, 20, 4, dtype=torch.float64, generator=generator) @ truth.sqrt()

    def error(estimates: torch.Tensor) -> float:
        return float((estimates - truth).square().sum((1, 2)).mean())

    plain = samples.mT @ samples / 20
    best = min(error((1 - w) * plain + w * target) for w in np.linspace(0, 1, 41))
    ours = error(torch.stack([shrunk_covariance(s, target) for s in samples]))
    assert ours < 0.9 * error(plain)
    assert ours < 1.25 * best


def test_shrinkage_limits() -> None:
    many = codes(200_000)
    sample = many.t() @ many / len(many)
    torch.testing.assert_close(shrunk_covariance(many), sample, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(shrunk_covariance(many, sample), sample)  # target = sample: nothing to gain
    assert torch.isfinite(torch.linalg.cholesky(shrunk_covariance(codes(3, dims=20)))).all()


def test_strata_have_moments_of_their_own_and_small_ones_those_of_all() -> None:
    z, strata = codes(6000), torch.arange(6000) % 2
    z[strata == 1] = 3 * z[strata == 1] + 10
    z, strata = torch.cat([z, codes(9, seed=5) - 100]), torch.cat([strata, torch.full((9,), 2)])
    mean, covariance = stratum_moments(z, strata)
    assert mean.shape == (4, 4)
    for s in range(2):
        torch.testing.assert_close(mean[s], z[strata == s].mean(0))
        torch.testing.assert_close(covariance[s], z[strata == s].t().cov(), rtol=0.02, atol=0.02 * (1 + 8 * s))
    for s in (2, 3):
        torch.testing.assert_close(mean[s], z.mean(0))
    assert torch.equal(covariance[2], covariance[3])


def test_small_strata_borrow_the_shape_that_all_share() -> None:
    """Ten codes a stratum, all correlated alike: shrinking to the pooled shape beats shrinking to the identity."""
    strata = torch.arange(400) % 40
    z = codes(400, dims=8) + 5 * codes(40, dims=8, seed=1)[strata]
    truth = codes(100_000, dims=8).t().cov()
    _, covariance = stratum_moments(z, strata)
    centred = [z[strata == s] - z[strata == s].mean(0) for s in range(40)]
    to_identity = torch.stack([shrunk_covariance(group) for group in centred])
    error, plain = ((c - truth).square().sum((1, 2)).mean() for c in (covariance[:40], to_identity))
    assert error < 0.6 * plain


def test_value_is_the_squared_distance_by_the_inverse() -> None:
    model, score = small_model(), Mahalanobis().build()
    state = score.fit(model, batches(90))
    x, c, stratum = items(9)
    stratum[0], stratum[1] = -1, 99  # no stratum, and one that normals never had: the moments of all
    got = score.score(model, state, x, c, stratum).values.numpy()
    mu = model.encode(x, c).mean.double().numpy()
    for i, s in enumerate(stratum.tolist()):
        row = s if 0 <= s < 3 else 3
        factor = state["cholesky"][row].numpy()
        difference = mu[i] - state["mean"][row].numpy()
        assert got[i] == pytest.approx(difference @ np.linalg.inv(factor @ factor.T) @ difference, rel=1e-8)


def test_normals_score_near_the_number_of_dimensions() -> None:
    model, score = small_model(), Mahalanobis().build()
    fitted = batches(600)
    state = score.fit(model, fitted)
    scores = torch.cat([score.score(model, state, b.x, b.c, b.stratum).values for b in fitted])
    assert scores.mean().item() == pytest.approx(model.latent_dim, rel=0.1)


def test_codes_that_never_vary_give_finite_scores() -> None:
    z = torch.zeros(40, 3, dtype=torch.float64)
    z[:, 0] = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for constant in (z, torch.zeros_like(z)):
        _, covariance = stratum_moments(constant, torch.zeros(40, dtype=torch.long))
        assert torch.isfinite(torch.linalg.cholesky(covariance)).all()


def test_no_normals_is_an_error() -> None:
    with pytest.raises(DataError, match="no normals"):
        Mahalanobis().build().fit(small_model(), [])
