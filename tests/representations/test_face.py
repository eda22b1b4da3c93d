"""The one face of all representations, and the errors that belong to it."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from knowngood.config import FeatureOptions, HOGOptions, PixelOptions, TableOptions
from knowngood.data import TableSet
from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.representations import HOG, Features, Pixels, Table
from knowngood.representations.alignment.registration import Registration
from knowngood.representations.base import Representation


class Means:
    def features(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, 8)]

    def fingerprint(self) -> str:
        return "means"


def images(dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (600, 16, 24, 1)).astype(dtype)


def of_images(items: ImageSet) -> list[Representation]:
    features = FeatureOptions.model_validate({"backbone": "own", "image_size": (16, 24), "stride": 8})
    return [
        Pixels.fit(items, PixelOptions()),
        HOG.fit(items, HOGOptions()),
        Features.fit(items, features, Means()),
    ]


@pytest.mark.slow
def test_to_tensor_reads_and_scales_and_maps_come_back_to_the_image() -> None:
    items = ImageSet.from_arrays(images())
    for representation in of_images(items):
        x = representation.to_tensor(items)
        assert x.dtype == torch.float32
        assert x.shape == (600, *representation.shape)
        native, errors = representation.read(items)
        assert not errors
        torch.testing.assert_close(x, representation.scale(torch.from_numpy(native)), rtol=0, atol=1e-5)
        assert native[0].nbytes == representation.bytes_per_image
        map = np.ones((2, *representation.shape[-2:]))
        np.testing.assert_allclose(representation.to_image(map, (16, 24, 1)), np.ones((2, 16, 24)), rtol=1e-6)
        again = representation.with_state(representation.state())
        torch.testing.assert_close(again.to_tensor(items), x, rtol=0, atol=0)


@pytest.mark.slow
def test_to_tensor_names_the_first_unreadable_image() -> None:
    values = images(np.float32)
    fitted = of_images(ImageSet.from_arrays(values))
    values[[5, 7], 3, 3] = np.nan
    broken = ImageSet.from_arrays(values)
    for representation in fitted:
        with pytest.raises(DataError, match=r"^005: .*NaN or infinite.*\(and 1 more of 600 items\)"):
            representation.to_tensor(broken)


def test_a_table_has_the_face_and_no_image() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (50, 4))
    items = TableSet.from_array(rows)
    table: Representation = Table.fit(items, TableOptions())
    x = table.to_tensor(items)
    np.testing.assert_allclose(table.unscale(x), rows, rtol=1e-5, atol=1e-5)
    assert table.state() == {}
    assert table.with_state({}) is table
    table.check((50, 4), np.float64)
    with pytest.raises(DataError, match="no image"):
        table.to_image(np.zeros((1, 4)), (4, 4))


def test_alignment_without_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsError, match=r'pip install "knowngood\[align\]"'):
        Registration.fit([np.random.default_rng(0).random((32, 32))])
