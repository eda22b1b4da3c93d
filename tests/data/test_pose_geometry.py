"""Resizing and sampling of planes without torch: the numbers are those of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample, interpolate

from knowngood.data.pose.geometry import Floats, inverse, laid, reduced, rotation, sampled

RNG = np.random.default_rng(0)
LEVEL = 0.01  # of 255


def by_torch(planes: np.ndarray, matrix: Floats, out: tuple[int, int], beyond: str) -> np.ndarray:
    """Planes (C, h, w) at a map from pixels of `out` to their own."""
    size, (rows, columns) = planes.shape[1:], (np.arange(n) for n in out)
    x, y = (row[0] * columns + (row[1] * rows + row[2])[:, None] for row in matrix)
    grid = np.stack([(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1], axis=2)
    at = torch.from_numpy(grid[None]).float()
    return grid_sample(torch.from_numpy(planes)[None], at, padding_mode=beyond, align_corners=False)[0].numpy()


@pytest.mark.parametrize(("shape", "scale"), [((3, 60, 90), 1.6), ((1, 61, 77), 1.01), ((2, 200, 33), 7.3)])
def test_planes_are_reduced_as_torch_does_with_antialiasing(shape: tuple[int, int, int], scale: float) -> None:
    planes = RNG.uniform(0, 255, shape).astype(np.float32)
    size = [max(1, round(side / scale)) for side in shape[1:]]
    own = interpolate(torch.from_numpy(planes)[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    np.testing.assert_allclose(reduced(planes, scale), own, atol=LEVEL)
    assert reduced(planes.astype(np.float64), scale).dtype == np.float64
    assert reduced(planes, 0.5) is planes


@pytest.mark.parametrize("turn", [0.0, 33.0, 180.0])
def test_planes_are_sampled_as_torch_does(turn: float) -> None:
    matrix = np.column_stack((1.6 * rotation(turn), [30.0, 25.3]))
    planes = RNG.uniform(0, 255, (3, 60, 90)).astype(np.float32)
    own = by_torch(planes, matrix, (40, 50), "border")
    np.testing.assert_allclose(sampled(planes, matrix, (60, 90), (40, 50)), own, atol=LEVEL)


def test_planes_of_any_resolution_cover_the_picture() -> None:
    matrix = np.column_stack((0.7 * rotation(33), [20.0, 25.3]))
    coarse, fine = (np.tile(((np.arange(n) + 0.5) * 90 / n - 0.5), (1, 60, 1)) for n in (90, 180))  # the column
    expected = matrix[0, 0] * np.arange(50) + (matrix[0, 1] * np.arange(40) + matrix[0, 2])[:, None]
    for planes in (coarse, fine):
        np.testing.assert_allclose(sampled(planes, matrix, (60, 90), (40, 50))[0], expected, atol=1e-6)


@pytest.mark.parametrize("turn", [0.0, 33.0, 180.0])
def test_a_map_is_laid_where_the_picture_is_and_0_elsewhere(turn: float) -> None:
    back = inverse(np.column_stack((1.6 * rotation(turn), [45.0, 30.3])))
    plane = RNG.uniform(1, 255, (1, 40, 50)).astype(np.float32)
    found = laid(plane[0], back, (60, 90))
    inside = by_torch(np.ones_like(plane), back, (60, 90), "zeros")[0]
    assert 0.2 < (inside > 0).mean() < 0.9
    clear = (inside < 0.2) | (inside > 0.6)  # it ends half a pixel beyond the edge
    own = by_torch(plane, back, (60, 90), "border")[0] * (inside > 0.5)
    np.testing.assert_allclose(found[clear], own[clear], atol=LEVEL)
