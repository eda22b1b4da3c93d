from __future__ import annotations

import hashlib
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood.data import Unreadable
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.files import read_header, read_image, read_with_header
from knowngood.data.readers.mask_file import read_mask, read_masks


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png16(path: Path, image: np.ndarray, colour: int, filter_type: int = 0) -> None:
    """A 16-bit PNG of (H, W, C), rows filtered with 0 (none) or 1 (difference to the pixel on the left)."""
    h, w, c = image.shape
    rows = np.ascontiguousarray(image.astype(">u2")).view(np.uint8).reshape(h, w * c * 2)
    if filter_type == 1:
        rows = rows.copy()
        rows[:, 2 * c :] -= rows[:, : -2 * c].copy()
    data = b"".join(bytes([filter_type]) + row.tobytes() for row in rows)
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("filter_type", [0, 1])
@pytest.mark.parametrize(("colour", "stored", "kept"), [(0, 1, 1), (2, 3, 3), (4, 2, 1), (6, 4, 3)])
def test_16_bit_png_keeps_every_bit(tmp_path, colour, stored, kept, filter_type):
    if colour:
        pytest.importorskip("cv2")
    image = noise(9, 7, stored, dtype=np.uint16)
    write_png16(tmp_path / "a.png", image, colour, filter_type)
    header, found = read_with_header(tmp_path / "a.png")
    assert found.dtype == np.uint16
    assert np.array_equal(found, image[..., :kept])
    assert header.notes == (("alpha channel dropped",) if kept < stored else ())


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_a_deep_png_whose_name_is_no_text_is_read(tmp_path):
    cv2 = pytest.importorskip("cv2")
    image = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3) * 999
    path = tmp_path / os.fsdecode(b"\xff.png")
    try:
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    except OSError:
        pytest.skip("this file system takes only text as names")
    np.testing.assert_array_equal(read_image(path), image)


