"""The procedures that likelihood regret is timed against: they find what is there to be found, and nothing is timed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import speed_regret
from benchmarks.speed_regret import (
    BATCH,
    CHEAPER,
    PASSES,
    PUBLISHED,
    SINGLY,
    SOONER,
    STEPS,
    TOGETHER,
    TRAINED_ON,
    Way,
    _row,
    encoder_fitted,
    encoder_names,
    gain,
    negative_elbo,
    one_class,
    posterior_fitted,
    show,
)
from knowngood.config import MLP, Gaussian, LikelihoodRegret, VAEOptions
from knowngood.data import ImageSet
from knowngood.errors import DataError
from knowngood.models.vae import ConditionalVAE, DiagonalGaussian
from knowngood.scores.elbo import common_normals

SIGMA = 0.7
WAYS = [PUBLISHED, CHEAPER, SINGLY, TOGETHER, SOONER, PASSES]


class Linear(torch.nn.Module):
    """x = Wᵀz + noise, so that the posterior is normal; rows of W are orthogonal. The encoder knows nothing of W."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.decoder = torch.nn.Linear(5, 6), torch.nn.Linear(3, 5, bias=False)
        self.decoder.weight.data = torch.eye(5, 3) * torch.tensor([0.4, 1.0, 2.0])

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder(z)


@pytest.fixture
def model() -> ConditionalVAE:
    made = ConditionalVAE(
        VAEOptions(net=MLP(hidden=(2,)), latent_dim=3, likelihood=Gaussian(sigma=SIGMA), prior="standard"), (5,)
    )
    made.net = Linear()
    return made.eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


def exact_posterior(model: ConditionalVAE, x: Tensor) -> DiagonalGaussian:
    weight = model.net.decoder.weight
    precision = 1 + weight.square().sum(0) / SIGMA**2
    return DiagonalGaussian(x @ weight / SIGMA**2 / precision, -precision.log().expand(len(x), -1))


