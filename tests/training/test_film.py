"""A film of a training: which images, what is kept, and that filming changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.errors import SettingsError
from knowngood.training import Source
from knowngood.training.film import Film
from training_helpers import model, options, same_bits, source, trained


def test_frames_are_reconstructions_from_the_mean_under_each_images_own_condition():
    film, vae, held_out = Film(), model().train(), source(6)
    film.show(held_out)
    before = torch.get_rng_state()
    film(7, vae)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.argsort(held_out.facts.stratum, stable=True)
    batch = held_out.batch(order)
    with torch.no_grad():
        expected = vae.eval().likelihood.mean(vae.decode(vae.encode(batch.x, batch.c).mean, batch.c))
    assert film.steps == [7]
    assert film.frames[0].shape == (6, 8, 8, 1)
    assert film.frames[0][..., 0] == pytest.approx(255 * expected[:, 0].clamp(0, 1).numpy(), abs=0.51)
    assert np.array_equal(film.inputs[..., 0], held_out.data[order, 0].numpy())


def test_images_are_spread_over_strata_and_large_ones_reduced_by_means():
    data = torch.arange(30.0).reshape(30, 1, 1, 1).expand(30, 1, 192, 96) / 29
    film = Film()
    film.show(Source(data, stratum=torch.tensor([2, 0, 1]).repeat(10)))
    assert film.inputs.shape == (10, 96, 48, 1)
    shown = np.round(film.inputs[:, 0, 0, 0] / 255 * 29).astype(int)
    assert (shown % 3).tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0, 0]  # the strata 0, 1 and 2
    assert len(set(shown)) == 10


@pytest.mark.slow
def test_a_filmed_training_ends_with_the_same_bits():
    film, held_out = Film(), source(12, seed=1)
    film.show(held_out)
    plain, _ = trained(held_out=held_out, options=options(epochs=2))
    filmed, history = trained(held_out=held_out, options=options(epochs=2), on_evaluation=film)
    assert same_bits(plain, filmed)
    assert film.steps == [0, *[row["step"] for row in history.steps if row["split"] == "held_out"]]
    assert not np.array_equal(film.frames[0], film.frames[-1])


@pytest.mark.parametrize("held_out", [None, Source(torch.zeros(0, 1, 8, 8))])
def test_without_held_out_images_there_is_no_film(held_out):
    with pytest.raises(SettingsError, match="select_fraction above 0"):
        Film().show(held_out)
