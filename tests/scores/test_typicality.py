"""Typicality: two-sided, within the stratum, against the normals that were fitted on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers import vae
from knowngood.config import MLP, Elbo, Gaussian, Typicality
from knowngood.errors import DataError
from knowngood.models.base import Batch
from knowngood.scores.typicality import stratum_means
from score_models import TABLE, batches, items, small_model


def test_it_is_the_distance_of_the_elbo_from_its_mean_over_the_normals_of_the_stratum() -> None:
    model, fitted = small_model(), batches(90)
    score, bound = Typicality(samples=3).build(), Elbo(samples=3).build()
    state, noise = score.fit(model, fitted), bound.fit(model, [])
    strata = torch.cat([b.stratum for b in fitted])
    nll = torch.cat([bound.score(model, noise, b.x, b.c, b.stratum).values for b in fitted])
    means = [nll[strata == s].mean() for s in range(3)] + [nll.mean()]
    torch.testing.assert_close(state["mean_nll"], torch.stack(means), rtol=1e-9, atol=0)

    x, c, stratum = items(9)
    stratum = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, 7])  # the last: a stratum that no normal had
    got = score.score(model, state, x, c, stratum, want_map=True)
    own = bound.score(model, noise, x, c, stratum).values
    expected = torch.stack([means[s] if 0 <= s < 3 else means[3] for s in stratum.tolist()])
    torch.testing.assert_close(got.values, (own - expected).abs(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.parts["typicality_nll"], own, rtol=1e-12, atol=0)
    assert got.map is None


class Nothing(torch.nn.Module):
    """Says nothing of x: −ELBO is ½|x|² and constants."""

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return torch.zeros(len(x), 2)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return torch.zeros(len(z), 2)


def test_worked_by_hand_the_likeliest_item_of_all_is_anomalous() -> None:
    """Normals on a circle of radius 2: the centre is likelier than all of them, and as anomalous as radius √8."""
    model = vae((2,), 1, 0, MLP(hidden=(2,)), Gaussian(sigma=1.0), "standard")
    model.net = Nothing()
    angle = torch.linspace(0, 6, 40)
    ring = 2 * torch.stack((angle.cos(), angle.sin()), 1)
    zero = torch.zeros(40, dtype=torch.long)
    score = Typicality().build()
    state = score.fit(model, [Batch(ring, None, zero, zero.float(), zero)])
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 8**0.5], [3.0, 3.0]])
    got = score.score(model, state, x, None, zero[:4]).values
    assert got.tolist() == pytest.approx([2, 0, 2, 7], abs=1e-5)
    plain = Elbo().build()
    nll = plain.score(model, plain.fit(model, []), x, None, zero[:4]).values
    assert nll[0] == nll.min()


def test_small_strata_have_the_mean_of_all() -> None:
    values = torch.arange(31, dtype=torch.float64)
    strata = torch.tensor([0] * 10 + [2] * 9 + [3] * 12)
    everyone = 15.0
    assert stratum_means(values, strata).tolist() == [4.5, everyone, everyone, 24.5, everyone]


def test_no_normals_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'typicality' compares .* no normals were given"):
        Typicality().build().fit(small_model(TABLE), [])


def test_it_is_no_likelihood() -> None:
    assert not Typicality().build().is_likelihood
