"""Pixels and tables: geometry there and back, scaling rules, refusals."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from knowngood.config import PixelOptions
from knowngood.data import TableSet
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.errors import DataError, SettingsError
from knowngood.representations import Pixels, Table, prepare_all


class ListPixels:
    """Images of any shapes and types, read one by one as files are."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        return self.images[i]

    def take(self, indices: np.ndarray) -> ListPixels:
        return ListPixels([self.images[int(i)] for i in indices])

    def shapes(self) -> np.ndarray:
        return np.array([image.shape for image in self.images])

    def update(self, digest: Any) -> None:
        for image in self.images:
            digest.update(image.tobytes())


def listed(*images: np.ndarray) -> ImageSet:
    ids = np.array([f"part{i}.png" for i in range(len(images))])
    return ImageSet(ListPixels(list(images)), ids, np.full(len(images), np.nan), {}, name="parts")


def random(*shape: int, dtype: Any = np.uint8, top: int | None = None, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, (np.iinfo(dtype).max if top is None else top) + 1, shape, dtype=dtype)


def fit(images: np.ndarray | ImageSet, **settings: Any) -> Pixels:
    return Pixels.fit(
        images if isinstance(images, ImageSet) else ImageSet.from_arrays(images), PixelOptions(**settings)
    )


# Scaling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "top", "high", "rule"),
    [
        ("uint8", 255, 255, "uint8: 0..255"),
        ("uint8", 32, 255, "uint8: 0..255"),
        ("uint8", 31, 31, "uint8 holding few values: 0..31"),
        ("uint8", 16, 16, "uint8 holding few values: 0..16"),
        ("uint8", 10, 15, "uint8 holding 4 bits: 0..15"),
        ("uint8", 1, 1, "uint8 holding 1 bit: 0..1"),
        ("uint8", 0, 1, "uint8 holding 1 bit: 0..1"),
        ("uint16", 200, 255, "uint16 holding 8 bits: 0..255"),
        ("uint16", 256, 1023, "uint16 holding 10 bits: 0..1023"),
        ("uint16", 4000, 4095, "uint16 holding 12 bits: 0..4095"),
        ("uint16", 16383, 16383, "uint16 holding 14 bits: 0..16383"),
        ("uint16", 16384, 65535, "uint16: 0..65535"),
        ("int16", 4000, 4095, "int16 holding 12 bits: 0..4095"),
        ("int32", 70000, 70000, "int32 holding more than 16 bits: 0..70000"),
        ("float32", 0.7, 1, "float32 within 0..1"),
    ],
)
def test_auto_scaling_follows_the_bit_depth(dtype: str, top: float, high: float, rule: str) -> None:
    images = np.zeros((3, 8, 8), dtype=dtype)
    images[2, 3, 3] = top
    pixels = fit(images)
    assert (pixels.low, pixels.high, pixels.rule, pixels.dtype) == (0, high, rule, dtype)
    assert fit(listed(*images[..., None])) == pixels


@pytest.mark.parametrize(
    ("images", "scaling", "low", "high"),
    [
        (np.array([-1000, 3000], dtype=np.int16), "auto", -1000, 3000),
        (np.array([-0.5, 0.5], dtype=np.float32), "auto", -0.5, 0.5),
        (np.array([0, 300], dtype=np.float64), "auto", 0, 300),
        (np.array([10, 20], dtype=np.uint8), "data", 10, 20),
        (np.array([7, 7], dtype=np.uint8), "data", 7, 8),
        (np.array([10, 20], dtype=np.uint16), "dtype", 0, 65535),
        (np.array([10, 20], dtype=np.int8), "dtype", -128, 127),
        (np.array([10, 20], dtype=np.uint8), (127.5, 255.0), 127.5, 255),
    ],
)
def test_other_ranges(images: np.ndarray, scaling: Any, low: float, high: float) -> None:
    pixels = fit(images.reshape(2, 1, 1), scaling=scaling)
    assert (pixels.low, pixels.high) == (low, high)