def test_16_bit_colour_png_without_opencv_names_the_way_out(tmp_path, monkeypatch):
    write_png16(tmp_path / "a.png", noise(9, 7, 3, dtype=np.uint16), 2)
    write_png16(tmp_path / "grey.png", noise(9, 7, 1, dtype=np.uint16), 0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    for read in (read_header, read_image):
        with pytest.raises(Unreadable, match=r"a\.png.*16-bit.*pip install 'knowngood\[align\]'"):
            read(tmp_path / "a.png")
    assert read_image(tmp_path / "grey.png").dtype == np.uint16


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_a_cut_16_bit_png_is_refused(tmp_path, colour):
    pytest.importorskip("cv2")
    path = tmp_path / "a.png"
    write_png16(path, noise(40, 30, {2: 3, 4: 2, 6: 4}[colour], dtype=np.uint16), colour)
    data = path.read_bytes()
    for size in (len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        with pytest.raises(Unreadable, match=r"a\.png"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_8_bit_grey_and_colour_stay(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    colour = noise(6, 5, 3)
    Image.fromarray(colour).save(tmp_path / f"c.{suffix}", **options)
    assert np.array_equal(read_image(tmp_path / f"c.{suffix}"), colour)
    if suffix != "webp":
        Image.fromarray(colour[..., 0]).save(tmp_path / f"g.{suffix}")
        assert np.array_equal(read_image(tmp_path / f"g.{suffix}"), colour[..., :1])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_stays(tmp_path, suffix):
    image = noise(6, 5, dtype=np.uint16)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    found = read_image(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 0], image)


def palette_image(colours: list[int], transparent: bool = False) -> Image.Image:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="P")
    image.putpalette(colours)
    if transparent:
        image.info["transparency"] = 0
    return image


def test_each_colour_mode_has_its_rule(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[...] = (10, 20, 30, 40)
    grey_alpha = np.dstack([np.full((2, 2), 9, np.uint8), np.full((2, 2), 100, np.uint8)])
    cases = {
        "rgba.png": (Image.fromarray(rgba), [10, 20, 30], ("alpha channel dropped",)),
        "la.png": (Image.fromarray(grey_alpha, mode="LA"), [9], ("alpha channel dropped",)),
        "one.png": (Image.new("1", (2, 2), 1), [255], ()),
        "palette.png": (palette_image([1, 2, 3, 4, 5, 6]), [1, 2, 3], ("palette turned into RGB",)),
        "grey.gif": (palette_image([8, 8, 8, 5, 5, 5]), [8], None),
        "clear.png": (
            palette_image([1, 2, 3, 4, 5, 6], True), [1, 2, 3], ("palette turned into RGB", "alpha channel dropped")
        ),
        "float.tif": (Image.fromarray(np.full((2, 2), 0.25, np.float32)), [0.25], ()),
    }  # fmt: skip
    for name, (image, pixel, notes) in cases.items():
        image.save(tmp_path / name)
        header, found = read_with_header(tmp_path / name)
        assert found[0, 0].tolist() == pixel, name
        assert notes is None or header.notes == notes, name
        assert header.dtype == found.dtype.name


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    header, found = read_with_header(tmp_path / "a.jpg")
    assert header.notes == ("CMYK turned into RGB",)
    assert np.abs(found[4, 4].astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_undone_everywhere(tmp_path, orientation, suffix):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # bright corner top left, so that every orientation differs
    upright[8:, :8] = 128
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    if suffix == "tif":
        image.save(tmp_path / f"a.{suffix}", tiffinfo={274: orientation})
    else:
        image.save(tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 95}))
    header, found = read_with_header(tmp_path / f"a.{suffix}")
    assert header.shape[:2] == (16, 24)
    assert np.abs(found[..., 0].astype(int) - upright).max() < 16
    assert bool(header.notes) == (orientation > 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"schräg 写真.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(Unreadable, match="schräg 写真") as caught:
        read_image(path)
    assert caught.value.kind in ("truncated", "unreadable", "not-an-image")


def test_empty_text_and_missing_files_are_distinguished(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture at all")
    kinds = {}
    for name in ("empty.png", "text.png", "gone.png"):
        with pytest.raises(Unreadable) as caught:
            read_header(tmp_path / name)
        kinds[name] = caught.value.kind
    assert kinds == {"empty.png": "zero-byte", "text.png": "not-an-image", "gone.png": "missing"}


def test_several_frames_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (1, 200, 30)]
    for name in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
        with pytest.raises(Unreadable, match="3 frames"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("start", [b"P5\n2 1\n4095\n", b"P6 # colour\n2 1\n65535\n"])
def test_pnm_that_would_be_stretched_or_cut_is_refused(tmp_path, start):
    (tmp_path / "a.ppm").write_bytes(start + bytes(12))
    with pytest.raises(Unreadable, match=r"values 0\.\."):
        read_image(tmp_path / "a.ppm")


def test_16_bit_pgm_stays(tmp_path):
    image = noise(3, 4, dtype=np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5\n4 3\n65535\n" + image.astype(">u2").tobytes())
    found = read_image(tmp_path / "a.pgm")
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 0], image)


def test_headers_agree_with_pixels(tmp_path):
    Image.fromarray(noise(6, 5, 4)).save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (header.shape, header.dtype) == (image.shape, image.dtype.name)


# TIFF through tifffile ------------------------------------------------------------------------------------------------

tifffile = pytest.importorskip("tifffile")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_tiff_keeps_dtype_and_values(tmp_path, dtype, photometric):
    rng = np.random.default_rng(0)
    shape = (6, 5, 3) if photometric == "rgb" else (6, 5)
    image = (rng.random(shape) * 100).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric)
    header, found = read_with_header(tmp_path / "a.tif")
    assert np.array_equal(found, image.reshape(found.shape))
    assert header.channels == image.size // 30
    assert found.dtype == np.dtype(dtype) or (dtype, found.dtype) == ("int16", np.dtype("int32"))


def test_tiff_pages_of_one_size_are_channels(tmp_path):
    pages = noise(5, 6, 7, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "pages.tif"), pages.transpose(1, 2, 0))
    planes = noise(5, 6, 7)
    tifffile.imwrite(tmp_path / "planes.tif", planes, planarconfig="separate", photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "planes.tif"), planes.transpose(1, 2, 0))


