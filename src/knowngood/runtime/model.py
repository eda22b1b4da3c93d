"""An exported detector: reads images, runs the graph, and answers as `Detector.detect` does."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration.conformal import minimum_normals, verdict
from knowngood.calibration.map_scale import MapScale, own_scale
from knowngood.calibration.state import smallest_alpha
from knowngood.data.conditions import ConditionSchema, Unknown
from knowngood.data.findings import Unreadable, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import ArrayPixels, FilePixels
from knowngood.data.readers.limits import Limits
from knowngood.data.shape_range import ShapeRange
from knowngood.errors import ArtifactError, BatchWarning, DataError, NotEnoughNormals, SettingsError
from knowngood.files import did_you_mean
from knowngood.runtime.fitting import Seen, fitting, part_of
from knowngood.runtime.marginal import RAW, decided

SUFFIX = ".onnx"
KEY = "knowngood"  # of the metadata of the file
FORMAT, FORMAT_VERSION = "knowngood-onnx", 3
BEFORE_GRAPH = 4  # of files that ask for regions to be drawn; older runtimes refuse them
BY_CONDITION = 5  # of files whose regions to ignore depend on a condition
POSED = 6  # of files that ask for a pose, found by what the part looks like and by its outline
FIXED = ("anomaly_score", "p_value", "is_anomalous", "map", RAW)  # outputs that are no parts of the score
POSE = "pose"  # the column of how well the part was found
ROWS = 16  # of one item, given to the graph together


class Found(NamedTuple):
    """What is found of an item: the columns of `detect`, the map (H, W) if asked for, its Mondrian group (−1: none),
    whether all its conditions were known, and its shape (h, w), None of a row of a table and of what cannot be read."""

    row: dict[str, Any]
    map: np.ndarray | None
    stratum: int
    known: bool
    shape: tuple[int, int] | None = None


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
        path = Path(path)
        if not path.is_file():
            found = "a folder, not a file" if path.is_dir() else "no such file"
            hint = did_you_mean(path, lambda one: one.suffix.lower() == SUFFIX)
            raise ArtifactError(f"{path}: {found}{hint}; give what `knowngood export MODEL FILE{SUFFIX}` wrote")
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
        known = FORMAT_VERSION, BEFORE_GRAPH, BY_CONDITION, POSED
        if written not in [(FORMAT, version) for version in known]:
            read = f"{', '.join(map(str, known[:-1]))} and {known[-1]}"
            raise ArtifactError(f"{path}: format {written}, this version reads {read}: export it again")
        self._use(self.session, self.facts)

    @property
    def alpha(self) -> float:
        """The false-alarm rate of the fit."""
        return self.facts["alpha"]

    @property
    def has_map(self) -> bool:
        """Whether the score has an anomaly map."""
        return "map" in self.facts["outputs"]

    def detect(
        self,
        X: Any,
        *,
        conditions: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        abstain: float | None = None,
        unknown: Unknown | None = None,
    ) -> list[dict[str, Any]]:
        """A row an item, with the columns of `Detector.detect`; `pandas.DataFrame(rows)` makes its table.

        Files that a folder was opened without come last, each with the reason in `error`.

        Args:
            X: a folder, an image file, a list of these files, an array (N, H, W) or (N, H, W, C), a picture (H, W, 3)
                or (H, W, 4), a list of pictures of any sizes; a table (N, F), a DataFrame by the names of its columns.
            conditions: column → values (N,), or one value for all, as at the fit; those that a folder has by its layout
                are known.
            alpha: share of normal items that may be flagged; default that of the fit.
            abstain: p-value up to which a verdict is "unsure"; adds the column `verdict`.
            unknown: "infer" marginalises conditions that are missing or new, "error" refuses; default as fitted.

        Raises:
            DataError: images of an array do not fit the model; a condition is missing or new; nothing can be read.
            NotEnoughNormals: `alpha` is given and the calibration items are too few for it.
        """
        level, items = self._level(alpha), self._opened(X, conditions, unknown)
        found = list(self._found(items, level, abstain, maps=False))
        rows = [one.row for one in found]
        if rows and all("error" in row for row in rows):
            raise DataError(f"no item can be scored (of {len(rows):,}); the first, {rows[0]['id']}: {rows[0]['error']}")
        for sentence in self.add_notes(found):
            warnings.warn(sentence, BatchWarning, stacklevel=2)
        empty = dict.fromkeys(self._columns, np.nan) | {"is_anomalous": None, "condition": None}
        return rows + [{"id": one.path_or_id, **empty, "error": one.reason} for one in items.rejected]

    def anomaly_maps(
        self, X: Any, *, conditions: Mapping[str, Any] | None = None, unknown: Unknown | None = None
    ) -> list[np.ndarray]:
        """Where: for each image a map (H, W) at its own size, higher is more anomalous.

        Raises:
            DataError: an image cannot be read. SettingsError: the score has no map.
        """
        maps = []
        for one in self.stream(X, conditions=conditions, unknown=unknown, maps=True):
            if one.map is None:
                raise DataError(f"{one.row['id']}: {one.row['error']}")
            maps.append(one.map)
        return maps

    def stream(
        self,
        X: Any,
        *,
        conditions: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        abstain: float | None = None,
        unknown: Unknown | None = None,
        maps: bool = False,
    ) -> Iterator[Found]:
        """The items of `detect` one after the other, with maps if asked for: one pass, in constant memory.

        Files that were set aside when a folder was opened are not among them.

        Raises:
            As `detect`, but not where nothing can be read. SettingsError: the score has no map.
        """
        if maps and not self.has_map:
            raise SettingsError("the score of this model has no map")
        level = self._level(alpha)
        return self._found(self._opened(X, conditions, unknown), level, abstain, maps)

    def map_scale(self, values: np.ndarray) -> MapScale:
        """How a map (H, W) is coloured: by the threshold of maps of all conditions together."""
        facts = self.facts.get("map_scale")
        return own_scale(values) if facts is None else MapScale(**facts)

    def note_on(self, one: Found) -> str | None:
        """What is not normal of the shape of an image; None if all is."""
        return None if one.shape is None else self._shapes.notes(np.array([one.shape])).get(0)

    def add_notes(self, found: Sequence[Found]) -> list[str]:
        """Add `note` to the row of each, if the shape of any image is not normal; sentences on these images."""
        notes = [self.note_on(one) for one in found]
        if not any(notes):
            return []
        for one, note in zip(found, notes, strict=True):
            one.row["note"] = note
        images = [one for one in found if one.shape is not None]
        shapes, ids = np.array([one.shape for one in images]), np.array([one.row["id"] for one in images])
        return [said["sentence"] for said in self._shapes.facts(shapes, ids).values()]

    def seen(self, image: np.ndarray, c: np.ndarray | None = None) -> Seen:
        """An image (H, W, C) as the graph takes it, under encoded conditions (M, width).

        Raises DataError: it does not fit the model.
        """
        return fitting(image, self.facts["image"], self._part, c)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _use(self, session: Any, facts: dict[str, Any]) -> None:
        columns = [{name: one[name] for name in one if name != "code_names"} for one in facts["columns"]]
        counted = {"cells": facts["cells"], "counts": facts["cell_counts"]}
        self.session, self.facts, self.schema = session, facts, ConditionSchema.of({"columns": columns, **counted})
        self._inputs = {one.name for one in session.get_inputs()}
        self._part = part_of(facts)
        self._shapes = ShapeRange(**facts.get("shapes", {}))

    @property
    def _parts(self) -> list[str]:
        """Of the score: outputs that are columns."""
        return [name for name in self.facts["outputs"] if name not in FIXED]

    @property
    def _columns(self) -> tuple[str, ...]:
        """Of every row, beside id."""
        pose = () if self._part is None else (POSE,)
        return "anomaly_score", "p_value", "is_anomalous", "condition", *self._parts, *pose

    def _level(self, alpha: float | None) -> float:
        level, n = self.alpha if alpha is None else alpha, self.facts["calibration_items"]
        needed = minimum_normals(level)
        if n < needed:
            reason = f"alpha = {level:g} needs {needed} calibration items, there are {n}"
            if alpha is not None:
                least = f" of at least {smallest}" if (smallest := smallest_alpha(n)) else ""
                raise NotEnoughNormals(f"{reason}; ask for an alpha{least}", missing=needed - n)
            warnings.warn(f"{reason}: nothing is flagged", stacklevel=4)
        return level

    def _opened(self, X: Any, conditions: Mapping[str, Any] | None, unknown: Unknown | None) -> _Items:
        may: Unknown = unknown or self.facts["unknown"]
        if "image" not in self.facts:
            try:
                rows = np.asarray(_named_columns(X, self.facts["names"]), dtype=np.float64)
            except (ValueError, TypeError) as error:
                raise DataError(f"the table cannot be read as numbers: {error}") from None
            if rows.ndim != 2 or rows.shape[1] != self.facts["features"]:
                raise DataError(f"X has shape {rows.shape}; expected a table (N, {self.facts['features']})")
            if not np.isfinite(rows).all():
                raise DataError("the table has NaN or infinite values; give finite numbers")
            return _Items(self, rows, np.arange(len(rows)).astype(str), conditions or {}, may)
        images = X if isinstance(X, ImageSet) else _images(X, Limits(**self.facts.get("limits", {})))
        used = {column.name for column in self.schema.columns if column.roles}
        given = {name: values for name, values in images.conditions.items() if name in used} | dict(conditions or {})
        return _Items(self, images, images.ids, given, may)

    def _found(self, items: _Items, level: float, abstain: float | None, maps: bool) -> Iterator[Found]:
        names = self._parts
        marginal = self.facts.get("marginal")
        outputs = ["anomaly_score", "p_value", *names] + ([RAW] if marginal else []) + (["map"] if maps else [])
        for i, name in enumerate(items.ids):
            try:
                seen, broken = items.read(i), None
            except Unreadable as error:
                seen, broken = None, error.reason
            at, known = items.rows(i), bool(items.encoded.known[i])
            row: dict[str, Any] = {"id": str(name)}
            label = {} if items.labels is None else {"label": float(items.labels[i])}
            if broken is not None:
                row |= dict.fromkeys(self._columns, np.nan) | {"is_anomalous": None, "condition": None}
                row |= ({} if abstain is None else {"verdict": None}) | label | {"error": broken}
                yield Found(row, None, -1, known)
                continue
            parts = [self._run(items.inputs(i, seen, rows), outputs, level) for rows in _some(at)]
            values = {name: np.concatenate([part[name] for part in parts]) for name in outputs}
            best, score, p = decided(values, items.encoded.log_weight[at], known, marginal, self.facts)
            row |= {"anomaly_score": score, "p_value": p, "is_anomalous": p <= level}
            row["condition"] = items.encoded.label[at.start + best] + ("" if known else " (inferred)")
            row |= {name: float(values[name][best]) for name in names}
            if seen is not None and seen.posed is not None:
                row[POSE] = seen.posed.quality.after
            if abstain is not None:
                row["verdict"] = str(verdict(p, level, abstain))
            row |= label
            whole = seen.whole(values["map"][best]) if maps and seen is not None else None
            shape = None if seen is None else seen.shape
            yield Found(row, whole, int(items.encoded.stratum[at.start + best]), known, shape)

    def _run(self, given: dict[str, np.ndarray], outputs: list[str], alpha: float) -> dict[str, Any]:
        """The outputs (M, …) of M rows."""
        given = {**given, "alpha": np.array(alpha, dtype=np.float64)}
        found: Any = self.session.run(outputs, {name: given[name] for name in self._inputs})
        return dict(zip(outputs, found, strict=True))


class _Items:
    """Items with their encoded conditions. labels: (N,), None without any. rejected: files that could not be items."""

    def __init__(
        self, detector: ExportedDetector, source: Any, ids: np.ndarray, given: Mapping[str, Any], unknown: Unknown
    ) -> None:
        self.source, self.ids, self.detector = source, ids, detector
        labels = getattr(source, "labels", None)
        self.labels = None if labels is None or np.isnan(labels).all() else labels
        self.rejected = getattr(source, "unusable", [])
        given = {
            name: np.full(len(ids), one) if isinstance(one, str | int | float) else one for name, one in given.items()
        }
        self.encoded = detector.schema.expand(given, len(ids), unknown=unknown)
        for sentence in detector.schema.explain_new(given, len(ids)):
            warnings.warn(sentence, stacklevel=5)
        self._starts = np.searchsorted(self.encoded.item, np.arange(len(ids) + 1))

    def rows(self, i: int) -> slice:
        """The encoded rows of one item."""
        return slice(int(self._starts[i]), int(self._starts[i + 1]))

    def read(self, i: int) -> Seen | None:
        """What the graph sees of an image; None of a row of a table.

        Raises DataError: an image does not fit the model; Unreadable: its file does not.
        """
        if "image" not in self.detector.facts:
            return None
        image = self.source.read(i)
        try:
            return self.detector.seen(image, self.encoded.c[self.rows(i)])
        except DataError as error:
            if isinstance(self.source.pixels, ArrayPixels):
                raise
            raise Unreadable(Path(str(self.ids[i])), "unsupported", str(error)) from None

    def inputs(self, i: int, seen: Seen | None, rows: slice) -> dict[str, np.ndarray]:
        """Those of the graph of some rows of item i, of which `read` gave `seen`."""
        n, first = rows.stop - rows.start, int(self._starts[i])
        if seen is None:
            given = {"rows": np.repeat(self.source[i : i + 1], n, axis=0)}
        else:
            given = seen.inputs(slice(rows.start - first, rows.stop - first))
        return {**given, "condition": self.encoded.c[rows], "stratum": self.encoded.stratum[rows]}


def _some(rows: slice) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, ROWS):
        yield slice(start, min(start + ROWS, rows.stop))


def _named_columns(X: Any, names: Sequence[str]) -> Any:
    """The columns of a table in the order of the fit, where both have names. Raises DataError: they differ."""
    if not names or not hasattr(X, "columns"):
        return X
    if sorted(map(str, X.columns)) != sorted(names):
        raise DataError(f"the table has the columns {list(X.columns)}; the model was fitted on {list(names)}")
    return X[list(names)]


def _images(X: Any, limits: Limits) -> ImageSet:
    """Images of a folder, of files, of pictures, or of an array."""
    if isinstance(X, str | Path) and Path(X).is_dir():
        from knowngood.data.readers.folder import read_folder

        images = read_folder(X, limits)
        assert isinstance(images.pixels, FilePixels)
        return images.replace(pixels=images.pixels.within(limits))
    if isinstance(X, str | Path) and not os.path.exists(X):
        raise DataError(f"{X}: no such file or folder{did_you_mean(X)}; give a folder of images, or image files")
    from knowngood.data.readers.given import listed, read_given

    X = [X] if isinstance(X, str | Path) else listed(X)
    if isinstance(X, list | tuple) and not X:
        raise DataError(f"{X!r} holds no image; expected at least one")
    if isinstance(X, list | tuple) and all(isinstance(one, str | Path) for one in X):
        unknown = np.full(len(X), np.nan)
        return ImageSet(
            FilePixels(tuple(map(Path, X)), limits), np.array([printable(str(one)) for one in X]), unknown, {}
        )
    pictures = read_given(X)
    return ImageSet.from_arrays(X) if pictures is None else pictures