def test_scaling_that_cannot_be() -> None:
    with pytest.raises(SettingsError, match="needs integer images, these are float32"):
        fit(random(2, 4, 4, dtype=np.float32), scaling="dtype")
    with pytest.raises(SettingsError, match=r"scaling = \(5, 5\)"):
        fit(random(2, 4, 4), scaling=(5.0, 5.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_scale_and_unscale_are_inverse_and_nothing_is_clamped(dtype: Any) -> None:
    images = random(5, 6, 7, dtype=dtype, top=1000 if dtype != np.uint8 else 255)
    pixels = fit(images)
    batch = torch.from_numpy(prepare_all(ImageSet.from_arrays(images), pixels))
    scaled = pixels.scale(batch)
    assert scaled.dtype == torch.float32
    assert scaled.shape == (5, 1, 6, 7)
    assert 0 <= scaled.min() <= scaled.max() <= 1
    np.testing.assert_allclose(pixels.unscale(scaled).numpy()[:, 0], images, rtol=1e-6, atol=1e-4)
    brighter = torch.full((1, 1, 6, 7), 2 * pixels.high)
    assert pixels.scale(brighter).max() == 2


def test_new_images_beyond_the_recorded_range_are_counted() -> None:
    images = random(4, 8, 8, dtype=np.uint16, top=4095)
    images[0, 0, 0] = 4095
    pixels = fit(images)
    batch = prepare_all(ImageSet.from_arrays(images), pixels)
    assert pixels.out_of_range(batch) == 0
    batch = batch.copy()
    batch[1:3, 0, 0, 0] = 5000
    assert pixels.out_of_range(batch) == 2
    assert pixels.out_of_range(torch.from_numpy(batch)) == 2
    assert pixels.out_of_range(batch[:0]) == 0


# Geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.tuples(st.integers(4, 20), st.integers(4, 20), st.integers(1, 5)),
    st.tuples(st.integers(4, 24), st.integers(4, 24)),
    st.data(),
    st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_prepared_shape_type_and_range(shape: Any, size: Any, data: st.DataObject, dtype: str) -> None:
    crop = data.draw(st.none() | st.tuples(*(st.integers(1, side) for side in size)))
    inner = crop or size
    pad = data.draw(st.none() | st.tuples(*(st.integers(side, side + 5) for side in inner)))
    images = random(3, *shape, dtype=dtype)
    pixels = fit(images, image_size=size, crop=crop, pad=pad)
    assert pixels.shape == (shape[2], *(pad or inner))
    prepared = pixels.prepare(images[0])
    assert prepared.shape == pixels.shape
    assert prepared.dtype == images.dtype
    assert prepared.nbytes == pixels.bytes_per_image
    assert prepared.max() <= images[0].max() * (1 + 1e-6)
    if pad is None:
        assert prepared.min() >= images[0].min() * (1 - 1e-6)
    on_image = pixels.to_image(np.ones(pixels.shape[1:]), shape)
    assert on_image.shape == shape[:2]
    again = Pixels.model_validate_json(pixels.model_dump_json())
    assert again == pixels


def test_full_scale_survives_the_resize() -> None:
    white = np.full((2, 9, 13, 3), 65535, dtype=np.uint16)
    pixels = fit(white, image_size=(7, 20), grey=True)
    prepared = pixels.prepare(white[0])
    assert prepared.dtype == np.uint16
    np.testing.assert_array_equal(prepared, 65535)
    large = np.full((1, 5, 5), 16_777_217, dtype=np.int32)  # one more than float32 can count to
    np.testing.assert_array_equal(fit(large, image_size=3).prepare(large[0][..., None]), 16_777_217)


def test_resize_is_antialiased_and_rounded() -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (1, 64, 32))
    small = fit(stripes, image_size=8).prepare(stripes[0][..., None])
    assert np.abs(small[0, 1:-1, 1:-1].astype(int) - 127.5).max() <= 1  # every other pixel alone would be all 0 or 255
    two = np.array([[[1, 2]]], dtype=np.uint8)
    np.testing.assert_array_equal(fit(two, image_size=1).prepare(two[0][..., None]), 2)  # 1.5 rounds to even


def test_crop_is_central_and_pad_adds_zeros_last() -> None:
    image = np.arange(1, 31, dtype=np.uint8).reshape(1, 5, 6)
    pixels = fit(image, crop=(3, 2), pad=(5, 5))
    prepared = pixels.prepare(image[0][..., None])[0]
    np.testing.assert_array_equal(prepared[1:4, 1:3], image[0, 1:4, 2:4])
    assert prepared.sum() == image[0, 1:4, 2:4].sum()


@pytest.mark.parametrize("source", [(120, 200), (40, 60), (60, 60), (90, 35)])
@pytest.mark.parametrize("settings", [{}, {"crop": (50, 40)}, {"pad": (80, 70)}, {"crop": (50, 40), "pad": (64, 64)}])
def test_a_marked_block_comes_back_to_its_location(source: tuple[int, int], settings: dict[str, Any]) -> None:
    height, width = source
    block = (slice(int(0.4 * height), int(0.55 * height)), slice(int(0.5 * width), int(0.65 * width)))
    image = np.zeros((height, width, 1), dtype=np.float32)
    image[block] = 1
    pixels = fit(listed(image), image_size=(60, 60), **settings)
    on_image = pixels.to_image(pixels.prepare(image)[0], source)
    assert on_image.shape == source
    wrong = np.abs(on_image - image[..., 0]) > 0.5
    assert wrong.sum() <= 0.15 * image.sum()  # at most half a prepared pixel along the edges
    rows, columns = np.indices(source)
    for axis, middle in ((rows, block[0]), (columns, block[1])):
        centre = (middle.start + middle.stop - 1) / 2
        assert (axis * on_image).sum() / on_image.sum() == pytest.approx(centre, abs=0.5)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_without_a_resize_the_way_back_is_exact(height: int, width: int, data: st.DataObject) -> None:
    crop = data.draw(st.none() | st.tuples(st.integers(1, height), st.integers(1, width)))
    inner = crop or (height, width)
    pad = data.draw(st.none() | st.tuples(*(st.integers(side, side + 4) for side in inner)))
    image = random(height, width, 1, dtype=np.float32, seed=height * width)
    pixels = fit(image[None], crop=crop, pad=pad)
    maps = np.stack([pixels.prepare(image)[0]] * 2)
    on_image = pixels.to_image(maps, image.shape)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    expected = np.zeros((height, width), dtype=np.float32)
    seen = (slice(top, top + inner[0]), slice(left, left + inner[1]))
    expected[seen] = image[(*seen, 0)]
    np.testing.assert_array_equal(on_image, [expected, expected])


def test_to_image_refuses_a_map_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4, 4\)"):
        fit(random(1, 4, 4)).to_image(np.zeros((5, 4)), (4, 4))


