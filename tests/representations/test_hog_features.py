"""Oriented gradients against loops, against images of one edge, and by what must not change them."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from knowngood.representations import hog as module
from knowngood.representations.hog import hog

EIGHT = range(8)
CELLS, ORIENTATIONS = 7, 8
BLUR, ROUNDING = 0.025, 1e-6


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Smooth random images (n, *shape) in [0, 1], with edges of all kinds."""
    rough = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(rough, (1, 1, 1, 1), mode="reflect"), 3, 1)


def edge(way: int, side: int = 56, contrast: float = 1.0) -> Tensor:
    """(1, 1, side, side): dark, and bright beyond a straight edge through the middle, towards 45° · way clockwise."""
    at = torch.arange(side) - (side - 1) / 2
    angle = math.radians(45 * way)
    along = math.cos(angle) * at[None, :] + math.sin(angle) * at[:, None]
    return contrast * along.clamp(-0.5, 0.5).add(0.5)[None, None]


def by_cell(codes: Tensor, cells: int = CELLS) -> Tensor:
    """Codes (B, V) as (B, orientations, cells, cells)."""
    return codes.unflatten(1, (-1, cells, cells))


def permuted(codes: Tensor, order: list[int], dims: tuple[int, ...] = (), turns: int = 0) -> Tensor:
    """Codes with orientation o in the place of order[o], and the grid of cells mirrored or turned."""
    grid = by_cell(codes)
    grid = torch.rot90(grid, turns, (2, 3)) if turns else grid.flip(dims)
    moved = torch.empty_like(grid)
    moved[:, order] = grid
    return moved.flatten(1)


def loops(image: Tensor, cells: int, orientations: int) -> Tensor:
    """The definition, pixel by pixel, of one image (C, H, W) in float64."""
    channels, height, width = image.shape
    x = image.double().tolist()

    def weights(centre: float, n: int, sigma: float) -> list[float]:
        each = [math.exp(-0.5 * ((i - centre) / sigma) ** 2) for i in range(n)]
        return [w / sum(each) for w in each]

    rows = [weights(i, height, BLUR * height) for i in range(height)]
    columns = [weights(j, width, BLUR * width) for j in range(width)]
    blurred = [
        [
            [
                sum(rows[i][a] * columns[j][b] * x[c][a][b] for a in range(height) for b in range(width))
                for j in range(width)
            ]
            for i in range(height)
        ]
        for c in range(channels)
    ]
    floor = ROUNDING * float(image.abs().max())
    histogram = torch.zeros(orientations, cells, cells, dtype=torch.float64)
    down = [weights((a + 0.5) * height / cells - 0.5, height, height / cells / 2) for a in range(cells)]
    across = [weights((b + 0.5) * width / cells - 0.5, width, width / cells / 2) for b in range(cells)]
    for i, j in product(range(height), range(width)):
        gradients = []
        for plane in blurred:
            to_right = plane[i][min(j + 1, width - 1)] - plane[i][max(j - 1, 0)]
            downwards = plane[min(i + 1, height - 1)][j] - plane[max(i - 1, 0)][j]
            gradients.append((math.hypot(to_right, downwards), math.atan2(downwards, to_right)))
        length, angle = max(gradients)
        for o in range(orientations):
            apart = abs((angle / (2 * math.pi) * orientations - o + orientations / 2) % orientations - orientations / 2)
            share = max(0.0, 1 - apart) * max(0.0, length - floor)
            for a, b in product(range(cells), range(cells)):
                histogram[o, a, b] += share * down[a][i] * across[b][j]
    code = histogram.sqrt().flatten()
    return code / code.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "cells", "orientations"),
    [((1, 8, 8), CELLS, ORIENTATIONS), ((3, 9, 12), CELLS, ORIENTATIONS), ((2, 10, 8), 3, 4), ((1, 8, 8), 2, 2)],
)
def test_codes_are_the_definition(shape: tuple[int, ...], cells: int, orientations: int) -> None:
    x = images(2, *shape) - 0.3
    found = hog(x, cells, orientations)
    expected = torch.stack([loops(one, cells, orientations) for one in x])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 30, 44), (3, 224, 224), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_size_gives_a_vector_of_length_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = hog(x)
    assert found.shape == (2, 392)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    torch.testing.assert_close(found.norm(dim=1), torch.full((2,), float(shape[1] > 1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", EIGHT)
def test_one_edge_is_in_one_orientation_and_the_cells_it_crosses(way: int) -> None:
    found = by_cell(hog(edge(way)).square())[0]  # of sum 1
    assert found[way].sum() > 0.9
    assert found.sum((1, 2)).argmax() == way
    cell = torch.arange(CELLS) - 3.0
    angle = math.radians(45 * way)
    from_edge = (math.cos(angle) * cell[None, :] + math.sin(angle) * cell[:, None]).abs()
    assert found.sum(0)[from_edge < 0.8].sum() > 0.7
    assert found.sum(0)[from_edge > 2].sum() < 1e-2


def test_an_edge_between_two_orientations_is_shared_by_them() -> None:
    slope = torch.arange(28.0)
    for angle in (10.0, 22.5, 100.0, 350.0):
        way = math.radians(angle)
        x = (math.cos(way) * slope[None, :] + math.sin(way) * slope[:, None])[None, None]
        middle = by_cell(hog(x).square())[0, :, 3, 3]
        lower, share = int(angle // 45), angle % 45 / 45
        assert middle[lower] / middle.sum() == pytest.approx(1 - share, abs=1e-3)
        assert middle[(lower + 1) % 8] / middle.sum() == pytest.approx(share, abs=1e-3)


def test_dark_to_light_is_not_light_to_dark() -> None:
    for way in EIGHT:
        one, other = hog(edge(way)), hog(1 - edge(way))
        assert (one * other).sum() < 0.3
        torch.testing.assert_close(other, hog(edge((way + 4) % 8)), rtol=0, atol=1e-3)
        torch.testing.assert_close(other, permuted(one, [(o + 4) % 8 for o in EIGHT]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1 / 3, 0.7, 1.0, -2.1, 1e4])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 44)])
def test_a_blank_image_gives_zeros(value: float, shape: tuple[int, ...]) -> None:
    assert not hog(torch.full((2, *shape), value)).any()


def test_a_blank_part_of_an_image_has_no_edges() -> None:
    x = torch.full((1, 1, 28, 28), 0.3)
    x[..., :8] = images(1, 1, 28, 8)
    assert not by_cell(hog(x))[..., 6].gt(1e-3).any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 44)])
