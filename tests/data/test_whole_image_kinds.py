"""Synthetic anomalies of whole images: what they keep, that they can be seen, and that the generator decides all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from knowngood.data.whole_image_kinds import CHANGED, KINDS, VISIBLE, altered, anomalous
from knowngood.errors import DataError, SettingsError

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 24, 3), (256, 256, 3)]


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blots on [0, 1], float32."""
    rng = np.random.default_rng(seed)
    x = gaussian_filter(rng.standard_normal(shape), (shape[0] / 10, shape[1] / 10, 0))
    return ((x - x.min()) / (x.max() - x.min())).astype(np.float32)


def as_type(x: np.ndarray, name: str) -> np.ndarray:
    return {"uint8": (x * 255).round(), "uint16": x * 4095, "float32": x, "beyond": x * 3 - 1}[name].astype(
        "float32" if name == "beyond" else name
    )


@pytest.mark.parametrize("name", ["uint8", "uint16", "float32", "beyond"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_shape_type_and_range_and_can_be_seen(kind: str, shape: tuple[int, ...], name: str) -> None:
    image, other = as_type(picture(shape), name), as_type(picture(shape, 1), name)
    before = image.copy()
    low, high = min(0, image.min()), {"uint8": 255, "uint16": image.max(), "float32": 1, "beyond": image.max()}[name]
    for seed in range(5):
        made, found = anomalous(image, np.random.default_rng(seed), kind, other)
        assert found == kind
        assert np.array_equal(image, before)
        assert (made.shape, made.dtype) == (image.shape, image.dtype)
        assert low <= made.min()
        assert made.max() <= high
        change = np.abs(made.astype(float) - image).max(axis=2)
        assert (change >= VISIBLE * (high - low)).mean() >= CHANGED


@pytest.mark.parametrize("kind", KINDS)
def test_large_colour_images(kind: str) -> None:
    made, found = anomalous(picture(SHAPES[3]), np.random.default_rng(0), kind, picture(SHAPES[3], 1))
    assert found == kind
    assert made.shape == SHAPES[3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_all(kind: str) -> None:
    image, other = picture((28, 28, 1)), picture((28, 28, 1), 1)
    one, two = (anomalous(image, np.random.default_rng(3), kind, other)[0] for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, anomalous(image, np.random.default_rng(4), kind, other)[0])


def test_shuffled_patches_keep_their_values() -> None:
    image = picture((32, 24, 3))
    for seed in range(5):
        made, _ = anomalous(image, np.random.default_rng(seed), "shuffle")
        assert np.allclose(np.sort(made, axis=None), np.sort(image, axis=None), atol=1e-6)


def test_blur_and_warp_of_a_plain_surface_become_noise() -> None:
    plain = np.full((16, 16, 1), 90, dtype=np.uint8)
    for kind in ("blur", "warp", "shuffle", "cutpaste", "mixture"):
        made, found = anomalous(plain, np.random.default_rng(0), kind)
        assert found == "noise" or kind == "cutpaste"
        assert not np.array_equal(made, plain)


def test_a_mixture_is_of_another_stratum_where_there_is_one() -> None:
    images = np.zeros((6, 1, 16, 16), dtype=np.float32)
    images[3:] = 1  # black images are stratum 0, white ones 1: a mixture within one would change nothing
    made = altered(images, "mixture", 0, np.array([0, 0, 0, 1, 1, 1]))
    shares = made.mean(axis=(1, 2, 3))
    assert ((shares > 0.1) & (shares < 0.9)).all()


def test_what_becomes_of_an_image_hangs_on_seed_kind_and_place_alone() -> None:
    images = np.stack([picture((12, 12, 2), i).transpose(2, 0, 1) for i in range(4)])
    made = altered(images, "noise", 7)
    assert np.array_equal(made, altered(images, "noise", 7))
    changed = images.copy()
    changed[3] = changed[3, :, ::-1]
    assert np.array_equal(made[:3], altered(changed, "noise", 7)[:3])
    assert not np.array_equal(made, altered(images, "noise", 8))


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(SettingsError, match=r"kind = 'blurr'; did you mean 'blur'"):
        anomalous(picture((8, 8, 1)), rng, "blurr")
    with pytest.raises(DataError, match=r"shape \(3, 8, 1\).*both sides at least 4"):
        anomalous(picture((8, 8, 1))[:3], rng, "noise")
    with pytest.raises(DataError, match="NaN"):
        anomalous(np.full((8, 8, 1), np.nan, np.float32), rng, "noise")
