"""Files that declare or hold too much, and damaged files of every format: the library's errors or a picture."""

from __future__ import annotations

import errno
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from knowngood.data import Unreadable, open_images
from knowngood.data.audit import audit
from knowngood.data.readers.files import read_image
from knowngood.data.readers.limits import Limits
from knowngood.errors import DataError, KnowngoodError, OutputError

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def tiff(compression, pages=2):
    stream, images = io.BytesIO(), [Image.fromarray(GREY + k) for k in range(pages)]
    images[0].save(stream, "TIFF", save_all=True, append_images=images[1:], compression=compression)
    return stream.getvalue()


def encoded(image, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def dicom(array, **elements):
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    data = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *array.shape, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = array.astype(np.uint16).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def png_of(height, width):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


FORMATS = {
    "a.png": lambda: encoded(COLOUR, "PNG"),
    "a.jpg": lambda: encoded(COLOUR, "JPEG"),
    "a.bmp": lambda: encoded(GREY, "BMP"),
    "a.gif": lambda: encoded(GREY, "GIF"),
    "a.webp": lambda: encoded(COLOUR, "WEBP"),
    "a.pgm": lambda: encoded(GREY, "PPM"),
    "a.jp2": lambda: encoded(COLOUR, "JPEG2000"),
    "a.tif": lambda: tiff("tiff_adobe_deflate"),
    "b.tif": lambda: tiff("tiff_lzw"),
    "c.tif": lambda: tiff("raw", 1),
    "a.dcm": lambda: dicom(GREY, RescaleSlope="2", RescaleIntercept="0"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the decoders
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_give_a_picture_or_an_error_of_the_library(tmp_path, name):
    original, rng, path = FORMATS[name](), np.random.default_rng(sorted(FORMATS).index(name)), tmp_path / name
    limits = Limits(pixels=1 << 20, pages=64)
    for _ in range(30):
        data = bytearray(original)
        for at in rng.integers(0, min(len(data), 400), rng.integers(1, 5)):
            data[at] = rng.choice([0, 1, 8, 127, 255, rng.integers(256)])
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 else data)
        try:
            image = read_image(path, limits)
        except KnowngoodError:
            continue
        assert image.ndim == 3
        assert 0 < image.size <= 4 << 20


def test_a_circular_chain_of_pages_is_refused(tmp_path):
    data = bytearray(tiff("tiff_adobe_deflate", 3))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(Unreadable, match=r"a\.tif: has a circular chain of pages"):
        read_image(tmp_path / "a.tif")


def test_pages_beyond_the_limit_name_the_setting(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff("raw", 5))
    with pytest.raises(Unreadable, match=r"more than 4 pages.*max_pages"):
        read_image(tmp_path / "a.tif", Limits(pages=4))
    assert read_image(tmp_path / "a.tif", Limits(pages=5)).shape == (9, 7, 5)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_pages_of_every_compression_become_channels(tmp_path, compression):
    (tmp_path / "a.tif").write_bytes(tiff(compression, 3))
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.dstack([GREY, GREY + 1, GREY + 2]))


def test_a_picture_beyond_the_limit_is_not_decoded_and_names_the_setting(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(60_000, 60_000))
    with pytest.raises(Unreadable, match=r'a\.png: declares 60,000 × 60,000 .*data=\{"max_pixels": 3600000000\}'):
        read_image(tmp_path / "a.png")
    image = encoded(np.zeros((64, 1024), np.uint8), "PNG")
    (tmp_path / "line.png").write_bytes(image)
    with pytest.raises(Unreadable, match="max_pixels"):
        read_image(tmp_path / "line.png", Limits(pixels=64 * 1024 - 1))
    assert read_image(tmp_path / "line.png", Limits(pixels=64 * 1024)).shape == (64, 1024, 1)
    opened = open_images(tmp_path / "line.png", limits=Limits(pixels=1 << 40))
    assert opened.pixels.limits.pixels == 1 << 40


def test_jpeg_2000_keeps_its_pixels(tmp_path):
    (tmp_path / "a.jp2").write_bytes(encoded(COLOUR, "JPEG2000", irreversible=False))
    assert np.array_equal(read_image(tmp_path / "a.jp2"), COLOUR)


@pytest.mark.parametrize("name", ["1.2.840.113619.2.55", "scan.IMA", "plain"])
def test_dicom_is_recognised_by_its_content(tmp_path, name):
    (tmp_path / name).write_bytes(dicom(GREY, RescaleSlope="", RescaleIntercept=""))
    images = open_images(tmp_path)
    assert images.ids.tolist() == [name]
    assert np.array_equal(images.read(0)[..., 0], GREY)
    assert images.read(0).dtype == np.uint16


def test_a_rescale_slope_of_zero_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom(GREY, RescaleSlope="0", RescaleIntercept="1"))
    with pytest.raises(Unreadable, match=r"a\.dcm: has RescaleSlope 0"):
        read_image(tmp_path / "a.dcm")


