"""Patches as training data: each row is the whitened patch of the place and image that it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.models.patch_gaussian import Patches
from knowngood.training.patch_source import AT_ONCE, MOST, PatchSource
from patch_models import F, H, W, fitted, product_features

P = H * W
N = 4 * AT_ONCE + 9  # more images than are whitened together


def given(products: int = 2) -> tuple[Tensor, Patches, np.ndarray, np.ndarray]:
    """Features (N, F, h, w), their Gaussians, conditions (N, K) and strata (N,), products mixed."""
    product = torch.arange(N) % products
    x = torch.empty(N, F, H, W)
    for k in range(products):
        x[product == k] = product_features(k, int((product == k).sum()))
    patches = fitted(x, 0.1, product)
    c = torch.eye(products)[product] if products > 1 else torch.zeros(N, 0)
    return x, patches, c.numpy(), product.numpy()


def of_image(source: PatchSource) -> Tensor:
    """(rows,) the image of each row."""
    return torch.arange(len(source)) // source.each


def source(x: Tensor, patches: Patches, c: np.ndarray | None, **more: Any) -> PatchSource:
    return PatchSource(x.numpy(), patches, c, **{"seed": 3, **more})


def test_rows_are_whitened_patches_at_the_place_they_say() -> None:
    x, patches, c, product = given()
    made = source(x, patches, c, stratum=product, n_strata=2)
    assert len(made) == N * P
    assert made.each == P
    white = patches.whiten(x, torch.from_numpy(product))
    index = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    batch = made.batch(index)
    image, place = of_image(made)[index], made.place[index]
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x, white[image, place], rtol=1e-3, atol=1e-3)  # half precision
    assert torch.equal(batch.index, index)
    assert torch.equal(batch.stratum, torch.from_numpy(product)[image])
    assert (batch.label == 0).all()
    # Every patch of every image, once.
    assert sorted((image * P + place).tolist()) == list(range(N * P))


def test_conditions_are_the_images_then_the_positions() -> None:
    x, patches, c, _ = given()
    made = source(x, patches, c)
    index = torch.tensor([0, P - 1, P, 5 * P + 3, len(made) - 1])
    told = made.batch(index).c
    assert told is not None
    assert told.shape == (5, patches.condition_width)
    assert torch.equal(told[:, :2], torch.from_numpy(c)[of_image(made)[index]])
    assert torch.equal(told[:, 2:], patches.position[made.place[index]])
    rows, conditions = patches.split(x, torch.from_numpy(c))  # the same as at scoring
    whole = made.batch(torch.arange(len(made)))
    torch.testing.assert_close(whole.x, rows, rtol=1e-3, atol=1e-3)
    assert torch.equal(whole.c, conditions)


@pytest.mark.parametrize("none", [True, False])
def test_without_conditions_only_the_position_is_told(none: bool) -> None:
    x, patches, c, _ = given(products=1)
    made = source(x, patches, None if none else c)
    told = made.batch(torch.arange(4)).c
    assert told is not None
    assert torch.equal(told, patches.position[:4])


@pytest.mark.parametrize(("most", "each"), [(5 * N, 5), (5 * N + N - 1, 5), (1, 1), (P * N, P), (MOST, P)])
def test_a_draw_has_as_many_of_each_image(most: int, each: int) -> None:
    x, patches, c, product = given()
    made = source(x, patches, c, most=most)
    assert len(made) == N * each
    place = made.place.unflatten(0, (N, each))
    assert all(len(row.unique()) == each for row in place)
    white = patches.whiten(x, torch.from_numpy(product))
    wanted = white[of_image(made), made.place]
    torch.testing.assert_close(made.batch(torch.arange(len(made))).x, wanted, rtol=1e-3, atol=1e-3)


def test_a_draw_follows_from_its_seed_and_covers_all_places() -> None:
    x, patches, c, _ = given()
    before = torch.random.get_rng_state()
    one, same, other = (source(x, patches, c, most=4 * N, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.place, same.place)
    assert torch.equal(one.rows, same.rows)
    assert not torch.equal(one.place, other.place)
    counts = torch.bincount(one.place, minlength=P)  # 164 draws over 12 places: about 14 each
    assert counts.min() > 4
    assert counts.max() < 30


def test_ignored_places_never_appear() -> None:
    """Of products with different regions, each image has as many as the one that has fewest."""
    x, patches, c, product = given()
    patches.ignored[0, [0, 1, 5]] = True
    patches.ignored[1, [7]] = True
    made = source(x, patches, c)
    assert made.each == P - 3
    cell = torch.from_numpy(product)[of_image(made)]
    assert not patches.ignored[cell, made.place].any()
    first = made.place[cell == 0].unflatten(0, (-1, P - 3))
    assert (first == torch.tensor([2, 3, 4, 6, 7, 8, 9, 10, 11])).all()
    second = made.place[cell == 1].unique()
    assert second.tolist() == [place for place in range(P) if place != 7]


def test_batches_are_in_the_order_asked_for() -> None:
    x, patches, c, _ = given()
    made = source(x, patches, c).to(torch.device("cpu"))
    rows = [torch.tensor([4, 2]), torch.tensor([0]), torch.tensor([7, 7, 1])]
    found = list(made.batches(rows))
    assert [batch.index.tolist() for batch in found] == [[4, 2], [0], [7, 7, 1]]
    for row, batch in zip(rows, found, strict=True):
        assert torch.equal(batch.x, made.rows[row].float())


def test_no_images_are_no_patches() -> None:
    _, patches, c, _ = given()
    empty = np.zeros((0, F, H, W), np.float16)
    assert len(PatchSource(empty, patches, c[:0], seed=0)) == 0


def test_features_may_be_half_precision_and_mapped_from_a_file(tmp_path: Any) -> None:
    x, patches, c, _ = given()
    np.save(tmp_path / "features.npy", x.half().numpy())
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    made = PatchSource(mapped, patches, c, seed=0)
    torch.testing.assert_close(made.rows, source(x.half().float(), patches, c).rows)