# Channels and grey --------------------------------------------------------------------------------------------------


def test_grey_is_luminance_and_takes_grey_and_colour() -> None:
    colour, grey = random(6, 5, 3), random(6, 5, 1, seed=1)
    pixels = fit(listed(colour, grey), grey=True)
    assert pixels.shape == (1, 6, 5)
    expected = np.round(colour.astype(np.float64) @ [0.299, 0.587, 0.114])
    assert np.abs(pixels.prepare(colour)[0].astype(float) - expected).max() <= 1
    np.testing.assert_array_equal(pixels.prepare(grey)[0], grey[..., 0])
    constant = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    equal = fit(listed(constant), grey=True)
    np.testing.assert_array_equal(equal.prepare(constant)[0], constant[..., 0])


@pytest.mark.parametrize(
    ("fitted", "given", "message"),
    [
        (3, 1, "has 1 channel, the model was fitted on 3 channels. To take both, .*--colour`.*`--grey`"),
        (1, 3, "has 3 channels, the model was fitted on 1 channel. To take both, .*--colour`.*`--grey`"),
        (
            3,
            4,
            "has 4 channels, the model was fitted on 3 channels. Channels, transparency included, are never dropped",
        ),
    ],
)
def test_other_channel_counts_are_refused(fitted: int, given: int, message: str) -> None:
    pixels = fit(random(2, 4, 4, fitted))
    with pytest.raises(DataError, match=message):
        pixels.prepare(random(4, 4, given))


