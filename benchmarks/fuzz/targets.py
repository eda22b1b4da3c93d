"""What is fuzzed: for each kind of input valid files, a change of them, and what the library must do with the result.

A target has files ready and makes one case in a folder; `check` reads it and raises `Fault` where the library did not
keep its word: a read item without pixels, or items that are neither read nor set aside. Errors of the library are its
word that it refuses; every other error is a fault.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.fuzz.mutations import Rng, mutated, mutated_json, mutated_text
from knowngood import Detector
from knowngood.data import ImageSet, open_images
from knowngood.errors import KnowngoodError

SIDE = 12
INTACT = 3  # pictures beside the changed one


class Fault(Exception):
    """The library accepted a case and lost or invented something."""


class Target(NamedTuple):
    """A kind of input. `make` writes a case into an empty folder; `check` opens it."""

    make: Callable[[Path, Rng], None]
    check: Callable[[Path], None]


def pictures() -> dict[str, bytes]:
    """One small picture in every format and mode that is written here."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16))
    wanted = [
        (grey, "png", {}), (colour, "png", {}), (deep, "png", {}), (colour.convert("P"), "png", {}),
        (colour.convert("RGBA"), "png", {}), (grey, "jpeg", {}), (colour, "jpeg", {"progressive": True}),
        (colour, "bmp", {}), (grey, "bmp", {}), (colour, "gif", {}), (colour, "webp", {}), (grey, "ppm", {}),
        (grey, "tiff", {}), (colour, "tiff", {"compression": "tiff_lzw"}), (deep, "tiff", {}),
        (colour, "tiff", {"compression": "jpeg"}), (grey, "tiff", {"save_all": True, "append_images": [grey, grey]}),
        (colour, "tiff", {"compression": "tiff_deflate"}), (colour, "jpeg2000", {}),
    ]  # fmt: skip
    found = {}
    suffixes = {"jpeg": "jpg", "ppm": "pgm", "jpeg2000": "jp2"}
    for number, (image, kind, options) in enumerate(wanted):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[f"{number:02d}.{suffixes.get(kind, kind)}"] = buffer.getvalue()
    found["dicom.dcm"] = dicom(rng)
    return found


def dicom(rng: Rng) -> bytes:
    """A small CT slice."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a slice"])
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    image.Rows = image.Columns = SIDE
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = rng.integers(0, 4096, (SIDE, SIDE)).astype("<u2").tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def whole(images: ImageSet, given: int | None = None) -> None:
    """Every image is read to finite pixels, or refused; as many are read or set aside as were given."""
    if given is not None and len(images) + len(images.rejected) < given:
        raise Fault(f"{given} files, {len(images)} images and {len(images.rejected)} set aside")
    for i in range(len(images)):
        try:
            pixels = images.read(i)
        except KnowngoodError:
            continue
        if pixels.ndim != 3 or not pixels.size:
            raise Fault(f"{images.ids[i]}: read with shape {pixels.shape}")


def folder_of_pictures() -> Target:
    """A folder with one changed picture among others."""
    files = pictures()
    intact = files["00.png"]

    def make(folder: Path, rng: Rng) -> None:
        name = str(rng.choice(list(files)))
        (folder / name).write_bytes(mutated(files[name], rng))
        for i in range(INTACT):
            (folder / f"intact-{i}.png").write_bytes(intact)

    return Target(make, lambda folder: whole(open_images(folder), INTACT + 1))


def mask_files() -> Target:
    """A picture of a defect whose mask is changed."""
    files = {name: data for name, data in pictures().items() if not name.endswith((".dcm", ".jp2"))}
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[2:5] = 255
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "png")
    files["mask.png"] = buffer.getvalue()

    def make(folder: Path, rng: Rng) -> None:
        for part in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
            (folder / part).mkdir(parents=True)
        for part in ("train/good/0.png", "test/good/1.png", "test/hole/2.png"):
            (folder / part).write_bytes(files["00.png"])
        name = str(rng.choice(list(files)))
        (folder / f"ground_truth/hole/2_mask{Path(name).suffix}").write_bytes(mutated(files[name], rng))

    def check(folder: Path) -> None:
        images = open_images(folder)
        whole(images)
        for i in range(len(images)):
            try:
                images.mask(i)
            except KnowngoodError:
                continue

    return Target(make, check)


def archives() -> Target:
    """Arrays and archives: npz, npy, idx, zip, tar."""
    rng = np.random.default_rng(1)
    block = rng.integers(0, 256, (5, SIDE, SIDE), dtype=np.uint8)
    files = {}
    for name, save in {"x.npz": np.savez, "y.npz": np.savez_compressed}.items():
        buffer = io.BytesIO()
        save(buffer, train_images=block, train_labels=np.zeros((5, 1), np.uint8))
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, block)
    files["x.npy"] = buffer.getvalue()
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in block.shape)
    files["x-images-idx3-ubyte"] = header + block.tobytes()
    picture = pictures()["00.png"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("good/a.png", "good/b.png"):
            archive.writestr(name, picture)
    files["x.zip"] = buffer.getvalue()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name in ("good/a.png", "good/b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            packed.addfile(member, io.BytesIO(picture))
    files["x.tar.gz"] = buffer.getvalue()

    def make(folder: Path, rng: Rng) -> None:
        name = str(rng.choice(list(files)))
        (folder / name).write_bytes(mutated(files[name], rng))

    return Target(make, lambda folder: whole(open_images(next(folder.iterdir()))))


def manifests() -> Target:
    """Tables of paths, labels and conditions."""
    picture = pictures()["00.png"]
    lines = ["path,label,camera,exposure"] + [f"{i}.png,normal,{'ab'[i % 2]},{0.5 + i}" for i in range(4)]

    def make(folder: Path, rng: Rng) -> None:
        for i in range(4):
            (folder / f"{i}.png").write_bytes(picture)
        (folder / "list.csv").write_bytes(mutated_text("\n".join(lines) + "\n", rng))

    return Target(make, lambda folder: whole(open_images(folder / "list.csv")))


def models(representation: str, model: str) -> Target:
    """A saved model with one changed file; it is refused, or judges as finitely as before."""
    import tempfile

    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (40, SIDE, SIDE), dtype=np.uint8) if representation == "hog" else rng.normal(size=(40, 4))
    kind = np.where(np.arange(40) % 2, "a", "b")
    detector = Detector(representation, {"name": model}, training={"epochs": 1}, alpha=0.2).fit(x, conditions=kind)
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place) / "model"
        detector.save(saved)
        files = {path.relative_to(saved).as_posix(): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    names = [name for name in files if not name.endswith("card.md")]

    def make(folder: Path, rng: Rng) -> None:
        for name, data in files.items():
            (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "model" / name).write_bytes(data)
        name = str(rng.choice(names))
        change = mutated_json if name.endswith(".json") and rng.random() < 0.9 else mutated
        (folder / "model" / name).write_bytes(change(files[name], rng))

    def check(folder: Path) -> None:
        table = Detector.load(folder / "model").detect(x[:4], conditions=kind[:4])
        numbers = table[["anomaly_score", "p_value"]].to_numpy(float)
        if not np.isfinite(numbers).all():
            raise Fault(f"scores and p-values {json.dumps(numbers.tolist())}")

    return Target(make, check)


TARGETS: dict[str, Callable[[], Target]] = {
    "pictures": folder_of_pictures,
    "masks": mask_files,
    "archives": archives,
    "manifests": manifests,
    "models-hog": lambda: models("hog", "memory_bank"),
    "models-vae": lambda: models("table", "vae"),
}
