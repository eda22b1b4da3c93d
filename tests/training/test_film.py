from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import vae
from knowngood.config import MLP, Gaussian
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source
from knowngood.training.film import Film


def batch_of(x: Tensor, c: Tensor | None = None) -> Batch:
    n = len(x)
    return Batch(x, c, torch.zeros(n, dtype=torch.int64), torch.zeros(n), torch.arange(n))


@pytest.fixture
def model() -> ConditionalVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vae((1, 8, 8), 3, 2, MLP(hidden=(16,)), Gaussian(squash=True), "standard")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def one_hot(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 2).float()


def test_frames_are_reconstructions_from_the_mean_under_each_items_own_condition(model, images):
    c = one_hot(0, 1, 0, 1)
    film = Film(batch_of(images, c))
    film(7, model)
    with torch.no_grad():
        expected = model.likelihood.mean(model.decode(model.encode(images, c).mean, c))
        other = model.reconstruct(images, c.flip(1))
    assert film.steps == [7]
    assert film.frames()[0].shape == (4, 8, 8, 1)
    assert film.frames()[0][..., 0] == pytest.approx(255 * expected[:, 0].numpy(), abs=0.51)
    assert np.abs(film.frames()[0][..., 0] - 255 * other[:, 0].numpy()).max() > 1
    assert film.inputs[..., 0] == pytest.approx(255 * images[:, 0].numpy(), abs=0.51)


def test_filming_leaves_mode_gradients_and_random_state_alone(model, images):
    film = Film(batch_of(images, one_hot(0, 1, 0, 1)))
    before = torch.get_rng_state()
    for mode in (True, False):
        model.train(mode)
        film(0, model)
        assert model.training is mode
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(film.frames()[0], film.frames()[1])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_model_is_filmed_as_it_will_be_used():
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(0.5))

        def reconstruct(self, x: Tensor, c: Tensor | None) -> Tensor:
            return torch.nn.functional.dropout(x, 0.5, self.training)

    x = torch.ones(1, 1, 8, 8)
    film, noisy = Film(batch_of(x)), Noisy().train()
    film(1, noisy)
    assert (film.frames()[0] == 255).all()
    assert noisy.training


def test_values_beyond_black_and_white_are_cut_off(model):
    film = Film(batch_of(torch.full((1, 1, 8, 8), 1.7), one_hot(0)))
    assert (film.inputs == 255).all()


@pytest.mark.parametrize("shape", [(1, 300, 150), (3, 96, 97), (1, 40, 96)])
def test_large_images_are_kept_reduced_by_means(shape):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    kept = Film(batch_of(x)).inputs
    height, width = kept.shape[1:3]
    assert max(height, width) == min(96, max(shape[1:]))
    assert width / height == pytest.approx(shape[2] / shape[1], rel=0.02)
    assert kept.shape[3] == shape[0]
    assert kept.mean() == pytest.approx(255 * float(x.mean()), rel=0.02)


def test_reduced_pixels_are_means_of_areas():
    x = torch.rand(1, 1, 2 * 96, 96, generator=torch.Generator().manual_seed(0))
    kept = Film(batch_of(x)).inputs[0, ..., 0]
    blocks = x[0, 0].reshape(96, 2, 96 // 2, 2).mean((1, 3))
    assert kept == pytest.approx(255 * blocks.numpy(), abs=0.51)


def test_images_of_a_source_are_spread_over_strata_and_order():
    data = torch.arange(30).float().reshape(30, 1, 1, 1).expand(30, 1, 8, 8) / 29
    alone = Film.of(Source(data), most=4)
    assert (alone.x[:, 0, 0, 0] * 29).round().tolist() == [0, 10, 19, 29]
    stratum = torch.tensor([2] * 10 + [0] * 10 + [1] * 10)
    both = Film.of(Source(data, stratum=stratum), most=5)
    assert (both.x[:, 0, 0, 0] * 29).round().tolist() == [10, 19, 20, 29, 0]  # two of 0, two of 1, one of 2
    few = Film.of(Source(data, stratum=torch.arange(30)), most=3)
    assert (few.x[:, 0, 0, 0] * 29).round().tolist() == [0, 14, 29]
    assert len(Film.of(Source(data[:3]), most=9).x) == 3


def test_frames_are_by_step(model, images):
    film = Film(batch_of(images, one_hot(0, 1, 0, 1)))
    for step in (0, 5, 10):
        film(step, model)
    assert film.frames().shape == (3, 4, 8, 8, 1)
    assert film.frames().dtype == np.uint8


def test_what_cannot_be_filmed_is_refused(images):
    with pytest.raises(SettingsError, match=r"the items have shape \(5,\)"):
        Film(batch_of(torch.zeros(2, 5)))
    with pytest.raises(DataError, match="no evaluation"):
        Film(batch_of(images)).frames()
    with pytest.raises(DataError, match="select_fraction"):
        Film.of(Source(torch.zeros(0, 1, 8, 8)))
