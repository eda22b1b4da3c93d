"""Results in the order of production, as a monitor of drift takes them: from tables, from logs, or from a detector."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from knowngood.calibration import Calibration, OnlineRanks
from knowngood.calibration.conformal import p_values
from knowngood.data.conditions import ConditionSchema
from knowngood.data.formulas import as_meant
from knowngood.data.readers.damage import named_damage
from knowngood.data.readers.manifest import SEPARATORS
from knowngood.detector.versions import MARK
from knowngood.errors import DataError
from knowngood.evaluation.drift_reference import Reference, by_scores, group_names
from knowngood.files import decoded, encoding_of

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "None", "NULL", "null", "<NA>", "#N/A"]  # cells without a number
MEASURES = ("anomaly_score", "p_value")
OFF_GRID = 0.25  # of a step between two p-values, that rounding in a log may have moved one


class ScoreStream(NamedTuple):
    """N items in order. scores: (N,) higher is more anomalous. groups, ids, times: (N,) texts; None where absent.

    measure: what the scores are, "anomaly_score" or "p_value" (then scores are −p). left_out: counts of rows by reason.
    p_values: (N,) where every item has one beside its score.
    """

    scores: np.ndarray
    groups: list[str]
    ids: list[str] | None
    times: list[str] | None
    measure: str
    left_out: dict[str, int]
    p_values: np.ndarray | None = None


def read_results(path: Path) -> pd.DataFrame | None:
    """The table in a file of results (.csv, .json, .parquet) or of a log (a JSON object a line); None for other data.

    Raises:
        DataError: the file, or a line of a log, is damaged.
    """
    if not path.is_file():
        return None
    with named_damage(path, "cannot be read as results", "expected what `knowngood score` writes, or a log in UTF-8"):
        table = _table(path)
    return table if table is not None and set(table.columns) & set(MEASURES) else None


def column_names(path: Path) -> list[str]:
    """Names of the columns of a .csv or .parquet file; empty for any other, and for one that is damaged."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet") or not path.is_file():
        return []
    with path.open("rb") as file:  # its name need not be text
        if suffix == ".csv":
            first = file.readline()
            return [name.strip('"') for name in re.split("[,;\t]", first.decode(encoding_of(first), "replace").strip())]
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_schema(file).names
        except pyarrow.ArrowException:
            return []


def _table(path: Path) -> pd.DataFrame | None:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
        for sep in SEPARATORS:  # a spreadsheet may have saved it again
            with path.open(newline="", encoding=encoding) as file:
                header = next(csv.reader(file, delimiter=sep), [])
            if set(header) & set(MEASURES):
                break
        else:
            return None
        texts = dict.fromkeys(("id", "condition", MARK), "str")  # 007 is no 7, and NA may be a name
        empty = {name: [""] if name in texts else MISSING for name in header}
        cells = {"dtype": texts, "na_values": empty, "keep_default_na": False}
        decimal = "." if sep == "," else ","
        table = pd.read_csv(path, sep=sep, decimal=decimal, encoding=encoding, **cells)  # type: ignore[call-overload]
        own = [name for name in texts if name in table]
        return table.assign(**{name: table[name].map(as_meant, na_action="ignore") for name in own})
    if suffix == ".parquet":
        with path.open("rb") as file:  # its name need not be text
            return pd.read_parquet(file).astype(object)  # text is decoded here, or else when it is used
    return pd.DataFrame(_records(path)) if suffix in (".json", ".jsonl", ".ndjson", ".log") else None


def _records(path: Path) -> list[Any]:
    text = decoded(path.read_bytes())
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except ValueError:
        pass
    records, lines = [], text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError:
            if number == len(lines) and not line.endswith("\n"):
                break  # the server is still writing it
            raise DataError(
                f"{path}, line {number}: {line[:60].strip()!r} is no JSON object; expected one a line, such as "
                '{"id": "a.png", "p_value": 0.4}. Mend or remove the line.'
            ) from None
        if isinstance(record, dict) and set(record) & set(MEASURES):  # a log tells of other events too
            records.append(record)
    return records


