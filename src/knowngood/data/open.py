"""`open_images`: whatever a person points at becomes an ImageSet. `Reader`: what a package adds to that."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.config import nearest, plugins
from knowngood.config.installed import naming_plugins
from knowngood.config.words import counted
from knowngood.data.datasets.named import dataset_names, is_dataset, open_dataset
from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet, join_splits
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.archive_folder import is_archive, read_archive
from knowngood.data.readers.damage import named_damage
from knowngood.data.readers.dsprites import is_dsprites, read_dsprites
from knowngood.data.readers.files import SUFFIXES, is_image, read_header
from knowngood.data.readers.folder import identifier, read_folder, with_others
from knowngood.data.readers.given import holds_images, listed, read_given
from knowngood.data.readers.idx import labels_beside, read_pair
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.manifest import read_manifest
from knowngood.data.readers.npz import read_npz
from knowngood.data.readers.parquet_images import image_column, read_parquet_images
from knowngood.data.readers.tar_shards import read_shards
from knowngood.data.readers.video import SUFFIXES as VIDEOS
from knowngood.data.readers.video import read_video, video_of
from knowngood.data.stores.address import Address, is_url
from knowngood.data.stores.fetched_pixels import FetchedPixels
from knowngood.errors import DataError, SettingsError
from knowngood.files import near


@dataclass(frozen=True)
class Reader:
    """Opens a file or folder as images.

    A package adds an instance by `[project.entry-points."knowngood.readers"]` with `mine = "my_package:READER"`.
    Readers of packages come before the built-in ones.

    Attributes:
        name: what errors call it.
        suffixes: ends of the names it is tried for, such as (".h5",) or (".nii.gz",), in any case.
        read: path → ImageSet. Raises DataError, naming the path, for what it cannot read.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], ImageSet]

    def __post_init__(self) -> None:
        if isinstance(self.suffixes, str) or not all(len(s) > 1 and s.startswith(".") for s in self.suffixes):
            raise SettingsError(
                f"reader '{self.name}': suffixes = {self.suffixes!r}; expected a tuple of suffixes with their dot, "
                "such as ('.h5',)"
            )

    def takes(self, path: Path) -> bool:
        """Whether the name of the path ends in one of the suffixes."""
        return path.name.lower().endswith(tuple(suffix.lower() for suffix in self.suffixes))


def open_images(
    source: Any,
    *,
    conditions: Mapping[str, Any] | None = None,
    labels: Any = None,
    strict: bool = False,
    limits: Limits | None = None,
) -> ImageSet:
    """Open images from anything this library reads. Pixels of files are read later, when asked for.

    Args:
        source: an ImageSet; a NumPy array (N, H, W) or (N, H, W, C), or (H, W, 3), one picture; a torch tensor
            (N, C, H, W); a Pillow image; a list or iterator of pictures, or of paths; a DataFrame with a column of
            paths; the name of a data set; a path: a folder (plain, one sub-folder a class, train/test splits, MVTec
            layout, idx files, tar shards, parquet files with images), a .zip or .tar of one, a .csv or .parquet
            manifest, a .parquet file with images, an idx file (its labels are found beside it), an .npz like those of
            MedMNIST or of dSprites, an .npy array, one image file, a video file (`clip.mp4/step=25` takes every 25th
            frame), or a path that a reader of another package takes (see `Reader`); or a URL of an object store
            (s3://, gs://, az://) with a folder, tar shards, parquet files or a .csv manifest. A path that exists wins
            over a data set of the same name.
        conditions: column → N values, or one for all, added to those of the source.
        labels: N labels that replace those of the source; see `parse_labels` for the words.
        strict: refuse if any file had to be set aside.
        limits: bounds on what is decoded and unpacked. An ImageSet that was opened with bounds keeps these.

    Raises:
        DataError: nothing there, nothing in it, or not readable; names what was expected. StoreError: an object store
            does not answer.
    """
    source = listed(source)
    if isinstance(source, (list, tuple)) and not holds_images(source):
        source = np.asarray(source)
    if isinstance(source, ImageSet):
        images = source
    elif is_url(source):
        images = _open_url(source, limits or Limits())
    elif isinstance(source, str | Path):
        with named_damage(source, "cannot be read", "it may be damaged: copy, save or download it again"):
            images = _open_path(source, limits or Limits())
    else:
        given = read_given(source)
        images = ImageSet.from_arrays(source) if given is None else given
    if limits is not None and isinstance(images.pixels, FilePixels | FetchedPixels):
        images = images.replace(pixels=images.pixels.within(limits))
    serious = [finding for finding in images.rejected if finding.severity == "error"]
    if strict and serious:
        lines = "\n".join(f"  {finding}" for finding in serious[:20])
        raise DataError(f"{images.name}: {counted(len(serious), 'file')} that cannot be used (strict):\n{lines}")
    return images.annotate(labels, as_columns(conditions))


