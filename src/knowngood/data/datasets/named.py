"""Named data sets: embedded, found on disk, or downloaded from their official address with a checksum.

Each has condition column "class" (text; `generated-parts` has others) and splits. A copy that differs from the official
data is named in `variant`. Generated sets take options after their name: "generated-parts/size=64,products=gear".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.config import nearest
from knowngood.data.datasets.downloads import Remote, data_folders, find_file, locate
from knowngood.data.datasets.factors import COUNT as FACTOR_COUNT
from knowngood.data.datasets.factors import open_factors
from knowngood.data.datasets.parts import open_parts
from knowngood.data.imageset import ImageSet, join_splits
from knowngood.data.readers.cifar import ARCHIVE, CIFAR_NAMES, read_cifar
from knowngood.data.readers.dsprites import COUNT as DSPRITES_COUNT
from knowngood.data.readers.dsprites import FILE as DSPRITES
from knowngood.data.readers.dsprites import read_dsprites
from knowngood.data.readers.emnist import EMNIST_PARTS, read_emnist
from knowngood.data.readers.idx import read_pair
from knowngood.data.readers.npz import read_npz
from knowngood.errors import DataError, SettingsError

SHORT_NAMES = {"emnist": "emnist/byclass", "fmnist": "fashion-mnist"}  # also accepted


@dataclass(frozen=True)
class Dataset:
    """A data set that can be opened by name."""

    name: str
    about: str
    shape: tuple[int, int, int]
    counts: dict[str, int]
    classes: int
    licence: str
    source: str
    load: Callable[[Dataset, str | None, bool], ImageSet] | None = None
    files: tuple[Remote, ...] = ()
    generate: Callable[..., ImageSet] | None = None  # instead of `load`; its arguments are the options

    @property
    def folder(self) -> str:
        return self.name.split("/")[0]


def dataset_names() -> list[str]:
    """Names that `open_dataset` knows."""
    return list(_DATASETS)


def is_dataset(name: str) -> bool:
    """Whether `open_dataset` knows the name; options after it are not looked at."""
    return _entry(name) is not None


def describe_datasets() -> list[dict[str, str]]:
    """One record a data set, all text: name, about, images, shape, classes, licence, source, and where it is now."""
    records = []
    for entry in _DATASETS.values():
        made = "generated" if entry.generate else "embedded"
        here = [folder for folder in data_folders(entry.folder) if folder.is_dir() and any(folder.iterdir())]
        records.append(
            {
                "name": entry.name,
                "about": entry.about,
                "images": " + ".join(f"{count:,} {split}" for split, count in entry.counts.items()),
                "shape": "×".join(map(str, entry.shape)),
                "classes": str(entry.classes),
                "licence": entry.licence,
                "source": entry.source,
                "where": str(here[0]) if here else "to download" if entry.files else made,
            }
        )
    return records


def open_dataset(name: str, *, split: str | None = None, download: bool = True) -> ImageSet:
    """A named data set, or one of its splits.

    Files are looked for in `$KNOWNGOOD_DATA/<name>/` and in the cache; there they are accepted by format and shape, and
    counts that differ from the official ones are named in `variant`. What is downloaded must match its checksum.

    Args:
        name: one of `dataset_names()`. A generated set takes the arguments of its function, `open_parts` or
            `open_factors`, as options: "generated-parts/number=100,size=64".

    Raises:
        DataError: unknown name (with the nearest known one) or split; not there and not downloadable; a damaged file.
        SettingsError: an unknown option of a generated set, or a wrong value.
    """
    entry = _entry(name)
    if entry is None:
        raise DataError(f"unknown data set '{name}'{nearest(name, dataset_names())}")
    if split is not None and split not in entry.counts:
        raise DataError(f"{name} has no split '{split}'; its splits are: {', '.join(entry.counts)}")
    if entry.generate is not None:
        images = entry.generate(**_options(entry, name.partition("/")[2]))
        return images if split is None else images.split(split)
    assert entry.load is not None
    images = entry.load(entry, split, download)
    shape = tuple(int(v) for v in images.shapes()[0]) if len(images) else None
    if shape != entry.shape:
        raise DataError(f"{name}: its images have shape {shape}; expected {entry.shape}")
    images = images.replace(name=entry.name)
    images = images if split is None else images.split(split)
    return images if images.variant else images.replace(variant=_count_variant(images, entry, split))


def _entry(name: str) -> Dataset | None:
    generated = _DATASETS.get(name.partition("/")[0])
    if generated is not None and generated.generate is not None:
        return generated
    return _DATASETS.get(SHORT_NAMES.get(name, name))


def _options(entry: Dataset, text: str) -> dict[str, Any]:
    """The arguments that "size=64,products=washer+gear" stands for."""
    assert entry.generate is not None
    known, found = inspect.signature(entry.generate).parameters, {}
    for part in filter(None, text.split(",")):
        option, sign, value = (word.strip() for word in part.partition("="))
        if not (sign and value):
            raise SettingsError(f"{entry.name}/{text}: '{part}' is no option; expected OPTION=VALUE, such as size=64")
        if option not in known:
            raise SettingsError(f"{entry.name} has no option '{option}'{nearest(option, list(known))}")
        words = isinstance(known[option].default, str | tuple)
        if not words and not value.isdecimal():
            raise SettingsError(f"{entry.name}/{text}: {option} = '{value}'; expected a whole number")
        found[option] = value if words else int(value)
    return found


def _count_variant(images: ImageSet, entry: Dataset, split: str | None) -> str | None:
    assert images.splits is not None
    counts = {name: int((images.splits == name).sum()) for name in entry.counts if split in (None, name)}
    if all(counts[name] == entry.counts[name] for name in counts):
        return None
    return "not the official counts: " + ", ".join(f"{n:,} {s} of {entry.counts[s]:,}" for s, n in counts.items())


def _digits(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    """8×8 digits, values 0 to 16. By index: every fourth image (i % 4 == 3) is test, the rest train."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = ImageSet.from_arrays(data.images.astype(np.uint8), conditions={"class": data.target.astype(str)})
    return images.replace(splits=np.where(np.arange(len(images)) % 4 == 3, "test", "train"))