def fitted_singly(model: ConditionalVAE, x: Tensor, what: str) -> DiagonalGaussian:
    generator, names = torch.Generator().manual_seed(0), encoder_names(model, x[:1])
    with torch.no_grad():
        if what == PUBLISHED:
            found = [encoder_fitted(model, names, one, generator) for one in x.split(1)]
        else:
            found = [posterior_fitted(model, one, generator) for one in x.split(1)]
    return DiagonalGaussian(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("what", [PUBLISHED, CHEAPER])
def test_what_is_gained_is_what_the_encoder_was_off(
    model: ConditionalVAE, x: Tensor, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the posterior is normal, the regret is KL(q(z|x) ‖ p(z|x)): Adam comes near to it, as the score does."""
    monkeypatch.setattr(speed_regret, "RATE", 0.03)  # this encoder has far to go
    off = model.encode(x).kl(exact_posterior(model, x)).sum(1).double()
    score = LikelihoodRegret(samples=512).build()
    state = score.fit(model, [])
    with torch.no_grad():
        gained = gain(model, fitted_singly(model, x, what), x, state["noise"])
        regret = score.score(model, state, x, None, torch.zeros(len(x), dtype=torch.long)).values
    torch.testing.assert_close(gained, off, rtol=0.2, atol=0)
    torch.testing.assert_close(regret, off, rtol=0.05, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("what", [PUBLISHED, CHEAPER])
def test_no_procedure_ends_below_its_start(model: ConditionalVAE, x: Tensor, what: str) -> None:
    """At the rates as published. All ends are below the best by as much as they are off the exact posterior."""
    many = common_normals(512, 3)
    with torch.no_grad():
        own = fitted_singly(model, x, what)
        gained, most = (gain(model, q, x, many) for q in (own, exact_posterior(model, x)))
    assert 0 < gained.mean() < most.mean()
    torch.testing.assert_close(most - gained, own.kl(exact_posterior(model, x)).sum(1).double(), rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_the_encoder_alone_is_fitted_and_in_a_copy(model: ConditionalVAE, x: Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert encoder_names(model, x[:1]) == ["net.encoder.weight", "net.encoder.bias"]
    fitted_singly(model, x[:2], PUBLISHED)
    fitted_singly(model, x[:2], CHEAPER)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None
        assert not value.requires_grad


@pytest.mark.slow
def test_a_fitted_item_has_fresh_noise_at_every_step(
    model: ConditionalVAE, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []

    def told(*given: Any) -> Tensor:
        draws.append(given[-1].get_state())
        return negative_elbo(*given)

    monkeypatch.setattr(speed_regret, "negative_elbo", told)
    for what in (PUBLISHED, CHEAPER):
        fitted_singly(model, x[:1], what)
        assert len(draws) == STEPS == 100
        assert len({bytes(state.tolist()) for state in draws}) == STEPS
        draws.clear()


@pytest.mark.slow
def test_its_loss_is_minus_the_elbo_on_average(model: ConditionalVAE, x: Tensor) -> None:
    generator, exact = torch.Generator().manual_seed(2), exact_posterior(model, x[:1])
    own = model.encode(x[:1])
    with torch.no_grad():
        worse = [
            negative_elbo(model, own, x[:1], generator) - negative_elbo(model, exact, x[:1], generator)
            for _ in range(3000)
        ]
    torch.testing.assert_close(torch.stack(worse).mean().float(), own.kl(exact).sum(), rtol=0.05, atol=0)


def grey(n: int, side: int = 8) -> ImageSet:
    """Noise, every third of class "3", whose images are brighter than all others."""
    three = np.arange(n) % 3 == 0
    noise = np.random.default_rng(0).integers(0, 100, (n, side, side))
    return ImageSet.from_arrays(
        (noise + 150 * three[:, None, None]).astype(np.uint8), conditions={"class": np.where(three, "3", "7")}
    )


def test_half_of_the_images_scored_are_of_the_class_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_regret, "open_dataset", lambda name, **_: grey(3 * (TRAINED_ON + BATCH)))
    pixels, judged, data = one_class()
    assert pixels.shape == (TRAINED_ON, 8, 8)
    assert pixels.min() >= 150
    assert (judged.max(axis=(1, 2)) >= 150).tolist() == [True, False] * (BATCH // 2)
    assert not {image.tobytes() for image in pixels} & {image.tobytes() for image in judged}
    assert data == "MNIST's threes, 2,000 images"


@pytest.mark.slow
def test_without_mnist_hearts_of_all_sizes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, **_: object) -> ImageSet:
        raise DataError(f"{name}: nothing here")

    monkeypatch.setattr(speed_regret, "open_dataset", gone)
    pixels, judged, data = one_class()
    assert pixels.shape == (TRAINED_ON, 32, 32)
    assert judged.shape == (BATCH, 32, 32)
    assert data == "hearts drawn at 32×32, 2,000 images"
    areas = [images.mean(axis=(1, 2)).astype(float) for images in (pixels, judged[::2])]
    assert abs(areas[0].mean() - areas[1].mean()) < 4 * areas[1].std() / len(areas[1]) ** 0.5


def test_a_row_is_medians_over_turns_and_the_share_of_the_regret_that_is_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    regrets, rows = torch.tensor([1.0, 3.0]), torch.tensor([1, 0])
    turns = [{TOGETHER: (0.01, regrets, rows), PUBLISHED: (seconds, regrets, rows)} for seconds in (1.0, 4.0, 2.0)]
    way = Way(PUBLISHED, 1, lambda x: x)
    row = _row(way, "drawn", turns, torch.tensor([5.0, 3.0]))
    assert row["net"] == "conv"
    assert [row[name] for name in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([200, 100, 400])
    assert row["gained"] == pytest.approx(0.5)
    show([row])
    assert "conv net, drawn" in capsys.readouterr().out