def test_grey_of_other_channel_counts_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 images have 4 channels; grey=True .* cannot be known"):
        fit(random(2, 4, 4, 4), grey=True)
    with pytest.raises(DataError, match="an image has 2 channels; grey=True"):
        fit(random(2, 4, 4, 3), grey=True).prepare(random(4, 4, 2))


def test_many_channels_stay() -> None:
    images = random(2, 6, 5, 7)
    np.testing.assert_array_equal(fit(images).prepare(images[1]), images[1].transpose(2, 0, 1))


# Refusals -----------------------------------------------------------------------------------------------------------


def test_mixed_sizes_need_image_size() -> None:
    images = listed(random(8, 8, 1), random(8, 9, 1), random(8, 8, 1))
    with pytest.raises(
        DataError,
        match=r"2 different sizes: 8 × 8 \(2\), 9 × 8 \(1\)\. .*\"name\": \"pixels\", \"image_size\".*or --image-size",
    ):
        fit(images)
    pixels = fit(images, image_size=8)
    assert prepare_all(images, pixels).shape == (3, 1, 8, 8)
    assert pixels.source_shape is None
    assert fit(listed(random(8, 9, 1))).source_shape == (8, 9, 1)


def test_mixed_channels_are_counted() -> None:
    with pytest.raises(DataError, match=r"2 with 1 channel, 1 with 3 channels\. Set the option grey=True"):
        fit(listed(random(4, 4, 1), random(4, 4, 3), random(4, 4, 1)))


def test_mixed_types_are_refused() -> None:
    with pytest.raises(DataError, match=r"'part0.png' is uint8, 'part1.png' is uint16"):
        fit(listed(random(4, 4, 1, top=9), random(4, 4, 1, dtype=np.uint16)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (9, 4)}, r"crop = \(9, 4\), height first, is larger than the image, 8 × 8 px"),
        ({"pad": (4, 7)}, r"pad = \(4, 7\), height first, is smaller than the image, 8 × 8 px"),
    ],
)
def test_geometry_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fit(random(2, 8, 8), **settings)


def test_another_size_is_refused_unless_resized() -> None:
    with pytest.raises(
        DataError,
        match=r"an image is 8 × 9 px \(width × height\), the model takes 8 × 8.*size=\(8, 8\) of the representation",
    ):
        fit(random(2, 8, 8)).prepare(random(9, 8, 1))


def test_another_type_is_refused_unless_the_range_was_given() -> None:
    deep = random(8, 8, 1, dtype=np.uint16)
    with pytest.raises(DataError, match=r"is uint16, the model was fitted on uint8 \(uint8: 0\.\.255\).*scaling="):
        fit(random(2, 8, 8)).prepare(deep)
    pixels = fit(random(2, 8, 8), scaling=(0.0, 255.0))
    np.testing.assert_array_equal(pixels.prepare(deep)[0], deep[..., 0])
    mixed = prepare_all(listed(random(8, 8, 1), deep), pixels)
    np.testing.assert_array_equal(mixed[1, 0], deep[..., 0])
    floats = fit(random(2, 8, 8, dtype=np.float32))
    assert floats.prepare(random(8, 8, 1, dtype=np.float64)).dtype == np.float32


