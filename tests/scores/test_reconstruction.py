from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.config import Reconstruction
from knowngood.scores.reconstruction import ssim
from score_models import items, small_model


def values(distance: str, likelihood: str = "gaussian") -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The score, and x and x̂ as float64 arrays to compute it from by hand."""
    model, (x, c, stratum) = small_model(likelihood=likelihood), items(5)
    score = Reconstruction(distance=distance).build()  # type: ignore[arg-type]
    result = score.score(model, {}, x, c, stratum)
    return result.values, x.double().numpy(), model.reconstruct(x, c).double().numpy()


@pytest.mark.parametrize(
    ("distance", "by_hand"),
    [
        ("l2", lambda x, y: np.linalg.norm((x - y).reshape(len(x), -1), axis=1)),
        ("squared", lambda x, y: ((x - y) ** 2).sum((1, 2, 3))),
        ("mean", lambda x, y: ((x - y) ** 2).mean((1, 2, 3))),
    ],
)
def test_distances_are_their_definitions(distance: str, by_hand: object) -> None:
    got, x, y = values(distance)
    np.testing.assert_allclose(got.numpy(), by_hand(x, y), rtol=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_cross_entropy_is_its_definition(likelihood: str) -> None:
    got, x, y = values("cross_entropy", likelihood)
    y = y.clip(1e-6, 1 - 1e-6)
    np.testing.assert_allclose(got.numpy(), -(x * np.log(y) + (1 - x) * np.log(1 - y)).sum((1, 2, 3)), rtol=2e-6)


def test_cross_entropy_of_a_bernoulli_decoder_stays_finite_and_distinct_where_its_mean_rounds_to_one() -> None:
    model, (x, c, stratum) = small_model(likelihood="bernoulli"), items(6)
    model.net.decoder[-1].bias.data += 40.0
    score = Reconstruction(distance="cross_entropy").build().score(model, {}, x, c, stratum).values
    logits = model.decode(model.encode(x, c).mean, c).double()
    expected = (torch.nn.functional.softplus(logits) - x.double() * logits).sum((1, 2, 3))
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=0)


def ssim_by_loops(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The definition pixel by pixel: weighted moments over the window's pixels that exist."""
    height, width = x.shape
    windows = [min(11, size if size % 2 else size - 1) for size in (height, width)]
    out = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            weights = np.zeros_like(x)
            for u in range(height):
                for v in range(width):
                    if abs(u - i) <= windows[0] // 2 and abs(v - j) <= windows[1] // 2:
                        sigmas = [1.5 * w / 11 for w in windows]
                        weights[u, v] = np.exp(-0.5 * (((u - i) / sigmas[0]) ** 2 + ((v - j) / sigmas[1]) ** 2))
            weights /= weights.sum()
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            out[i, j] = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return out


@pytest.mark.parametrize("size", [(13, 16), (8, 8), (5, 12), (1, 4)])
def test_ssim_is_its_definition(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, 2, *size))
    y = np.clip(x + 0.3 * rng.normal(size=x.shape), 0, 1)
    got = ssim(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    for b in range(2):
        for channel in range(2):
            np.testing.assert_allclose(got[b, channel], ssim_by_loops(x[b, channel], y[b, channel]), rtol=1e-9)


def test_ssim_limits() -> None:
    x = torch.rand(3, 1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(x, x), torch.ones_like(x))
    assert torch.equal(ssim(x, 1 - x), ssim(1 - x, x))
    assert ssim(x, 1 - x).max() < 0  # a negative correlates negatively everywhere
    flat = torch.full_like(x, 0.5)
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)  # no structure: the luminance term alone
    torch.testing.assert_close(ssim(flat, flat / 2), torch.full_like(x, expected))


def test_ssim_score_sees_structure_that_squares_do_not() -> None:
    """The same squared error, as a shift of brightness and as noise: SSIM minds the noise far more."""
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.5
    x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    noise = 0.1 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).sign()
    assert 1 - ssim(x, x + noise).mean() > 2 * (1 - ssim(x, x + 0.1).mean())


def test_ssim_value_is_one_minus_the_mean() -> None:
    got, x, y = values("ssim")
    np.testing.assert_allclose(got, 1 - ssim(torch.from_numpy(x), torch.from_numpy(y)).mean((1, 2, 3)), rtol=1e-12)