def score_stream(
    tables: list[pd.DataFrame], schema: ConditionSchema | None = None, added: Sequence[str] = ()
) -> ScoreStream:
    """The items of tables of results, one after the other. Items without a score, or labelled anomalous, are left out.

    `added` are the names of groups that were added to the calibration. The order is by time, if every item has one in
    ISO 8601 or as a number, else that of the tables. Scores are used if every item has one, else p-values.

    Raises:
        DataError: neither scores nor p-values, or a value that is none.
    """
    table = pd.concat(tables, ignore_index=True)
    numbers = {name: _numbers(table, name) for name in MEASURES if name in table}
    read = np.logical_or.reduce([~np.isnan(values) for values in numbers.values()])
    anomalous = read & ((_numbers(table, "label") == 1) if "label" in table else False)
    kept = read & ~anomalous
    measure = next((name for name in MEASURES if name in numbers and not np.isnan(numbers[name][kept]).any()), None)
    if measure is None:
        raise DataError("some items have an anomaly_score only and others a p_value only; give one of them for all")
    values = numbers[measure]
    p = numbers["p_value"][kept] if len(numbers) == 2 and not np.isnan(numbers["p_value"][kept]).any() else None
    table, values = table[kept].reset_index(drop=True), values[kept]
    if measure == "p_value":
        wrong = np.flatnonzero((values <= 0) | (values > 1))
        if len(wrong):
            raise DataError(f"{_name(table, wrong[0])}: p_value = {values[wrong[0]]:g}; expected above 0, at most 1")
        values = -values
    if "time" in table and table["time"].notna().all():
        stamps = _stamps(table["time"])
        if stamps.notna().all():
            order = np.argsort(stamps.to_numpy(), kind="stable")
            table, values = table.iloc[order].reset_index(drop=True), values[order]
            p = None if p is None else p[order]
    texts = table["condition"].where(table["condition"].notna(), "").astype(str) if "condition" in table else None
    groups = ["all"] * len(table) if texts is None else group_names(texts.tolist(), schema, added)
    ids, times = (_texts(table, name) for name in ("id", "time"))
    if ids is None and times is not None:  # a log without ids: each line is known by its time
        before: Counter[str] = Counter()
        ids, times = [], None
        for time in table["time"].astype(str):
            before[time] += 1
            ids.append(time if before[time] == 1 else f"{time} #{before[time]}")
    left_out = {"without a score": int((~read).sum()), "labelled anomalous": int(anomalous.sum())}
    return ScoreStream(values, groups, ids, times, measure, {why: n for why, n in left_out.items() if n}, p)


def reference_of(pipeline: Pipeline, measure: str, p: np.ndarray) -> Reference:
    """What a stream is compared with, so that calibration items and stream are exchangeable while nothing changes.

    Args:
        measure: "anomaly_score" or "p_value". p: the p-values of the stream, for their check; unused for scores.

    Raises:
        DataError: a p-value that this calibration cannot give.
    """
    calibration = pipeline.calibration
    if calibration is None:
        raise DataError("this model is not calibrated; run `knowngood calibrate MODEL DATA` first")
    text = f"{measure} {pipeline.calibrated_by} {calibration.metadata()}".encode()
    digest = hashlib.sha256(text + calibration.scores.tobytes() + calibration.strata.tobytes())
    for group in pipeline.added:
        digest.update(group.name.encode() + group.calibration.scores.tobytes())
    if measure == "anomaly_score" or pipeline.calibrated_by == "cross":
        from knowngood.detector.decide import on_common_scale  # with torch, which tables alone do not need

        added = {group.name: group.calibration for group in pipeline.added}
        own = {name: on_common_scale(calibration, one, one.scores) for name, one in added.items()}
        return by_scores(calibration, pipeline.calibrated_by, own)._replace(fingerprint=digest.hexdigest())
    names = calibration.stratum_names
    usable = {name: n for s, name in enumerate(names) if (n := _distinct(calibration, s))}
    usable |= {group.name: n for group in pipeline.added if (n := _distinct(group.calibration, 0))}
    for n in set(usable.values()) if len(names) == 1 and not pipeline.added else ():
        steps = p * (n + 1)
        off = np.flatnonzero(np.abs(steps - np.rint(steps)) > OFF_GRID)
        if len(off):
            raise DataError(
                f"p_value = {p[off[0]]:g} is none that this model gives with its {n:,} calibration items (k/{n + 1}); "
                "it was calibrated anew, or digits were cut: give the anomaly_score, or the stream without the model"
            )
    fixed: dict[str, Any] = {name: OnlineRanks.fixed(-(np.arange(n) + 1.5) / (n + 1)) for name, n in usable.items()}
    groups = f"{len(fixed)} of {len(names) + len(pipeline.added)} Mondrian groups"
    what = f"compared with the calibration items of {groups} and the stream so far"
    return Reference(fixed, f"p-values only: items are {what}, by the steps of their p-values", digest.hexdigest())


def _distinct(calibration: Calibration, stratum: int) -> int:
    """n of a stratum whose p-values have n + 1 different steps; 0 where it is pooled, or scores tie."""
    if not calibration.own()[stratum]:
        return 0
    own = calibration.scores[calibration.strata == stratum]
    return len(own) if len(np.unique(p_values(own, own))) == len(own) else 0


def _stamps(times: pd.Series) -> pd.Series:
    """Times in ISO 8601, or numbers, that can be sorted; missing where a text is neither: 02.03. has two readings."""
    numbers = pd.to_numeric(times, errors="coerce")
    return numbers if numbers.notna().all() else pd.to_datetime(times, utc=True, format="ISO8601", errors="coerce")


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    with named_damage(f"column {name}", "cannot be read as numbers", "expected a finite number for every item"):
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
    wrong = np.flatnonzero(~np.isfinite(values) & table[name].notna())
    if len(wrong):
        raise DataError(f"{_name(table, wrong[0])}: {name} = {table[name].iloc[wrong[0]]!r:.60}; expected a number")
    return values


def _texts(table: pd.DataFrame, name: str) -> list[str] | None:
    return [str(value) for value in table[name]] if name in table and table[name].notna().all() else None


def _name(table: pd.DataFrame, row: int) -> str:
    return str(table["id"].iloc[row]) if "id" in table else f"item {row + 1}"