def test_nothing_to_fit_on() -> None:
    with pytest.raises(DataError, match="there are no images"):
        fit(ImageSet.from_arrays(random(1, 8, 8))[:0])


@pytest.mark.parametrize("wrap", [ImageSet.from_arrays, lambda images: listed(*images[..., None])])
def test_values_that_are_not_finite_are_named(wrap: Any) -> None:
    images = random(3, 4, 4, dtype=np.float32)
    pixels = fit(images)
    images[2, 1, 1] = np.nan
    items = wrap(images)
    with pytest.raises(DataError, match=f"^{items.ids[2]}: .*NaN or infinite"):
        fit(items)
    with pytest.raises(DataError, match=f"^{items.ids[2]}: .*NaN or infinite"):
        prepare_all(items, pixels)
    prepared, errors = pixels.read(items, np.array([2, 0]))
    assert list(errors) == [2]
    np.testing.assert_array_equal(prepared[0], 0)
    np.testing.assert_array_equal(prepared[1, 0], images[0])


# All at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"image_size": (10, 7)}, {"crop": 6, "pad": 9}, {"grey": True}])
def test_arrays_lists_and_single_images_agree(dtype: Any, channels: int, settings: dict[str, Any]) -> None:
    images = random(7, 8, 9, channels, dtype=dtype)
    array, one_by_one = ImageSet.from_arrays(images), listed(*images)
    pixels = fit(array, **settings)
    assert fit(one_by_one, **settings) == pixels
    expected = np.stack([pixels.prepare(image) for image in images])
    for prepared in (prepare_all(array, pixels), prepare_all(one_by_one, pixels), prepare_all(one_by_one, pixels, 3)):
        assert prepared.flags.c_contiguous
        assert prepared.dtype == images.dtype
        np.testing.assert_array_equal(prepared, expected)
    order = np.array([5, 0, 5])
    for items in (array, one_by_one):
        np.testing.assert_array_equal(pixels.read(items, order)[0], expected[order])
        np.testing.assert_array_equal(prepare_all(items[order], pixels), expected[order])


def test_arrays_are_converted_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random(9, 8, 8, dtype=np.float32)
    pixels = fit(images, image_size=4)
    whole = prepare_all(ImageSet.from_arrays(images), pixels)
    monkeypatch.setattr("knowngood.representations.pixels.CHUNK_VALUES", 128)
    np.testing.assert_array_equal(prepare_all(ImageSet.from_arrays(images), pixels), whole)


def test_read_only_memory_is_copied() -> None:
    images = random(2, 4, 4)
    images.flags.writeable = False
    prepared = prepare_all(ImageSet.from_arrays(images), fit(images))
    assert prepared.flags.writeable
    np.testing.assert_array_equal(prepared[:, 0], images)