def _open_url(url: str, limits: Limits) -> ImageSet:
    from knowngood.data.readers.object_folder import read_url

    scheme, _, path = url.partition("://")
    if scheme == "file":
        return open_images(Path(path), limits=limits)
    return read_url(url)


def check_there(source: str | Path) -> None:
    """Refuse a source that is no existing path of a kind that is read, no data set and no URL; nothing is opened.

    Raises:
        DataError: it is none. SettingsError: a URL of no object store, a wrong step of a video.
    """
    if isinstance(source, str) and not source.strip():
        raise DataError("the name of the data is empty; for the folder that you are in write .")
    if is_url(source):
        Address.of(source)
        return
    path = Path(os.path.expanduser(source))
    if not (os.path.exists(path) or _video_at(path) or (isinstance(source, str) and is_dataset(source))):
        if any(sign in path.name for sign in "*?["):
            raise DataError(
                f"'{source}' is a pattern, and no path; give the folder, or in Python the list of the files: "
                f"sorted(Path({str(path.parent)!r}).glob({path.name!r}))"
            )
        meant = near(path)
        hint = f": did you mean '{meant}', which is there?\nIt is" if meant is not None else " and"
        raise DataError(f"'{source}' is no existing path{hint} no data set{nearest(str(source), dataset_names())}")
    if os.path.isfile(path) and _video_at(path) is None and _reader(path) is None and _of_file(path) is None:
        added = plugins("readers", Reader)
        more = "".join(f", {suffix} ({reader.name})" for reader in added for suffix in reader.suffixes)
        raise DataError(
            f"{path}: not a source of images; expected a folder, .csv or .parquet manifest, .zip, .tar, idx, .npz, .npy"
            f"{more}, a video ({', '.join(VIDEOS)}), or an image ({', '.join(sorted(SUFFIXES))})"
        )


def _video_at(path: Path) -> tuple[Path, int | None] | None:
    """The file and the step of a video that is there."""
    video = None if os.path.isdir(path) else video_of(str(path))
    return video if video is not None and os.path.isfile(video[0]) else None


def _open_path(source: str | Path, limits: Limits) -> ImageSet:
    check_there(source)
    path = Path(os.path.expanduser(source))
    if (video := _video_at(path)) is not None:
        return read_video(*video, limits)
    if not os.path.exists(path):
        return open_dataset(str(source))
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: is a pipe or device; expected a file or a folder")
    if (reader := _reader(path)) is not None:
        with naming_plugins(reader.name):
            images: object = reader.read(path)
        if not isinstance(images, ImageSet):
            raise DataError(
                f"{path}: reader '{reader.name}' returned a {type(images).__name__}; expected an ImageSet, "
                "for example from ImageSet.from_arrays"
            )
        return images
    of_file = None if path.is_dir() else _of_file(path)
    return (_folder if of_file is None else of_file)(path, limits)


def _reader(path: Path) -> Reader | None:
    """What reads it, of other packages first; None for what `_of_file` and `_folder` read."""
    added = plugins("readers", Reader)
    return next((one for one in (added if path.is_dir() else (*added, *_BUILT_IN)) if one.takes(path)), None)


def _of_file(path: Path) -> Callable[[Path, Limits], ImageSet] | None:
    """What opens a file of this name, or of these first bytes; None where nothing does."""
    if path.suffix.lower() == ".npz":
        return _npz
    if is_archive(path):
        return read_archive
    if "idx" in path.name and ("ubyte" in path.name or path.suffix.lower() in (".gz", ".idx")):
        return lambda path, limits: _idx_file(path)
    return _one_image if is_image(path) or path.suffix.lower() in SUFFIXES else None