def test_neither_brightness_nor_contrast_counts(shape: tuple[int, ...]) -> None:
    x = images(4, *shape)
    found = hog(x)
    torch.testing.assert_close(hog(x + 0.5), found, rtol=0, atol=1e-5)
    for contrast in (1e-3, 0.4, 255.0):
        torch.testing.assert_close(hog(contrast * x), found, rtol=0, atol=1e-5)
    torch.testing.assert_close(hog(0.2 * x - 0.7), found, rtol=0, atol=1e-4)


def test_shape_counts() -> None:
    """Two edges of the same image are nearer than those of two images, whatever the light."""
    one, other = images(2, 1, 28, 28)
    codes = hog(torch.stack([one, 0.3 * one + 0.6, other]))
    assert (codes[0] - codes[1]).norm() < 0.01 * (codes[0] - codes[2]).norm()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_image_turns_cells_and_orientations(turns: int) -> None:
    x = images(3, 2, 28, 28)
    turned = hog(torch.rot90(x, turns, (2, 3)))  # anticlockwise: "to the right" becomes "upwards", o = 6
    expected = permuted(hog(x), [(o - 2 * turns) % 8 for o in EIGHT], turns=turns)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 44), (1, 9, 9)])
def test_a_mirrored_image_mirrors_cells_and_orientations(shape: tuple[int, ...]) -> None:
    x = images(3, *shape)
    found = hog(x)
    left_to_right = permuted(found, [(4 - o) % 8 for o in EIGHT], dims=(3,))
    torch.testing.assert_close(hog(x.flip(3)), left_to_right, rtol=0, atol=1e-5)
    upside_down = permuted(found, [-o % 8 for o in EIGHT], dims=(2,))
    torch.testing.assert_close(hog(x.flip(2)), upside_down, rtol=0, atol=1e-5)


def test_the_channel_of_the_longest_gradient_counts_at_each_pixel() -> None:
    weak, strong, blank = edge(7, contrast=0.4), edge(3), torch.full((1, 1, 56, 56), 0.6)
    for order in ([weak, strong, blank], [strong, blank, weak]):
        torch.testing.assert_close(hog(torch.cat(order, 1)), hog(strong), rtol=0, atol=1e-5)
    half = torch.arange(28) < 14
    left, right = images(2, 1, 28, 28).unbind(0)
    both = torch.stack([left.where(half, 0.5), right.where(~half, 0.5)], 1)  # one channel sees each half
    together = by_cell(hog(both))
    for channel, column in ((0, 0), (1, 6)):
        alone = by_cell(hog(both[:, [channel]]))
        ratio = together[..., column] / alone[..., column].clamp_min(1e-6)
        assert ratio[alone[..., column] > 1e-2].std() < 1e-3  # the same but for the norm of the whole
    grey = images(2, 1, 28, 28)
    torch.testing.assert_close(hog(grey.expand(-1, 3, -1, -1)), hog(grey))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 44)])
def test_items_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    x = images(11, *shape)
    whole = hog(x)
    for sizes in ([1] * 11, [2, 9], [5, 6]):
        parts = [hog(part) for part in x.split(sizes)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)
    laid_out = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(hog(laid_out), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(module, "AT_ONCE", 3 * 8 * shape[1] * shape[2])  # three images at a time
    torch.testing.assert_close(hog(x), whole, rtol=1e-5, atol=1e-6)
    assert hog(x[:0]).shape == (0, 392)