def _idx(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    """The four idx files of MNIST and similar sets; only those of one split if one is asked for."""
    parts = {}
    for name, files in (("train", entry.files[:2]), ("test", entry.files[2:])):
        if split in (None, name):
            paths = (locate(entry.folder, one, one.file.removesuffix(".gz"), download=download) for one in files)
            parts[name] = read_pair(*paths)
    return join_splits(parts, entry.name)


def _kmnist(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    """KMNIST; where only the test images are at hand they are split: even index train, odd index test."""
    train, test = (find_file("kmnist", f"{p}-images-idx3-ubyte.gz", f"{p}-images-idx3-ubyte") for p in _PREFIXES)
    if train is not None or test is None:
        return _idx(entry, split, download)
    images = _idx(entry, "test", download)
    splits = np.where(np.arange(len(images)) % 2 == 0, "train", "test")
    return images.replace(splits=splits, variant="kmnist-t10k (test images only: even index train, odd index test)")


def _pneumonia(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    """PneumoniaMNIST with labels: NORMAL 0, PNEUMONIA 1."""
    path = locate(entry.folder, entry.files[0], "pneumoniamnist_reassembled_28.npz", download=download)
    images = read_npz(path, class_names=("NORMAL", "PNEUMONIA"), split=split)
    labels = (images.conditions["class"] == "PNEUMONIA").astype(np.float64)
    official = path.name == entry.files[0].file
    variant = None if official else "pneumoniamnist reassembled (same images, not in the official order)"
    return images.replace(labels=labels, variant=variant)


def _emnist(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    part = entry.name.split("/")[1]
    unpacked = f"emnist-{part}-train-images-idx3-ubyte.gz"
    path = locate("emnist", entry.files[0], "emnist.zip", unpacked, f"gzip/{unpacked}", download=download)
    return read_emnist(path.parent if path.name == unpacked else path, part, split)


def _cifar10(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    unpacked = "test_batch.bin"
    path = locate("cifar10", entry.files[0], f"cifar-10-batches-bin/{unpacked}", unpacked, download=download)
    return read_cifar(path.parent if path.name == unpacked else path, split)


def _dsprites(entry: Dataset, split: str | None, download: bool) -> ImageSet:
    return read_dsprites(locate(entry.folder, entry.files[0], "dsprites.npz", download=download))


_PREFIXES = ("train", "t10k")


def _four(base: tuple[str, ...], *md5: str) -> tuple[Remote, ...]:
    names = [f"{prefix}-{kind}-ubyte.gz" for prefix in _PREFIXES for kind in ("images-idx3", "labels-idx1")]
    return tuple(Remote(n, tuple(b + n for b in base), f"md5:{m}") for n, m in zip(names, md5, strict=True))


_MNIST_COUNTS = {"train": 60000, "test": 10000}
_EMNIST_FILE = Remote(
    "gzip.zip", ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",), "md5:58c8d27c78d21e728a6bc7b3cc06412e"
)
_ALL = [
    Dataset(
        "digits", "handwritten digits, 8×8 (UCI), inside scikit-learn", (8, 8, 1), {"train": 1348, "test": 449}, 10,
        "CC BY 4.0", "https://archive.ics.uci.edu/dataset/80", _digits,
    ),
    Dataset(
        "mnist", "handwritten digits", (28, 28, 1), _MNIST_COUNTS, 10, "CC BY-SA 3.0", "http://yann.lecun.com/exdb/mnist/",
        _idx,
        _four(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    Dataset(
        "fashion-mnist", "articles of clothing", (28, 28, 1), _MNIST_COUNTS, 10, "MIT",
        "https://github.com/zalandoresearch/fashion-mnist", _idx,
        _four(
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    Dataset(
        "kmnist", "cursive Japanese characters", (28, 28, 1), _MNIST_COUNTS, 10, "CC BY-SA 4.0",
        "https://github.com/rois-codh/kmnist", _kmnist,
        _four(
            ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            "bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    *(
        Dataset(
            f"emnist/{part}", about, (28, 28, 1), {"train": train, "test": test}, classes, "see source",
            "https://www.nist.gov/itl/products-and-services/emnist-dataset", _emnist, (_EMNIST_FILE,),
        )
        for part, (about, classes, train, test) in EMNIST_PARTS.items()
    ),
    Dataset(
        "pneumoniamnist", "chest X-rays of children, normal or pneumonia", (28, 28, 1),
        {"train": 4708, "val": 524, "test": 624}, 2, "CC BY 4.0", "https://medmnist.com", _pneumonia,
        (
            Remote(
                "pneumoniamnist.npz", ("https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1",),
                "md5:28209eda62fecd6e6a2d98b1501bb15f",
            ),
        ),
    ),
    Dataset(
        "cifar10", f"small photographs: {', '.join(CIFAR_NAMES)}", (32, 32, 3), {"train": 50000, "test": 10000}, 10,
        "see source", "https://www.cs.toronto.edu/~kriz/cifar.html", _cifar10,
        (
            Remote(
                ARCHIVE, (f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",), "md5:c32a1d4ab5d03f1284b67883e8d87530",
            ),
        ),
    ),
    Dataset(
        "dsprites", "square, ellipse and heart, to measure disentanglement by", (64, 64, 1),
        {"train": DSPRITES_COUNT}, 3, "Apache-2.0", "https://github.com/google-deepmind/dsprites-dataset", _dsprites,
        (
            Remote(
                DSPRITES, (f"https://github.com/google-deepmind/dsprites-dataset/raw/master/{DSPRITES}",),
                "md5:7da33b31b13a06f4b04a70402ce90c2e",
            ),
        ),
    ),
    Dataset(
        "factors", "square, ellipse and heart on the grid of dSprites, drawn", (64, 64, 1), {"train": FACTOR_COUNT}, 3,
        "Apache-2.0", "docs/methods/README.md",
        generate=lambda number=None, seed=0, size=64: open_factors(number, seed=seed, size=size),
    ),
    Dataset(
        "generated-parts", "washers, brackets, gears and labels with defects, drawn", (128, 128, 3),
        {"train": 240, "test": 160}, 4, "Apache-2.0", "docs/guide/generated-parts.md", generate=open_parts,
    ),
]  # fmt: skip
_DATASETS = {entry.name: entry for entry in _ALL}