def test_an_npz_that_declares_more_than_it_holds_or_than_may_be_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((50, 100, 100), np.uint8))
    with pytest.raises(DataError, match=r"500,128 bytes once unpacked.*max_unpacked_gb"):
        open_images(tmp_path / "a.npz", limits=Limits(gigabytes=1e-4))
    assert len(open_images(tmp_path / "a.npz")) == 50
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": (10**6, 100, 100), "fortran_order": False, "descr": "|u1"})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("images.npy", head.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"images declares 10,000,000,000 bytes .*, but has 100"):
        open_images(tmp_path / "b.npz")


# Archives


def packed(folder, name, members):
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    else:
        with tarfile.open(folder / name, "w:gz") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder / name


@pytest.mark.parametrize("name", ["parts.zip", "parts.tar.gz"])
def test_an_archive_is_read_as_its_folder_and_leaves_nothing_behind(tmp_path, monkeypatch, name):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    images = open_images(packed(tmp_path, name, {f"good/{k}.png": encoded(GREY + k, "PNG") for k in range(3)}))
    assert images.ids.tolist() == ["good/0.png", "good/1.png", "good/2.png"]
    assert images.labels.tolist() == [0, 0, 0]
    last = images[2:]
    del images
    assert np.array_equal(last.read(0)[..., 0], GREY + 2)
    del last
    assert list(place.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_comes_twice_in_an_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for image in (GREY, 255 - GREY):
            archive.writestr("good/a.png", encoded(image, "PNG"))
    images = open_images(tmp_path / "a.zip")
    np.testing.assert_array_equal(images.read(0)[..., 0], 255 - GREY)
    assert [str(one) for one in images.rejected] == [
        "good/a.png: is 2 times in a.zip: the last one counts, as where that is unpacked"
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("member", ["../../x.png", "/x.png", "a/../../x.png"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name, member):
    path = packed(tmp_path, name, {member: encoded(GREY, "PNG")})
    with pytest.raises(DataError, match=r"leads out of it"):
        open_images(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_archives_beyond_the_limit_and_damaged_ones_are_refused(tmp_path, name):
    path = packed(tmp_path, name, {"a.bmp": bytes(200_000)})
    with pytest.raises(DataError, match=r"200,000 bytes once unpacked.*max_unpacked_gb"):
        open_images(path, limits=Limits(gigabytes=1e-4))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_images(path)


def test_a_tar_that_stops_early_is_refused_with_what_is_missing(tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for k in range(4):
            data = encoded(GREY + k, "PNG")
            info = tarfile.TarInfo(f"{k}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    content, path = whole.getvalue(), tmp_path / "parts.tar"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        start = archive.getmembers()[2].offset
    for damaged in (content[:start], content[: start + 100], content[:start] + b"\xff" * 512 + content[start + 512 :]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"parts\.tar: is cut or damaged after its first 2 members"):
            open_images(path)
    path.write_bytes(content)
    assert len(open_images(path)) == 4


def test_a_full_disk_is_no_damage_of_an_archive(tmp_path, monkeypatch):
    path = packed(tmp_path, "a.zip", {"a.png": encoded(GREY, "PNG")})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OutputError, match=r"a\.zip: no room to unpack it in .*TMPDIR"):
        open_images(path)


def test_masks_have_the_bounds_of_their_images(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "images" / f"{name}.png").write_bytes(encoded(GREY, "PNG"))
    for name, mask in (("b", GREY > 99), ("c", GREY > 999)):
        (tmp_path / "masks" / f"{name}.png").write_bytes(encoded(mask.astype(np.uint8) * 255, "PNG"))
    small = open_images(tmp_path, limits=Limits(pixels=GREY.size - 1))
    assert small.labels.tolist()[1:] == [1, 1]  # it cannot be read what they mark
    with pytest.raises(Unreadable, match="above the limit"):
        small.mask(1)
    assert [one.kind for one in audit(small).findings if one.path_or_id.startswith("images/")] == ["too-large"] * 3
    large = open_images(tmp_path, limits=Limits(pixels=GREY.size))
    assert large.labels.tolist()[1:] == [1, 0]
    np.testing.assert_array_equal(large.mask(1), GREY > 99)


def test_a_manifest_in_an_archive_is_named_without_a_place_that_is_gone(tmp_path):
    members = {"good/0.png": encoded(GREY, "PNG"), "manifest.csv": b"path\ngood/0.png\n"}
    (found,) = open_images(packed(tmp_path, "a.zip", members)).rejected
    assert str(found).startswith("manifest.csv: was not read: unpack the archive")
