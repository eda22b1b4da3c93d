"""Regions to ignore: drawn as polygons or as a mask, for all images or by the value of a condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from knowngood.config import read_yaml
from knowngood.data.readers.files import is_image
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.mask_file import read_mask
from knowngood.data.regions.polygons import Polygon, fill, read_polygons
from knowngood.errors import ArtifactError, DataError
from knowngood.files import decoded

Bools = NDArray[np.bool_]
_FINE = 16  # sub-pixels a side by which the polygons' share of a grid cell is measured
_ALL = ""  # stands for every image
_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Outlines:
    """Polygons of points (x, y) in shares of width and height; what is inside any of them is ignored."""

    polygons: tuple[Polygon, ...]

    def mask(self, height: int, width: int) -> Bools:
        return fill(self.polygons, height, width)

    def covered(self, h: int, w: int) -> NDArray[np.float64]:
        return self.mask(h * _FINE, w * _FINE).reshape(h, _FINE, w, _FINE).mean(axis=(1, 3))


@dataclass(frozen=True, eq=False)
class Painted:
    """A mask (H, W), True where it is ignored."""

    whole: Bools

    def mask(self, height: int, width: int) -> Bools:
        own_height, own_width = self.whole.shape
        most = max(height, width, own_height, own_width)  # a pixel of the smaller of the two
        if abs(own_width * height - own_height * width) >= most:
            raise DataError(
                f"the mask to ignore is {own_width} × {own_height} pixels (width × height), the image "
                f"{width} × {height}: other proportions. Draw the mask on an image of this kind, or give polygons."
            )
        rows, columns = (((2 * np.arange(n) + 1) * m) // (2 * n) for n, m in ((height, own_height), (width, own_width)))
        return self.whole[np.ix_(rows, columns)]

    def covered(self, h: int, w: int) -> NDArray[np.float64]:
        height, width = self.whole.shape
        share = _shares(h, height) @ self.whole.astype(np.float32) @ _shares(w, width).T
        return np.round(share.astype(np.float64), 6)  # so that all of a cell is 1 exactly


@dataclass(frozen=True, eq=False)
class IgnoreRegions:
    """What to ignore in each image; made by `of`, saved by `to_tensors` and `metadata`.

    Polygons fit an image of any size. A mask fits images of its own size or proportions (to a pixel of the smaller of
    the two); it is scaled by the nearest pixel. With a `column` the regions depend on that condition's value: a value
    that is not named has none.
    """

    areas: Mapping[str, Outlines | Painted]
    column: str | None = None

    @classmethod
    def of(cls, given: Any, limits: Limits | None = None) -> IgnoreRegions:
        """Regions from what a user gives.

        Args:
            given: one of
                a mask: (H, W) booleans or whole numbers, 0 is kept; or an image file, in which what is white (at least
                half of the range) is ignored;
                polygons: a list, each a list of at least 3 points (x, y), in shares 0…1 of width and height from the
                top left corner; or {polygons: …, size: [width, height]}, in pixels of an image of this size;
                a JSON or YAML file of polygons;
                by product: a mapping (or file of one) from the condition's values to any of these. Paths in a file are
                relative to it. 'polygons' and 'size' are no such values.
            limits: of mask files.

        Raises:
            DataError: a polygon or mask cannot be used, or everything would be ignored.
        """
        content, folder = _loaded(given, Path())
        if isinstance(content, Mapping) and not _is_polygons(content):
            if not content:
                raise DataError("regions to ignore: the mapping is empty; omit it if nothing is to be ignored")
            areas = {
                str(key): _area(one, folder, f"regions to ignore of {key!r}", limits) for key, one in content.items()
            }
            return cls(areas, "product")
        return cls({_ALL: _area(content, folder, "regions to ignore", limits)})

    def mask(self, shape: tuple[int, int], condition: str | None = None) -> Bools:
        """(H, W) True where an image is ignored. For polygons see `fill`.

        Args:
            shape: (H, W) of the image.
            condition: its value of `column`; not needed without one.

        Raises:
            DataError: the condition is needed and missing, the mask has other proportions, or nothing would be left.
        """
        area = self._area_of(condition)
        return np.zeros(shape, dtype=bool) if area is None else _refuse_all(area.mask(*shape), condition)

    def grid(self, h: int, w: int, condition: str | None = None) -> NDArray[np.float64]:
        """(h, w) the share 0…1 of each cell that counts, the image being cut into h × w equal cells.

        Exact to 1e-6 for masks; polygons are measured at 16 × 16 points a cell. Raises DataError as `mask`.
        """
        area = self._area_of(condition)
        if area is None:
            return np.ones((h, w))
        covered = area.covered(h, w)
        _refuse_all(covered == 1, condition)
        return 1 - covered

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The masks in packed bits, for safetensors, by their number in `metadata`."""
        painted = {i: area for i, area in enumerate(self.areas.values()) if isinstance(area, Painted)}
        return {str(i): np.packbits(area.whole) for i, area in painted.items()}

    def metadata(self) -> dict[str, Any]:
        """Polygons, the masks' sizes and the condition, for JSON."""
        return {
            "column": self.column,
            "regions": [
                {"value": value, "mask": list(a.whole.shape)}
                if isinstance(a, Painted)
                else {"value": value, "polygons": [[list(point) for point in one] for one in a.polygons]}
                for value, a in self.areas.items()
            ],
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, Any]) -> IgnoreRegions:
        """The state that `to_tensors` and `metadata` gave.

        Raises:
            ArtifactError: a part is missing or does not fit the rest.
        """
        areas: dict[str, Outlines | Painted] = {}
        try:
            for i, one in enumerate(metadata["regions"]):
                if "polygons" in one:
                    areas[one["value"]] = Outlines(read_polygons(one["polygons"], None, "saved regions"))
                    continue
                height, width = one["mask"]
                bits = np.asarray(tensors[str(i)], dtype=np.uint8)
                if bits.shape != (-(-height * width // 8),):
                    raise ArtifactError(
                        f"regions to ignore: {bits.shape} bytes for a mask of {height} × {width} pixels"
                    )
                whole = np.unpackbits(bits, count=height * width).astype(bool).reshape(height, width)
                areas[one["value"]] = Painted(whole)
            return cls(areas, metadata["column"])
        except KeyError as error:
            raise ArtifactError(f"regions to ignore: no {error} in the saved state; the model is damaged") from None
        except (DataError, ValueError, TypeError) as error:
            raise ArtifactError(f"regions to ignore: the saved state is damaged: {error}") from None

    def _area_of(self, condition: str | None) -> Outlines | Painted | None:
        if self.column is None:
            return self.areas[_ALL]
        if condition is None:
            raise DataError(
                f"regions to ignore depend on condition '{self.column}', unknown for this image; give its value"
            )
        return self.areas.get(condition)


def _area(given: Any, folder: Path, where: str, limits: Limits | None) -> Outlines | Painted:
    content, size = _loaded(given, folder)[0], None
    if isinstance(content, Mapping):
        if not _is_polygons(content):
            raise DataError(f"{where}: expected a mask or polygons, got a mapping of {', '.join(map(repr, content))}")
        content, size = content["polygons"], content.get("size")
    if isinstance(content, Path):
        where = f"{where}, {content}"
        content = read_mask(content, limits)
    if isinstance(content, np.ndarray) and content.ndim == 2 and content.size and content.dtype.kind in "biu":
        if not content.any():
            raise DataError(f"{where}: the mask marks nothing; omit it, or paint what to ignore in white")
        area = Painted(content != 0)
        nothing_left = area.whole.all()
    else:
        listed = content.tolist() if isinstance(content, np.ndarray) else content
        area = Outlines(read_polygons(listed, size, where))
        nothing_left = area.mask(256, 256).all()
    if nothing_left:
        raise DataError(f"{where} cover the whole image; ignore less of it")
    return area


def _is_polygons(content: Mapping[Any, Any]) -> bool:
    return "polygons" in content and set(content) <= {"polygons", "size"}


def _loaded(given: Any, folder: Path) -> tuple[Any, Path]:
    """What a path leads to, a mask file as a path; and the folder that paths within it start from."""
    if not isinstance(given, str | Path):
        return given, folder
    path = folder / given
    if not is_image(path) and path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"regions to ignore: {path} is neither a mask image nor polygons ({', '.join(_SUFFIXES)})")
    if not path.exists():
        raise DataError(f"ignore: {path} does not exist; expected a mask image, or polygons in a JSON or YAML file")
    if is_image(path):
        return path, path.parent
    try:
        return read_yaml(decoded(path.read_bytes())), path.parent  # JSON is YAML
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: this is neither JSON nor YAML: {error}") from None


def _refuse_all(ignored: Bools, condition: str | None) -> Bools:
    if ignored.all():
        of = "" if condition is None else f" of '{condition}'"
        raise DataError(f"regions to ignore{of} leave nothing of the image; make them smaller")
    return ignored


def _shares(cells: int, pixels: int) -> NDArray[np.float32]:
    """(cells, pixels) which share of each cell each pixel is."""
    edge, at = np.arange(cells + 1)[:, None] * pixels / cells, np.arange(pixels)
    overlap = np.minimum(edge[1:], at + 1) - np.maximum(edge[:-1], at)
    return (np.maximum(overlap, 0) * cells / pixels).astype(np.float32)