def test_tiff_pages_of_different_size_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise(6, 7), photometric="minisblack")
        file.write(noise(4, 4), photometric="minisblack")
    with pytest.raises(Unreadable, match="2 images of different shape"):
        read_image(tmp_path / "a.tif")


@pytest.mark.slow
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_cut_between_pages_is_no_tiff_with_fewer_pages(tmp_path, big):
    pages = noise(3, 20, 20, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", compression="deflate", bigtiff=big)
    data = (tmp_path / "a.tif").read_bytes()
    whole = 0
    for size in range(16, len(data) + 1, 20):
        (tmp_path / "b.tif").write_bytes(data[:size])
        try:
            assert np.array_equal(read_image(tmp_path / "b.tif"), pages.transpose(1, 2, 0))
            whole += 1
        except Unreadable:
            pass
    assert whole <= 3  # only padding at the end may be missing
    assert np.array_equal(read_image(tmp_path / "a.tif"), pages.transpose(1, 2, 0))


@pytest.mark.parametrize(("extra", "kept"), [("unassalpha", 3), ("unspecified", 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_alpha_is_dropped_and_other_channels_are_data(tmp_path, extra, kept, dtype):
    image = noise(6, 5, 4, dtype=np.dtype(dtype).type)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=[extra])
    assert np.array_equal(read_image(tmp_path / "a.tif"), image[..., :kept])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("pages", [1, 2])
def test_white_is_zero_is_inverted(tmp_path, dtype, pages):
    image = noise(pages, 6, 5, dtype=np.dtype(dtype).type)
    tifffile.imwrite(tmp_path / "a.tif", image if pages > 1 else image[0], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.iinfo(dtype).max - image.transpose(1, 2, 0))


@pytest.mark.parametrize("module", ["tifffile", "pydicom"])
def test_a_missing_reader_names_the_way_out(tmp_path, module, monkeypatch):
    path = tmp_path / ("a.tif" if module == "tifffile" else "a.dcm")
    tifffile.imwrite(path, noise(3, 6, 5, dtype=np.uint16), photometric="minisblack")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unreadable, match=r"knowngood\[formats\]"):
        read_image(path)


# DICOM ----------------------------------------------------------------------------------------------------------------


def write_dicom(path: Path, image: np.ndarray, kind: str = "MONOCHROME2", **more) -> None:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = image.shape[:2]
    data.SamplesPerPixel = image.shape[2] if image.ndim == 3 else 1
    data.PhotometricInterpretation = kind
    data.BitsAllocated = image.dtype.itemsize * 8
    data.BitsStored = more.pop("BitsStored", data.BitsAllocated)
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(image.dtype.kind == "i")
    if image.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = image.tobytes()
    data.save_as(path, enforce_file_format=True)


@pytest.mark.slow
def test_dicom_keeps_12_bit_values(tmp_path):
    image = noise(6, 5, dtype=np.uint16) % 4096
    write_dicom(tmp_path / "a.dcm", image, BitsStored=12)
    found = read_image(tmp_path / "a.dcm")
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 0], image)


@pytest.mark.slow
def test_dicom_monochrome1_is_inverted_within_its_bits(tmp_path):
    image = noise(6, 5, dtype=np.uint16) % 4096
    write_dicom(tmp_path / "a.dcm", image, "MONOCHROME1", BitsStored=12)
    header, found = read_with_header(tmp_path / "a.dcm")
    assert np.array_equal(found[..., 0], 4095 - image)
    assert header.notes == ("MONOCHROME1 inverted",)


