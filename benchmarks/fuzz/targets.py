"""What is fuzzed: for each kind of input valid files, a change of them, and what the library must do with the result.

A target has files ready and makes one case in a folder; `check` reads it and raises `Fault` where the library did not
keep its word: a read item without pixels, or items that are neither read nor set aside. Errors of the library are its
word that it refuses; every other error is a fault, and so is a text that cannot be printed.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.fuzz.mutations import HOSTILE_TEXT, Rng, mutated, mutated_json, mutated_text
from knowngood import Detector
from knowngood.calibration import DriftMonitor
from knowngood.data import ImageSet, open_images
from knowngood.data.audit import audit
from knowngood.errors import KnowngoodError
from knowngood.evaluation.score_stream import read_results, score_stream

SIDE = 12
INTACT = 3  # pictures beside the changed one
LARGE, MANY = 32, 20  # from this side and number on an audit looks for near-copies
HOSTILE_NAMES = (
    "a b", "-x", "a'b", 'a"b', "a;b", "a,b", "a\nb", "a\tb", "a\\b", "=1+1", "%s", "{0}", "$(x)", "e\u0301",
    "\u202ea", "\udcff", "C:", "~", "~x", "#", "?", "*", "[a]", "\U0001f4a5", "x" * 240, "con", "x.png", "x.zip",
    "train", "test", "good", "masks",
)  # fmt: skip


class Fault(Exception):
    """The library accepted a case and lost or invented something."""


class Target(NamedTuple):
    """A kind of input. `make` writes a case into an empty folder; `check` opens it."""

    make: Callable[[Path, Rng], None]
    check: Callable[[Path], None]


def pictures(side: int = SIDE) -> dict[str, bytes]:
    """One small picture in every format and mode that is written here."""
    import tifffile

    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (side, side)).astype(np.uint16))
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
    for name, values in {"double.tif": rng.normal(size=(side, side)), "many.tif": np.array(deep)}.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.stack([values] * 5) if name == "many.tif" else values)
        found[name] = buffer.getvalue()
    found["dicom.dcm"] = dicom(rng, side)
    return found


def dicom(rng: Rng, side: int = SIDE) -> bytes:
    """A small CT slice."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a slice"])
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    image.Rows = image.Columns = side
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = rng.integers(0, 4096, (side, side)).astype("<u2").tobytes()
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


def audited(folder: Path, given: int) -> None:
    """All that an audit finds can be printed and written, and every file is among the images or the findings."""
    images = open_images(folder)
    whole(images, given)
    found = audit(images)
    lost = set(images.ids) - set(found.images.ids) - {finding.path_or_id for finding in found.findings}
    if lost:
        raise Fault(f"neither used nor named: {sorted(lost)}")
    texts = [images.name, *images.ids, *map(str, found.findings), *map(repr, images.conditions.values())]
    json.dumps([texts, found.to_records()], ensure_ascii=False).encode()


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


def training_sets() -> Target:
    """A folder of pictures of all kinds, some changed, as `train` audits it before a fit."""
    files = pictures(LARGE)
    names = list(files)

    def make(folder: Path, rng: Rng) -> None:
        kinds = rng.choice(names, size=rng.integers(1, 4), replace=False)
        for i in range(MANY):
            name = str(rng.choice(kinds))
            data = files[name]
            (folder / f"{i}{Path(name).suffix}").write_bytes(mutated(data, rng) if rng.random() < 0.3 else data)

    return Target(make, lambda folder: audited(folder, MANY))


