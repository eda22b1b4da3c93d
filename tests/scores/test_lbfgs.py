"""L-BFGS by rows: optima that are known, rows by themselves, and no evaluation of a row that has arrived."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.scores.likelihood_regret import Curvature, maximise, within


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Parabolas:
    """−½ (u − top)ᵀ A (u − top), A of its own for each row; notes which rows were asked for."""

    def __init__(self, rows: int, dims: int) -> None:
        draw = drawn(rows, dims, dims)
        self.curvature = draw @ draw.transpose(1, 2) / dims + 0.2 * torch.eye(dims, dtype=torch.float64)
        self.top = 3 * drawn(rows, dims, seed=1)
        self.asked: list[list[int]] = []

    def __call__(self, u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(rows.tolist())
        off = u - self.top[rows]
        slope = -(self.curvature[rows] @ off[:, :, None])[:, :, 0]
        return 0.5 * (off * slope).sum(1), slope


def test_it_finds_the_tops_of_parabolas() -> None:
    hills = Parabolas(rows=20, dims=6)
    found, _ = maximise(hills, torch.zeros(20, 6, dtype=torch.float64), 40, radius=2.0)
    below = -hills(found, torch.arange(20))[0]
    assert (below < 0.02).all()
    assert len(hills.asked) < 35  # some 4 a dimension, not 40


def test_its_newton_step_undoes_the_last_fall_it_learned() -> None:
    """The secant condition, and with all directions learned the whole inverse."""
    hills = Parabolas(rows=5, dims=4)
    values, vectors = torch.linalg.eigh(hills.curvature)
    curvature = Curvature(like=hills.top)
    for k in range(4):
        step = vectors[:, :, k]
        assert curvature.learn(step, values[:, k : k + 1] * step).all()
        torch.testing.assert_close(curvature.newton(values[:, k : k + 1] * step), step)
    gradient = drawn(5, 4, seed=2)
    solved = torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hills.curvature))[:, :, 0]
    torch.testing.assert_close(curvature.newton(gradient), solved)


def test_where_slopes_rise_along_a_step_nothing_is_learned() -> None:
    step, fall = torch.eye(2)[:1].expand(2, -1), torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    curvature = Curvature(like=step)
    assert curvature.learn(step, fall).tolist() == [[True], [False]]
    fresh = Curvature(like=step).newton(torch.ones(2, 2))
    torch.testing.assert_close(curvature.newton(torch.ones(2, 2))[1], fresh[1])


def test_rows_climb_by_themselves() -> None:
    hills = Parabolas(rows=8, dims=5)
    start = drawn(8, 5, seed=3)
    together, _ = maximise(hills, start, 6, radius=1.0)
    for i in range(8):
        alone, _ = maximise(lambda u, rows, i=i: hills(u, rows + i), start[i : i + 1], 6, radius=1.0)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-12)


def test_rows_that_have_arrived_are_not_asked_for_again() -> None:
    hills = Parabolas(rows=4, dims=3)
    start = torch.zeros_like(hills.top)
    start[[0, 2]] = hills.top[[0, 2]]
    found, _ = maximise(hills, start, 50, radius=1.0)
    assert hills.asked[:2] == [[0, 1, 2, 3], [1, 3]]
    assert all(set(rows) <= {1, 3} for rows in hills.asked[1:])
    assert len(hills.asked) < 50
    assert torch.equal(found[[0, 2]], start[[0, 2]])


def test_it_leaves_a_valley_and_never_ends_below_its_start() -> None:
    """−(1 − u²)² curves up around 0, and falls steeply outside of its two tops."""

    def twin(u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return -(1 - u.square()).square().sum(1), 4 * u * (1 - u.square())

    start = torch.tensor([[0.05], [-0.2], [0.5], [7.0]], dtype=torch.float64)
    for radius in (0.1, 1.0, 100.0):
        for evaluations in (1, 2, 3, 40):
            found, _ = maximise(twin, start, evaluations, radius)
            assert (twin(found, torch.arange(4))[0] >= twin(start, torch.arange(4))[0]).all()
        assert (found.abs() - 1).abs().max() < 0.1


def test_steps_are_shortened_and_keep_their_direction() -> None:
    torch.testing.assert_close(
        within(5.0, torch.tensor([[6.0, 8.0], [0.3, 0.4], [0, 0]])), torch.tensor([[3.0, 4], [0.3, 0.4], [0, 0]])
    )