def test_dicom_rescale_gives_the_units_meant(tmp_path):
    image = noise(6, 5, dtype=np.int16) // 8
    write_dicom(tmp_path / "a.dcm", image, RescaleSlope=2, RescaleIntercept=-1024)
    header, found = read_with_header(tmp_path / "a.dcm")
    assert header.dtype == "float32"
    assert np.array_equal(found[..., 0], image.astype(np.float32) * 2 - 1024)


def test_dicom_colour_and_files_without_suffix(tmp_path):
    image = noise(6, 4, 3)
    write_dicom(tmp_path / "scan", image, "RGB")
    assert np.array_equal(read_image(tmp_path / "scan"), image)
    assert read_header(tmp_path / "scan").shape == (6, 4, 3)


def test_dicom_with_frames_is_refused(tmp_path):
    write_dicom(tmp_path / "a.dcm", noise(6, 4), NumberOfFrames=3)
    with pytest.raises(Unreadable, match="3 frames"):
        read_image(tmp_path / "a.dcm")


# Masks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 127, 128, 255, 255, 255], [0, 0, 1, 1, 1, 1]),
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 1, 2, 3], [0, 1, 1, 1]),
        ([0, 2, 0, 2], [0, 1, 0, 1]),
        ([0, 100, 100, 0], [0, 1, 1, 0]),
        ([255, 255, 255, 255], [1, 1, 1, 1]),
    ],
)
def test_a_mask_pixel_counts_if_it_is_not_0_or_of_many_shades_from_half_the_largest(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.uint8)).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    assert mask.tolist() == [[bool(v) for v in expected]]


def test_colour_masks_count_where_any_channel_does(tmp_path):
    Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True]]


def test_deep_masks_with_the_values_of_8_bits_count(tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True]]


def test_masks_painted_in_dark_colours_or_a_palette_count(tmp_path):
    colours = np.array([[[0, 0, 0], [128, 0, 0], [0, 64, 0], [64, 0, 64], [0, 0, 192]]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    assert read_mask(tmp_path / "rgb.png").tolist() == [[False, True, True, True, True]]
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 64, 0, 64, 64, 0])
    palette.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png").tolist() == [[False, True, True, True]]


def test_a_mask_of_one_colour_marks_where_it_is_opaque(tmp_path):
    white = np.full((1, 3, 4), 255, dtype=np.uint8)
    white[0, 1:, 3] = 0
    Image.fromarray(white).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[True, False, False]]


@pytest.mark.parametrize("values", [[1, 2, 1, 2], [100, 100, 100, 100], [*range(0, 250, 5)]])
def test_a_mask_that_does_not_say_what_is_marked_is_refused_by_name(tmp_path, values):
    Image.fromarray(np.array([values], dtype=np.uint8)).save(tmp_path / "heat.png")
    with pytest.raises(Unreadable, match=r"heat\.png: has .*does not say what is marked") as caught:
        read_mask(tmp_path / "heat.png")
    assert caught.value.kind == "mask-unclear"


def test_several_masks_of_an_image_are_joined_and_have_one_size(tmp_path):
    for name, values in (("a.png", [0, 255, 0]), ("b.png", [0, 0, 255]), ("c.png", [255])):
        Image.fromarray(np.array([values], dtype=np.uint8)).save(tmp_path / name)
    paths = tuple(tmp_path / name for name in ("a.png", "b.png", "c.png"))
    assert read_masks(paths[:2]).tolist() == [[False, True, True]]
    with pytest.raises(Unreadable, match=r"c\.png"):
        read_masks(paths)


@pytest.mark.parametrize("act", [read_image, lambda path: FilePixels((path,)).update(hashlib.sha256())])
def test_what_the_system_refuses_is_named(tmp_path, act):
    path = tmp_path / "loop.png"
    path.symlink_to(path)
    with pytest.raises(Unreadable, match=r"loop\.png: cannot be read: Too many levels of symbolic links$"):
        act(path)
    with pytest.raises(Unreadable, match=r"gone\.png: does not exist$"):
        act(tmp_path / "gone.png")