def hostile_folders() -> Target:
    """Names that are no text or mean something elsewhere, links, loops, pipes, and what lies where a file should."""
    picture = pictures()["00.png"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", picture)

    def hostile(at: Path, rng: Rng) -> None:
        """Something that is no picture."""
        kind = rng.integers(8)
        if kind == 0:
            at.with_suffix(".png").symlink_to(at.with_suffix(".png").name)
        elif kind == 1:
            at.with_suffix(".png").symlink_to("nowhere.png")
        elif kind == 2:
            at.with_suffix(".png").mkdir()
        elif kind == 3:
            os.mkfifo(at.with_suffix(str(rng.choice([".png", ".dcm", ".txt", ".csv"]))))
        elif kind == 4:
            at.symlink_to("..", target_is_directory=True)
        elif kind == 5:
            at.with_suffix(".png").symlink_to("/dev/zero")
        elif kind == 6:
            at.with_suffix(".zip").write_bytes(buffer.getvalue())
        else:
            at.write_bytes(b"")

    def make(folder: Path, rng: Rng) -> None:
        for i in range(INTACT):
            place = folder
            for _ in range(rng.choice([0, 1, 2, 14])):
                place /= str(rng.choice(np.array(HOSTILE_NAMES, object)))
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{str(rng.choice(np.array(HOSTILE_NAMES, object)))[:200]}{i}.png").write_bytes(picture)
        for i in range(rng.integers(1, 4)):
            hostile(folder / f"hostile-{i}", rng)

    return Target(make, lambda folder: audited(folder, INTACT))


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
        if rng.random() < 0.2:
            (folder / "list.parquet").write_bytes(parquet(lines, rng))
        else:
            (folder / "list.csv").write_bytes(mutated_text("\n".join(lines) + "\n", rng))

    return Target(make, lambda folder: whole(open_images(next(folder.glob("list.*")))))


def parquet(lines: list[str], rng: Rng) -> bytes:
    """A table as .parquet, with a hostile value, column or type, and now and then changed bytes."""
    table = pd.DataFrame([line.split(",") for line in lines[1:]], columns=lines[0].split(",")).astype(object)
    values = [*HOSTILE_TEXT, None, 1, -0.5, b"x", True, np.datetime64("2026-01-01"), [1], {"a": 1}, 2**63]
    value = values[rng.integers(len(values))]
    column = str(rng.choice(table.columns))
    change = rng.integers(4)
    if change == 0:
        table[column] = [value] * len(table)
    elif change == 1:
        table = table.rename(columns={column: str(value)})
    elif change == 2:
        table = table.drop(columns=column)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return mutated(buffer.getvalue(), rng) if rng.random() < 0.5 else buffer.getvalue()


def results() -> Target:
    """Results of `score` as a table or a log, as `monitor` takes them."""
    rng = np.random.default_rng(3)
    rows = [
        {
            "id": f"{i}.png",
            "anomaly_score": i + 0.5,
            "p_value": float(p),
            "camera": "ab"[i % 2],
            "time": f"2026-01-0{i + 1}",
        }
        for i, p in enumerate(rng.uniform(0.01, 1, 8))
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    log = "\n".join(map(json.dumps, rows)).encode()

    def make(folder: Path, rng: Rng) -> None:
        kind = str(rng.choice(["csv", "parquet", "json", "log"]))
        if kind == "csv":
            data = mutated_text("\n".join(lines) + "\n", rng)
        elif kind == "parquet":
            data = parquet(lines, rng)
        elif kind == "json":
            data = mutated_json(json.dumps(rows).encode(), rng)
        else:
            data = mutated(log, rng)
        (folder / f"results.{kind}").write_bytes(data)

    def check(folder: Path) -> None:
        table = read_results(next(folder.iterdir()))
        if table is None:
            return
        items = score_stream([table])
        if not np.isfinite(items.scores).all():
            raise Fault(f"scores {items.scores}")
        if len(items.scores) + sum(items.left_out.values()) != len(table):
            raise Fault(f"{len(table)} rows, {len(items.scores)} items, {items.left_out}")
        DriftMonitor(100, {}).update(items.scores, items.groups, items.ids, items.times)

    return Target(make, check)


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
    "training": training_sets,
    "folders": hostile_folders,
    "results": results,
    "models-hog": lambda: models("hog", "memory_bank"),
    "models-vae": lambda: models("table", "vae"),
}
