"""An exported detector: reads images, runs the graph, and answers as `Detector.detect` does."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.calibration.conformal import minimum_normals, verdict
from knowngood.data.findings import Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.errors import ArtifactError, DataError, NotEnoughNormals, SettingsError
from knowngood.runtime.conditions import encode

KEY = "knowngood"  # of the metadata of the file
FORMAT, FORMAT_VERSION = "knowngood-onnx", 1
FIXED = ("anomaly_score", "p_value", "is_anomalous", "map")  # outputs that are no parts of the score


class ExportedDetector:
    """A detector that `knowngood export` wrote: the scores, p-values, verdicts and maps of the model, without torch.

    Attributes:
        facts: the metadata of the file: alpha, threshold, columns of conditions, card, versions, model_sha256.
        session: the ONNX Runtime session, for what is not here.

    Args:
        providers: where ONNX Runtime computes; default the CPU.
        threads: of the CPU; default as ONNX Runtime chooses.

    Raises:
        ArtifactError: no such file, or `knowngood export` did not write it.
    """

    def __init__(
        self, path: str | Path, *, providers: Sequence[Any] = ("CPUExecutionProvider",), threads: int = 0
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise SettingsError("an exported model needs ONNX Runtime: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=list(providers))
            self.facts: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
            written = self.facts["format"], self.facts["format_version"]
        except (KeyError, TypeError):
            raise ArtifactError(f"{path}: an ONNX file of something else; `knowngood export` writes these") from None
        except Exception as error:  # of ONNX Runtime, of many types
            raise ArtifactError(f"{path}: cannot be read as an ONNX file: {error}") from None
        if written != (FORMAT, FORMAT_VERSION):
            raise ArtifactError(f"{path}: format {written}, this version reads {FORMAT_VERSION}: export it again")
        self._inputs = {one.name for one in self.session.get_inputs()}

    @property
    def alpha(self) -> float:
        """The false-alarm rate of the fit."""
        return self.facts["alpha"]

    def detect(
        self,
        X: Any,
        *,
        conditions: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        abstain: float | None = None,
    ) -> list[dict[str, Any]]:
        """A row an item, with the columns of `Detector.detect`; `pandas.DataFrame(rows)` makes its table.

        Args:
            X: a folder, an image file, a list of these files, an array (N, H, W) or (N, H, W, C); a table (N, F).
            conditions: column → values (N,), as at the fit; those that a folder has by its layout are known.
            alpha: share of normal items that may be flagged; default that of the fit.
            abstain: p-value up to which a verdict is "unsure"; adds the column `verdict`.

        Raises:
            DataError: images of an array do not fit the model; a condition is missing or new; nothing can be read.
            NotEnoughNormals: `alpha` is given and the calibration items are too few for it.
        """
        level = self._level(alpha)
        items = self._opened(X, conditions)
        names = [name for name in self.facts["outputs"] if name not in FIXED]
        rows = []
        for i, found in enumerate(self._run(items, ["anomaly_score", "p_value", *names], level)):
            broken = isinstance(found, str)
            values = dict.fromkeys(("anomaly_score", "p_value", *names), np.nan) if broken else found
            row = {"id": str(items.ids[i]), "anomaly_score": values["anomaly_score"], "p_value": values["p_value"]}
            row["is_anomalous"] = None if broken else bool(values["p_value"] <= level)
            row["condition"] = None if broken else items.label[i]
            row |= {name: values[name] for name in names}
            if abstain is not None:
                row["verdict"] = None if broken else str(verdict(values["p_value"], level, abstain))
            if broken:
                row["error"] = found
            rows.append(row)
        if rows and all("error" in row for row in rows):
            raise DataError(f"none of {len(rows)} items can be scored; the first, {rows[0]['id']}: {rows[0]['error']}")
        return rows

    def anomaly_maps(self, X: Any, *, conditions: Mapping[str, Any] | None = None) -> list[np.ndarray]:
        """Where: for each image a map (H, W) at its own size, higher is more anomalous.

        Raises:
            DataError: an image cannot be read. SettingsError: the score has no map.
        """
        if "map" not in self.facts["outputs"]:
            raise SettingsError("the score of this model has no map")
        items, maps = self._opened(X, conditions), []
        for i, found in enumerate(self._run(items, ["map"], self.alpha)):
            if isinstance(found, str):
                raise DataError(f"{items.ids[i]}: {found}")
            maps.append(found["map"])
        return maps

    # Inside ----------------------------------------------------------------------------------------------------------

    def _level(self, alpha: float | None) -> float:
        level, n = self.alpha if alpha is None else alpha, self.facts["calibration_items"]
        needed = minimum_normals(level)
        if n < needed:
            reason = f"alpha = {level:g} needs {needed} calibration items, there are {n}"
            if alpha is not None:
                raise NotEnoughNormals(f"{reason}; ask for a larger one", missing=needed - n)
            warnings.warn(f"{reason}: nothing is flagged", stacklevel=3)
        return level

    def _opened(self, X: Any, conditions: Mapping[str, Any] | None) -> _Items:
        if "image" not in self.facts:
            rows = np.asarray(X, dtype=np.float64)
            if rows.ndim != 2 or rows.shape[1] != self.facts["features"]:
                raise DataError(f"X has shape {rows.shape}; expected a table (N, {self.facts['features']})")
            if not np.isfinite(rows).all():
                raise DataError("the table has NaN or infinite values; give finite numbers")
            return _Items(self, rows, np.arange(len(rows)).astype(str), conditions or {})
        images = X if isinstance(X, ImageSet) else _images(X)
        used = {column["name"] for column in self.facts["columns"] if column["roles"]}
        given = {name: values for name, values in images.conditions.items() if name in used} | dict(conditions or {})
        return _Items(self, images, images.ids, given)

    def _run(self, items: _Items, outputs: list[str], alpha: float) -> Iterator[dict[str, Any] | str]:
        """The outputs for each item, or why it cannot be read."""
        for i in range(len(items.ids)):
            try:
                raw = items.read(i)
            except Unreadable as error:
                yield error.reason
                continue
            given = {"alpha": np.array(alpha, dtype=np.float64), **raw}
            given["condition"], given["stratum"] = items.condition[i : i + 1], items.stratum[i : i + 1]
            found: Any = self.session.run(outputs, {name: given[name] for name in self._inputs})
            yield {name: one[0] if one[0].ndim else one[0].item() for name, one in zip(outputs, found, strict=True)}


class _Items:
    """Items with their encoded conditions."""

    def __init__(self, detector: ExportedDetector, source: Any, ids: np.ndarray, given: Mapping[str, Any]) -> None:
        facts = detector.facts
        self.source, self.ids, self.image = source, ids, facts.get("image")
        self.condition, self.stratum, self.label = encode(facts["columns"], facts["strata"], given, len(ids))

    def read(self, i: int) -> dict[str, np.ndarray]:
        """The input of one item. Raises DataError: an image does not fit the model; Unreadable: its file does not."""
        if self.image is None:
            return {"rows": self.source[i : i + 1]}
        image = self.source.read(i)
        try:
            return {"image": fitting(image, self.image)[None]}
        except DataError as error:
            if isinstance(self.source.pixels, FilePixels):
                raise Unreadable(Path(str(self.ids[i])), "unsupported", str(error)) from None
            raise


def fitting(image: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """An image (H, W, C) in the dtype and channels that the graph takes.

    Raises DataError: it does not fit the model.
    """
    fitted, wanted = np.dtype(facts["dtype"]), 3 if facts["grey"] else facts["channels"]
    channels = image.shape[2]
    if channels != wanted and not (channels == 1 and (facts["grey"] or facts["colour"])):
        raise DataError(f"an image has {channels} channels; the model was fitted on {facts['channels']}")
    if not facts["resize"] and list(image.shape[:2]) != list(facts["size"]):
        height, width = facts["size"]
        raise DataError(f"an image is {image.shape[0]}×{image.shape[1]}, the model takes {height}×{width} as it is")
    if image.dtype.kind == fitted.kind == "f":
        if not np.isfinite(image).all():
            raise DataError("the image holds NaN or infinite values")
        image = image.astype(np.float32)
    elif image.dtype != fitted:
        if not (facts["by_type"] and image.dtype.kind == fitted.kind == "u" and image.itemsize < fitted.itemsize):
            raise DataError(f"an image is {image.dtype}, the model was fitted on {fitted} ({facts['rule']})")
        image = image.astype(fitted) * fitted.type(np.iinfo(fitted).max // np.iinfo(image.dtype).max)
    return np.repeat(image, wanted, axis=2) if channels != wanted else image


def _images(X: Any) -> ImageSet:
    """Images of a folder, of files, or of an array."""
    if isinstance(X, str | Path) and Path(X).is_dir():
        from knowngood.data.readers.folder import read_folder

        return read_folder(X)
    if isinstance(X, str | Path):
        X = [X]
    if not isinstance(X, np.ndarray) and len(X) and all(isinstance(one, str | Path) for one in X):
        unknown = np.full(len(X), np.nan)
        return ImageSet(FilePixels(tuple(map(Path, X))), np.array([str(one) for one in X]), unknown, {})
    return ImageSet.from_arrays(np.asarray(X))
