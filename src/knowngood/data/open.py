"""`open_images`: whatever a person points at becomes an ImageSet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.config import nearest, plugins
from knowngood.data.datasets.named import dataset_names, open_dataset
from knowngood.data.findings import Finding
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.base import Reader
from knowngood.data.readers.dsprites import is_dsprites, read_dsprites
from knowngood.data.readers.files import SUFFIXES, is_image, read_header
from knowngood.data.readers.folder import read_folder
from knowngood.data.readers.idx import check_pair, labels_beside, read_idx, read_idx_images
from knowngood.data.readers.manifest import read_manifest
from knowngood.data.readers.npz import read_npz
from knowngood.errors import DataError


def open_images(
    source: Any, *, conditions: Mapping[str, Any] | None = None, labels: Any = None, strict: bool = False
) -> ImageSet:
    """Open images from anything this library reads. Pixels of files are read later, when asked for.

    Args:
        source: an ImageSet; a NumPy array (N, H, W) or (N, H, W, C); a torch tensor (N, C, H, W); the name of a data
            set; or a path: a folder (plain, one sub-folder a class, train/test splits, MVTec layout, idx files), a
            .csv or .parquet manifest, an idx file (its labels are found beside it), an .npz like those of MedMNIST or
            of dSprites, an .npy array, one image file, or a path that a reader of another package takes (see
            `Reader`). A path that exists wins over a data set of the same name.
        conditions: column → N values, added to those of the source.
        labels: N labels that replace those of the source; see `parse_labels` for the words.
        strict: refuse if any file had to be set aside.

    Raises:
        DataError: nothing there, nothing in it, or not readable; names what was expected.
    """
    if isinstance(source, ImageSet):
        images = source
    elif isinstance(source, str | Path):
        images = _open_path(source)
    else:
        images = ImageSet.from_arrays(source)
    serious = [finding for finding in images.rejected if finding.severity == "error"]
    if strict and serious:
        listed = "\n".join(f"  {finding}" for finding in serious[:20])
        raise DataError(f"{images.name}: {len(serious)} files cannot be used (strict):\n{listed}")
    return images.annotate(labels, as_columns(conditions))


def _open_path(source: str | Path) -> ImageSet:
    path = Path(source).expanduser()
    if not path.exists():
        if isinstance(source, str) and (source in dataset_names() or source == "emnist"):
            return open_dataset(source)
        raise DataError(f"'{source}' is no existing path and no data set{nearest(str(source), dataset_names())}")
    added = plugins("readers", Reader)
    for reader in added if path.is_dir() else (*added, *_BUILT_IN):
        if reader.takes(path):
            return _checked(reader, path)
    if path.is_dir():
        return _idx_folder(path) or read_folder(path)
    if "idx" in path.name and ("ubyte" in path.name or path.suffix.lower() in (".gz", ".idx")):
        return _idx_file(path)
    if is_image(path):
        read_header(path)
        return ImageSet(FilePixels((path,)), np.array([path.name]), np.array([np.nan]), {}, name=path.name)
    more = "".join(f", {suffix} ({reader.name})" for reader in added for suffix in reader.suffixes)
    raise DataError(
        f"{path}: not a source of images; expected a folder, a .csv or .parquet manifest, an idx file, .npz, .npy"
        f"{more}, or an image ({', '.join(sorted(SUFFIXES))})"
    )


def _checked(reader: Reader, path: Path) -> ImageSet:
    images: object = reader.read(path)
    if not isinstance(images, ImageSet):
        raise DataError(
            f"{path}: reader '{reader.name}' returned a {type(images).__name__}; expected an ImageSet, "
            "for example from ImageSet.from_arrays"
        )
    return images


def _npz(path: Path) -> ImageSet:
    return read_dsprites(path) if is_dsprites(path) else read_npz(path)


def _npy(path: Path) -> ImageSet:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as .npy ({error})") from None
    return ImageSet.from_arrays(array, name=path.stem)


_BUILT_IN = (
    Reader("manifest", (".csv", ".parquet"), read_manifest),
    Reader("npz", (".npz",), _npz),
    Reader("npy", (".npy",), _npy),
)


def _idx_file(path: Path) -> ImageSet:
    images = ImageSet.from_arrays(read_idx_images(path), name=path.name.removesuffix(".gz"))
    if path.name.startswith("emnist-"):
        reason = "EMNIST files store images transposed, and here they stay so; open_dataset('emnist/…') turns them"
        images = images.replace(rejected=(Finding(path.name, "transposed", reason, "note"),))
    labels = labels_beside(path)
    if labels is None:
        reason = "no labels file of the official name beside it: classes are unknown"
        return images.replace(rejected=(*images.rejected, Finding(path.name, "no-labels", reason, "note")))
    values = read_idx(labels)
    check_pair(images.pixels.array, values, str(path), str(labels))  # type: ignore[attr-defined]
    return images.annotate(conditions={"class": values.astype(str)})


def _idx_folder(folder: Path) -> ImageSet | None:
    """A folder of MNIST-style idx files: train and t10k (test) together; None if it holds no such files."""
    parts = []
    for prefix, split in (("train", "train"), ("t10k", "test")):
        for name in (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-images-idx3-ubyte"):
            if (folder / name).is_file():
                parts.append((_idx_file(folder / name), split))
                break
    if not parts:
        return None
    blocks = [part.pixels.array for part, _ in parts]  # type: ignore[attr-defined]
    if len({block.shape[1:] for block in blocks}) > 1:
        raise DataError(f"{folder}: its idx files hold images of different shapes: {[b.shape for b in blocks]}")
    classes = [part.conditions.get("class", np.full(len(part), None, dtype=object)) for part, _ in parts]
    known = any("class" in part.conditions for part, _ in parts)
    whole = ImageSet.from_arrays(
        np.concatenate(blocks), conditions={"class": np.concatenate(classes)} if known else None, name=folder.name
    )
    return whole.replace(
        splits=np.concatenate([np.full(len(part), split) for part, split in parts]),
        rejected=tuple(finding for part, _ in parts for finding in part.rejected),
    )


def as_columns(conditions: Any) -> dict[str, Any] | None:
    """Condition columns by name from a mapping, a pandas DataFrame or Series, or one array (N,), named "condition"."""
    if conditions is None:
        return None
    if hasattr(conditions, "to_numpy") and hasattr(conditions, "columns"):
        return {str(column): conditions[column].to_numpy() for column in conditions.columns}
    if isinstance(conditions, Mapping):
        return dict(conditions)
    if isinstance(conditions, (str, bytes)) or not hasattr(conditions, "__len__"):
        raise DataError(f"conditions are a {type(conditions).__name__}; expected columns: a dict of name → N values")
    return {str(getattr(conditions, "name", None) or "condition"): np.asarray(conditions)}