def _folder(path: Path, limits: Limits) -> ImageSet:
    return _idx_folder(path) or _shards(path) or read_folder(path, limits)


def _npz(path: Path, limits: Limits) -> ImageSet:
    return read_dsprites(path) if is_dsprites(path) else read_npz(path, limits=limits)


def _one_image(path: Path, limits: Limits) -> ImageSet:
    read_header(path)
    name = printable(path.name)
    return ImageSet(FilePixels((path,)), np.array([name]), np.array([np.nan]), {}, name=name)


def _shards(folder: Path) -> ImageSet | None:
    """A folder of tar files, or of parquet files with images, and no image file; None of another one."""
    files: list[Path] = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = [Path(base, name) for name in names if not name.startswith(".")]
        if any(is_image(path) for path in found if path.suffix.lower() not in (".tar", ".parquet")):
            return None
        files += found
    for suffix, read in ((".tar", read_shards), (".parquet", read_parquet_images)):
        chosen = sorted(path for path in files if path.suffix.lower() == suffix)
        if chosen and (suffix == ".tar" or any(image_column(file) is not None for file in chosen)):
            others = [identifier(path, folder) for path in sorted(set(files) - set(chosen))]
            return with_others(read(chosen, folder), others)
    return None


def _table(path: Path) -> ImageSet:
    if path.suffix.lower() == ".parquet" and image_column(path) is not None:
        return read_parquet_images([path], path)
    return read_manifest(path)


def _npy(path: Path) -> ImageSet:
    with named_damage(path, "cannot be read as .npy", "expected an array of numbers that `numpy.save` wrote"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    given = read_given(array)  # (H, W, 3) is one picture here too
    return (ImageSet.from_arrays(array) if given is None else given).replace(name=path.stem)


_BUILT_IN = (
    Reader("manifest", (".csv", ".parquet"), _table),
    Reader("npy", (".npy",), _npy),
)


def _idx_file(path: Path) -> ImageSet:
    labels = labels_beside(path)
    block, classes = read_pair(path, labels)
    conditions = None if classes is None else {"class": classes}
    images = ImageSet.from_arrays(block, conditions=conditions, name=path.name.removesuffix(".gz"))
    notes = []
    if path.name.startswith("emnist-"):
        reason = "EMNIST files store images transposed, and here they stay so; open_dataset('emnist/…') turns them"
        notes.append(Finding(path.name, "transposed", reason, "note"))
    if classes is None:
        reason = "no labels file of the official name beside it: classes are unknown"
        notes.append(Finding(path.name, "no-labels", reason, "note"))
    return images.replace(rejected=tuple(notes))


def _idx_folder(folder: Path) -> ImageSet | None:
    """A folder of MNIST-style idx files: train and t10k (test) together; None if it holds no such files."""
    parts, rejected = {}, []
    for prefix, split in (("train", "train"), ("t10k", "test")):
        candidates = (folder / f"{prefix}-images-idx3-ubyte{suffix}" for suffix in (".gz", ""))
        path = next((one for one in candidates if one.is_file()), None)
        if path is not None:
            part = _idx_file(path)
            parts[split] = part.pixels.array, part.conditions.get("class")  # type: ignore[attr-defined]
            rejected += part.rejected
    if not parts:
        return None
    return join_splits(parts, str(folder)).replace(name=folder.name, rejected=tuple(rejected))


def as_columns(conditions: Any) -> dict[str, Any] | None:
    """Condition columns by name from a mapping, a pandas DataFrame or Series, or one array (N,), named "condition".

    A column of a mapping may be one value, for all items.
    """
    if conditions is None:
        return None
    if hasattr(conditions, "to_numpy") and hasattr(conditions, "columns"):
        return {str(column): conditions[column].to_numpy() for column in conditions.columns}
    if isinstance(conditions, Mapping):
        return dict(conditions)
    if isinstance(conditions, (str, bytes)) or not hasattr(conditions, "__len__"):
        raise DataError(f"conditions are a {type(conditions).__name__}; expected columns: a dict of name → N values")
    return {str(getattr(conditions, "name", None) or "condition"): np.asarray(conditions)}
