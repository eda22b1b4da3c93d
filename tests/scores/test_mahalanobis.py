from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from knowngood.config import Mahalanobis
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian
from knowngood.representations.hog import hog
from knowngood.scores.mahalanobis import shrunk_covariance, stratum_moments
from score_models import TABLE, batches, items, small_model


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


def squared(state: dict[str, torch.Tensor], row: int, code: np.ndarray) -> float:
    """The distance by its definition, with an inverse."""
    factor = state["cholesky"][row].numpy()
    difference = code - state["mean"][row].numpy()
    return float(difference @ np.linalg.inv(factor @ factor.T) @ difference)


@pytest.mark.parametrize("of", ["latent", "hog"])
def test_value_is_the_squared_distance_by_the_inverse(of: str) -> None:
    model, score = small_model(), Mahalanobis(of=of).build()
    state = score.fit(model, batches(90))
    x, c, stratum = items(9)
    stratum[0], stratum[1] = -1, 99  # no stratum, and one that normals never had: the moments of all
    got = score.score(model, state, x, c, stratum).values.numpy()
    model = model.double()
    v = (model.encode(x.double(), c.double()).mean if of == "latent" else hog(x).double()).numpy()
    assert state["mean"].shape == (4, v.shape[1])
    for i, s in enumerate(stratum.tolist()):
        assert got[i] == pytest.approx(squared(state, s if 0 <= s < 3 else 3, v[i]), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["latent", "hog"])
def test_relative_is_less_the_distance_to_all(of: str) -> None:
    model, score = small_model(), Mahalanobis(of=of, relative=True).build()
    fitted = [replace(b, stratum=torch.where(b.index < 5, 4, b.stratum)) for b in batches(90)]  # of stratum 4 five
    state = score.fit(model, fitted)
    assert state["own"].tolist() == [True, True, True, False, False, False]
    x, c, stratum = items(9)
    stratum[:4] = torch.tensor([-1, 99, 4, 3])  # without moments of their own
    got = score.score(model, state, x, c, stratum).values.numpy()
    model = model.double()
    v = (model.encode(x.double(), c.double()).mean if of == "latent" else hog(x).double()).numpy()
    for i, s in enumerate(stratum.tolist()):
        to = [s] if 0 <= s < 3 else [0, 1, 2]
        nearest = min(squared(state, row, v[i]) for row in to)
        assert got[i] == pytest.approx(nearest - squared(state, 5, v[i]), rel=1e-6)


def test_relative_subtracts_what_is_anomalous_under_every_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two conditions, apart in the first dimension, that vary alike; one item far from both, one from its own alone."""
    one = codes(2000, dims=3)
    one = torch.linalg.qr(one - one.mean(0)).Q * 2000**0.5  # covariance 1
    apart = torch.tensor([20.0, 0.0, 0.0]).double()
    strata = torch.arange(4000) // 2000
    model = small_model(TABLE)
    monkeypatch.setattr(model, "encode", lambda x, c: DiagonalGaussian(x, x))  # the items are the codes
    anomalous = torch.tensor([[0.0, 30.0, 0.0], [20.0, 0.0, 0.0]]).double()
    values = {}
    for relative in (False, True):
        score = Mahalanobis(relative=relative).build()
        both = Batch(torch.cat([one, one + apart]), None, strata, torch.zeros(4000), torch.arange(4000))
        state = score.fit(model, [both])
        found = score.score(model, state, torch.cat([anomalous, one]), None, torch.zeros(2002, dtype=torch.long)).values
        values[relative] = found[:2], found[2:].quantile(0.999)
    (far, other), most = values[False]
    assert min(far, other) > most
    (far, other), most = values[True]
    assert far < most < other


@pytest.mark.slow
def test_relative_with_one_stratum_alone_is_the_plain_distance() -> None:
    model = small_model()
    x, c, stratum = items(9)
    alone = [replace(b, stratum=torch.zeros_like(b.stratum)) for b in batches(90)]
    few = [replace(b, stratum=torch.where(b.index < 9, b.index % 2 + 1, 0)) for b in batches(90)]  # and two too small
    gap = [replace(b, stratum=torch.full_like(b.stratum, 2)) for b in batches(90)]  # 0 and 1 had no normals
    for fitted in (alone, few, gap):
        plain, relative = (Mahalanobis(of="hog", relative=r).build() for r in (False, True))
        state = plain.fit(model, fitted)
        for s in (stratum, torch.zeros_like(stratum), torch.full_like(stratum, -1)):
            expected = plain.score(model, state, x, c, s).values
            assert torch.equal(relative.score(model, state, x, c, s).values, expected)


def test_relative_of_items_without_a_stratum_still_differs() -> None:
    model, score = small_model(), Mahalanobis(relative=True).build()
    x, c, _ = items(9)
    values = score.score(model, score.fit(model, batches(90)), x, c, torch.full((9,), -1)).values
    assert len(values.unique()) == 9


def test_hog_of_a_table_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"score 'mahalanobis' of 'hog'.*take of='latent'"):
        Mahalanobis(of="hog").build().check(small_model(TABLE))
    Mahalanobis(of="hog").build().check(small_model())


@pytest.mark.slow
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
