"""Large pictures in tiles: maps of the whole picture, sizes, and the stride that memory allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.config import FeatureOptions
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.representations import Features
from knowngood.representations.tiled import Tiling, alike
from patch_models import TinyBackbone

OPTIONS = {"backbone": {"name": "own"}, "average": 1}


def pictures(n: int = 3, height: int = 72, width: int = 96) -> ImageSet:
    return ImageSet.from_arrays(np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def fitted(images: ImageSet, tile: tuple[int, float] | None, **options: object) -> Features:
    return Features.fit(images, FeatureOptions(**OPTIONS | options), TinyBackbone(), tile=tile)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_features_of_a_local_backbone_are_those_of_the_whole_picture(share: float) -> None:
    """The tiny backbone sees cells that do not overlap, so that tiles change nothing."""
    images = pictures()
    tiled = fitted(images, (32, share), image_size=32, stride=4)
    whole = fitted(images, None, image_size=(72, 96), stride=4)
    assert tiled.grid == whole.grid == (18, 24)
    assert tiled.tiling is not None
    assert whole.tiling is None
    np.testing.assert_allclose(tiled.read(images)[0], whole.read(images)[0], rtol=2e-3, atol=2e-3)


def test_tiles_join_without_gaps_whatever_the_stride_of_a_map() -> None:
    tiling = Tiling(size=(40, 56), side=24, overlap=8, unit=8)
    x = torch.arange(56.0).expand(1, 1, 40, 56)
    for stride in (1, 2, 4, 8):
        (whole,) = tiling.stitched(x, lambda part, s=stride: [part[..., ::s, ::s]])
        torch.testing.assert_close(whole, x[..., ::stride, ::stride])


def test_each_tile_is_seen_once_and_alone() -> None:
    tiling, seen = Tiling(size=(64, 96), side=32, overlap=0, unit=32), []

    def features(part: torch.Tensor) -> list[torch.Tensor]:
        seen.append(tuple(part.shape))
        return [part]

    tiling.stitched(torch.zeros(1, 3, 64, 96), features)
    assert seen == [(1, 3, 32, 32)] * 6
    assert tiling.counts() == (2, 3)


def test_pictures_keep_their_resolution_and_small_tiles_are_enlarged() -> None:
    native = Tiling.of((3000, 4000), 960, 0.1, FeatureOptions())
    assert native.size == (3008, 4000)  # multiples of 32
    assert (native.side, native.overlap, native.counts()) == (960, 96, (4, 5))
    assert Tiling.of((256, 512), 128, 0.25, FeatureOptions()).size == (768, 1536)  # tiles of 384
    assert Tiling.of((256, 512), 128, 0.25, FeatureOptions(image_size=256)).size == (512, 1024)


def test_overlapping_tiles_need_room_for_the_overlap() -> None:
    with pytest.raises(SettingsError, match=r"tile = 2 is too small for tile_overlap = 0\.5"):
        Tiling.of((64, 64), 2, 0.5, FeatureOptions(image_size=1))


@pytest.mark.parametrize(("features", "images", "cells"), [(176, 20, 1), (176, 400, 1), (176, 20, 6), (640, 50, 1)])
def test_the_stride_is_the_smallest_whose_gaussians_and_features_take_two_gib(
    features: int, images: int, cells: int
) -> None:
    tiling = Tiling.of((3000, 4000), 960, 0.1, FeatureOptions())
    stride = tiling.stride(features, images, cells, 4)

    def taken(stride: int) -> float:
        return tiling.size[0] * tiling.size[1] / stride**2 * 4 * features * max(features * cells, images)

    assert taken(stride) <= 2 * 2**30 < taken(stride - 1)


def test_a_stride_that_is_given_is_kept() -> None:
    assert fitted(pictures(), (32, 0.0), image_size=32, stride=8).grid == (9, 12)
    assert fitted(pictures(), (32, 0.0), image_size=32).options.stride == 12  # the default is little enough


def test_pictures_of_about_one_size_are_resized_and_others_are_refused() -> None:
    tiled = fitted(pictures(), (32, 0.0), image_size=32, stride=4)
    assert tiled.read(pictures(1, 70, 99))[0].shape == (1, 10, 18, 24)
    with pytest.raises(DataError, match=r"96 × 60 px .*about 96 × 72.*10 %"):
        tiled.read(pictures(1, 60, 96))
    assert tiled.to_image(np.zeros((18, 24)), (70, 99)).shape == (70, 99)


def test_locations_are_alike_where_their_own_means_predict_no_better() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 5, 12, 12, generator=rng)
    assert alike(noise)
    assert not alike(noise + torch.randn(1, 5, 12, 12, generator=rng))
    assert not alike(noise[:1])
    assert not alike(noise + torch.linspace(0, 9, 12))
