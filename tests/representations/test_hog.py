"""HOG as a representation: its formula, its invariances, and maps back to image coordinates."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from knowngood.config import HOGOptions, PixelOptions
from knowngood.data import open_images
from knowngood.errors import DataError
from knowngood.representations import HOG, Pixels
from knowngood.representations.hog import DIRECTIONS, hog

SHAPE = (8, 7, 7)


def noise(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """(n, *shape) uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def fitted(images: np.ndarray, **options: Any) -> HOG:
    return HOG.fit(open_images(images), HOGOptions(**options))


# Formula --------------------------------------------------------------------------------------------------------------


def test_values_are_unit_vectors_times_the_root_of_their_number_minus_the_centre() -> None:
    x = noise(6, 20, 26)
    features = fitted(x)
    q = hog(torch.from_numpy(x)[:, None] / 255, power=0.25)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(6))
    centre = (math.sqrt(392) * q).double().mean(0)
    torch.testing.assert_close(torch.tensor(features.centre, dtype=torch.float64), centre, rtol=0, atol=1e-6)
    values = features.scale(torch.from_numpy(x)[:, None])
    assert values.shape == (6, *SHAPE) == (6, *features.shape)
    torch.testing.assert_close(values.flatten(1), (math.sqrt(392) * q - centre).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.unscale(values).flatten(1), q, rtol=0, atol=1e-6)


def test_powers_are_of_the_same_sums() -> None:
    x = torch.from_numpy(noise(3, 1, 16, 16)).float()
    root, plain = hog(x), hog(x, power=1.0)
    torch.testing.assert_close(hog(x, power=0.5), root, rtol=0, atol=0)
    for power, of in ((0.25, root.sqrt()), (1.0, root.square()), (0.25, plain.pow(0.25))):
        expected = of / of.norm(dim=1, keepdim=True)
        torch.testing.assert_close(hog(x, power=power), expected, rtol=0, atol=1e-6)


def test_brightness_and_contrast_change_nothing_and_values_are_of_order_one() -> None:
    x = noise(40, 24, 24) // 4
    features = fitted(x)
    original, changed = (features.scale(torch.from_numpy(v)[:, None]) for v in (x, 3 * x + 20))
    torch.testing.assert_close(original, changed, rtol=0, atol=1e-3)
    assert 0.05 < float(original.std()) < 2


def test_the_centre_is_estimated_from_a_limited_number_of_evenly_spread_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowngood.representations.hog.MEAN_OF", 5)
    monkeypatch.setattr("knowngood.representations.hog.CHUNK", 2)
    x = noise(17, 12, 12)
    np.testing.assert_allclose(fitted(x).centre, fitted(x[[0, 4, 8, 12, 16]]).centre, rtol=0, atol=0)


def test_a_constant_image_is_minus_the_centre_and_independent_of_its_batch() -> None:
    x = noise(9, 16, 16)
    x[3] = 77
    features = fitted(x)
    values = features.scale(torch.from_numpy(x)[:, None])
    torch.testing.assert_close(values[3].flatten(), -torch.tensor(features.centre))
    alone = torch.cat([features.scale(torch.from_numpy(x[i : i + 1])[:, None]) for i in range(9)])
    torch.testing.assert_close(values, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.to_tensor(open_images(x)), values, rtol=0, atol=1e-5)


# Back to the image ----------------------------------------------------------------------------------------------------


def test_images_are_prepared_as_pixels_are_and_any_size_has_the_same_cells() -> None:
    x = noise(5, 30, 20, 3)
    options: dict[str, Any] = {"grey": True, "crop": (24, 20), "pad": 28}
    features, pixels = fitted(x, **options), Pixels.fit(open_images(x), PixelOptions(**options))
    assert features.pixels == pixels
    assert features.bytes_per_image == pixels.bytes_per_image == 28 * 28
    np.testing.assert_array_equal(features.read(open_images(x))[0], pixels.read(open_images(x))[0])
    np.testing.assert_array_equal(features.prepare(x[0]), pixels.prepare(x[0]))
    assert features.shape == (8, 7, 7)
    with pytest.raises(DataError, match="channels"):
        features.check((30, 20, 4), np.uint8)


def test_json_and_pickle_give_the_same_bits() -> None:
    features = fitted(noise(7, 19, 23))
    batch = torch.from_numpy(noise(4, 1, 19, 23, seed=1))
    for copy in (HOG.model_validate_json(features.model_dump_json()), pickle.loads(pickle.dumps(features))):
        assert copy == features
        assert torch.equal(copy.scale(batch), features.scale(batch))


def test_maps_are_interpolated_between_the_centres_of_cells() -> None:
    features = fitted(noise(3, 28, 42))
    grid = np.zeros((2, 7, 7), np.float32)
    grid[0, 1, 5] = 1
    grid[1] = 3
    on_image = features.to_image(grid, (28, 42))
    assert on_image.shape == (2, 28, 42)
    row, column = np.unravel_index(on_image[0].argmax(), (28, 42))
    assert (row // 4, column // 6) == (1, 5)
    assert on_image[0, :, :24].max() == 0
    assert np.abs(np.diff(on_image[0], axis=0)).max() <= 1 / 4 + 1e-6  # a cell's side of 4 from 0 to 1
    np.testing.assert_allclose(on_image[1], 3)
    cropped = fitted(noise(3, 28, 42), crop=(28, 28)).to_image(grid[:1], (28, 42))
    assert cropped.shape == (1, 28, 42)
    assert cropped[0, :, :7].max() == 0 == cropped[0, :, 35:].max()
    with pytest.raises(ValueError, match="7, 7"):
        features.to_image(np.zeros((1, 8, 8), np.float32), (28, 42))


def test_an_image_that_is_not_finite_is_refused() -> None:
    x = noise(20, 12, 12).astype(np.float32)
    x[7, 3, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        fitted(x)


def test_directions_are_named_as_on_the_screen() -> None:
    right = np.zeros((2, 28, 28), np.uint8)
    right[0, :, 14:] = 200
    right[1, 14:] = 200
    q = hog(torch.from_numpy(right)[:, None], power=0.25).unflatten(1, SHAPE)
    strongest = [DIRECTIONS[int(o)] for o in q[:, :, 3, 3].argmax(1)]
    assert strongest == ["to the right", "downwards"]