def test_no_images_prepare_to_nothing() -> None:
    pixels = fit(random(2, 4, 6, 3))
    assert prepare_all(ImageSet.from_arrays(random(1, 4, 6, 3))[:0], pixels).shape == (0, 3, 4, 6)
    assert prepare_all(listed(random(4, 6, 3))[[]], pixels).shape == (0, 3, 4, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_set_aside_with_their_reason(tmp_path: Path, workers: int) -> None:
    images = random(4, 8, 8)
    paths = tuple(tmp_path / f"{i}.png" for i in range(4))
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    items = ImageSet(FilePixels(paths), np.array([path.name for path in paths]), np.zeros(4), {})
    pixels = fit(items)
    np.testing.assert_array_equal(prepare_all(items, pixels, workers)[:, 0], images)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    Image.fromarray(random(5, 5)).save(paths[2])
    prepared, errors = pixels.read(items, np.array([3, 2, 1]), workers)
    assert sorted(errors) == [1, 2]
    assert "5 × 5 px (width × height), the model takes 8 × 8" in errors[2]
    np.testing.assert_array_equal(prepared[0, 0], images[3])
    with pytest.raises(DataError, match=r"^1\.png: .*\(and 1 more of 4 items\)"):
        prepare_all(items, pixels, workers)


def test_pixels_travel_to_workers() -> None:
    pixels = fit(random(2, 8, 8), image_size=4, crop=3, pad=5)
    assert pickle.loads(pickle.dumps(pixels)) == pixels


# Tables -------------------------------------------------------------------------------------------------------------


def standardised(table: Table, rows: np.ndarray) -> np.ndarray:
    return table.read(TableSet.from_array(rows))[0]


def test_table_standardises_each_feature() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal([0, 1e8, 3, -2], [1, 0.5, 1e-6, 40], (500, 4))
    table = Table.fit(rows)
    assert table.shape == (4,)
    x = table.scale(torch.from_numpy(standardised(table, rows)))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0, correction=0), 1, rtol=1e-4)
    np.testing.assert_allclose(table.unscale(x), rows, rtol=1e-6, atol=1e-4)
    assert Table.model_validate_json(table.model_dump_json()) == table
    np.testing.assert_array_equal(standardised(table, rows[3:4])[0], standardised(table, rows)[3])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9, -7.3])
def test_constant_features_have_std_one(constant: float) -> None:
    rows = np.full((37, 2), constant)
    table = Table.fit(rows)
    assert table.std == (1.0, 1.0)
    np.testing.assert_allclose(standardised(table, rows), 0, atol=1e-6)
    np.testing.assert_allclose(standardised(table, rows + 2), 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((0, 4)), "nothing to fit on"),
        (np.array([["a"]]), "expected numbers"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 1, feature 1"),
    ],
)
def test_table_refuses(rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Table.fit(rows)


def test_table_with_other_features_is_refused() -> None:
    with pytest.raises(DataError, match="has 3 features; the model was fitted on 2"):
        standardised(Table.fit(np.eye(2)), np.eye(3))


def test_table_set_is_indexed_and_annotated_like_images() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    items = TableSet.from_array(rows).annotate([0, 1, None, "good"], {"camera": ["A", "B", "A", "B"]})
    assert len(items) == 4
    np.testing.assert_array_equal(items.labels, [0, 1, np.nan, 0])
    some = items[items.labels == 0]
    np.testing.assert_array_equal(some.ids, ["0", "3"])
    np.testing.assert_array_equal(some.conditions["camera"], ["A", "B"])
    np.testing.assert_array_equal(items[[3, 0]].rows, rows[[3, 0]])
    table = Table.fit(items)
    prepared, errors = table.read(items, np.array([2, 1]))
    assert errors == {}
    np.testing.assert_array_equal(prepared, standardised(table, rows)[[2, 1]])
    np.testing.assert_array_equal(prepare_all(items, table), standardised(table, rows))
    assert items.fingerprint() != items[[1, 0, 2, 3]].fingerprint()
    assert items.fingerprint() == items[:].fingerprint()
    with pytest.raises(DataError, match="4 rows but 2 values of condition 'camera'"):
        items.annotate(conditions={"camera": ["A", "B"]})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_turned_arrays_of_one_image_or_one_channel_are_read(dtype) -> None:
    """To NumPy an array whose only negative stride is along one value is contiguous; to torch it is no tensor."""
    array = np.random.default_rng(0).integers(0, 9, (3, 8, 8, 1)).astype(dtype)
    for turned in (array[::-1][:1], array[..., ::-1], array[::-1, ::-1, :, ::-1]):
        images = ImageSet.from_arrays(turned)
        fitted = Pixels.fit(images, PixelOptions())
        expected = Pixels.fit(ImageSet.from_arrays(turned.copy()), PixelOptions()).to_tensor(
            ImageSet.from_arrays(turned.copy())
        )
        assert torch.equal(fitted.to_tensor(images), expected)
        assert fitted.out_of_range(fitted.read(images)[0]) == 0
