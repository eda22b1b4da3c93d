from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from knowngood.config import MLP, Gaussian
from knowngood.errors import DataError, SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source
from knowngood.training.film import LARGEST, Film


def batch_of(x: Tensor, c: Tensor | None = None) -> Batch:
    n = len(x)
    return Batch(x, c, torch.zeros(n, dtype=torch.int64), torch.zeros(n), torch.arange(n))


@pytest.fixture
def model() -> ConditionalVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConditionalVAE((1, 8, 8), 3, 2, MLP(hidden=(16,)), Gaussian(squash=True), "standard")


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
    assert film.frames[0].shape == (4, 8, 8, 1)
    assert film.frames[0][..., 0] == pytest.approx(255 * expected[:, 0].numpy(), abs=0.51)
    assert np.abs(film.frames[0][..., 0] - 255 * other[:, 0].numpy()).max() > 1
    assert film.inputs[..., 0] == pytest.approx(255 * images[:, 0].numpy(), abs=0.51)


def test_filming_leaves_mode_gradients_and_random_state_alone(model, images):
    film = Film(batch_of(images, one_hot(0, 1, 0, 1)))
    before = torch.get_rng_state()
    for mode in (True, False):
        model.train(mode)
        film(0, model)
        assert model.training is mode
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(film.frames[0], film.frames[1])
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
    assert (film.frames[0] == 255).all()
    assert noisy.training


def test_values_beyond_black_and_white_are_cut_off(model):
    film = Film(batch_of(torch.full((1, 1, 8, 8), 1.7), one_hot(0)))
    assert (film.inputs == 255).all()


@pytest.mark.parametrize("shape", [(1, 300, 150), (3, 96, 97), (1, 40, 96)])
def test_large_images_are_kept_reduced_by_means(shape):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    kept = Film(batch_of(x)).inputs
    height, width = kept.shape[1:3]
    assert max(height, width) == min(LARGEST, max(shape[1:]))
    assert width / height == pytest.approx(shape[2] / shape[1], rel=0.02)
    assert kept.shape[3] == shape[0]
    assert kept.mean() == pytest.approx(255 * float(x.mean()), rel=0.02)


def test_reduced_pixels_are_means_of_areas():
    x = torch.rand(1, 1, 2 * LARGEST, LARGEST, generator=torch.Generator().manual_seed(0))
    kept = Film(batch_of(x)).inputs[0, ..., 0]
    blocks = x[0, 0].reshape(LARGEST, 2, LARGEST // 2, 2).mean((1, 3))
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


def test_the_film_carries_the_held_out_loss_of_its_steps(model, images, tmp_path, monkeypatch):
    import knowngood.figures

    seen = {}
    write = knowngood.evaluation.figures.training_film
    monkeypatch.setattr(
        knowngood.evaluation.figures,
        "training_film",
        lambda *args, **named: seen.update(named) or write(*args, **named),
    )
    film = Film(batch_of(images, one_hot(0, 1, 0, 1)))
    for step in (0, 5, 10):
        film(step, model)
    history = [
        {"step": 5, "split": "held_out", "loss/model": 2.0},
        {"step": 5, "split": "train", "loss/model": 1.0},
        {"step": 10, "split": "held_out", "loss/model": 3.0},
    ]
    path = film.write(tmp_path / "new" / "film.gif", history)
    assert seen["losses"] == {5: 2.0, 10: 3.0}
    with Image.open(path) as written:
        assert getattr(written, "n_frames", 1) == len(film.steps)


def test_what_cannot_be_filmed_is_refused(model, images, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"the items have shape \(5,\)"):
        Film(batch_of(torch.zeros(2, 5)))
    with pytest.raises(DataError, match="no evaluation"):
        Film(batch_of(images)).write(tmp_path / "film.gif")
    with pytest.raises(DataError, match="select_fraction"):
        Film.of(Source(torch.zeros(0, 1, 8, 8)))
    assert not list(tmp_path.iterdir())


def test_a_fit_writes_its_film(tmp_path: Path):
    from knowngood import Detector

    rng = np.random.default_rng(0)
    X = (rng.random((120, 8, 8)) < 0.5).astype(np.uint8) * 255
    net = {"name": "mlp", "hidden": [16]}
    detector = Detector(net=net, latent_dim=2, epochs=6, batch_size=32, alpha=0.2)
    detector.fit(X, film=tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert getattr(film, "n_frames", 1) >= 3
    plain = Detector(net=net, latent_dim=2, epochs=6, batch_size=32, alpha=0.2).fit(X)
    assert np.array_equal(plain.score_samples(X), detector.score_samples(X))  # watching changes nothing
