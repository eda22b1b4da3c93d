"""Conditions of items as the inputs of an exported graph: as `data.conditions` encodes them, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from knowngood.data.values import Floats, Ints, as_array, listing, numbers_of, texts_of
from knowngood.errors import DataError


class Encoded(NamedTuple):
    """Of N items."""

    condition: np.ndarray  # (N, W) float32
    stratum: Ints  # (N,), −1 where the values never occurred together in the fit
    label: list[str]


def encode(
    columns: Sequence[Mapping[str, Any]], strata: Sequence[Sequence[int]], given: Mapping[str, Any], n: int
) -> Encoded:
    """The conditions of n items.

    Args:
        columns, strata: as the metadata of the file has them.
        given: column → values (N,).

    Raises:
        DataError: a column is missing or not known, or has a missing or new value.
    """
    used = [column for column in columns if column["roles"]]
    names = [column["name"] for column in columns]
    for name in given:
        if name not in names:
            known = f"it has {listing(names)}" if names else "it was fitted without conditions"
            raise DataError(f"the model has no condition '{name}'; {known}")
    read = {column["name"]: _read(column, given, n) for column in used}
    parts, keys, texts = [], [], []
    for column in used:
        codes, numbers = read[column["name"]]
        if "model" in column["roles"]:
            parts.append(_vectors(column, codes, numbers))
        if "stratify" in column["roles"]:
            keys.append(codes)
        categorical = column["kind"] == "categorical"
        named = column["code_names"]
        texts.append([named[k] for k in codes] if categorical else [f"{column['name']}={v:.4g}" for v in numbers])
    condition = np.concatenate(parts, axis=1, dtype=np.float32) if parts else np.zeros((n, 0), np.float32)
    known = {tuple(row): s for s, row in enumerate(strata)}
    stratum = np.array([known.get(key, -1) for key in zip(*keys, strict=True)] if keys else [0] * n, dtype=np.int64)
    return Encoded(condition, stratum, [", ".join(row) for row in zip(*texts, strict=True)] if texts else [""] * n)


def _read(column: Mapping[str, Any], given: Mapping[str, Any], n: int) -> tuple[Ints, Floats]:
    """Codes (N,) of values or bins, and numbers (N,), NaN of a categorical column."""
    name, categorical = column["name"], column["kind"] == "categorical"
    expected = f"known: {listing(column['values'])}" if categorical else "expected a number for each item"
    if name not in given:
        raise DataError(f"condition '{name}' is not given; {expected}. An exported model takes known conditions only")
    array = as_array(name, given[name], n)
    if categorical:
        which, texts = texts_of(array)
        known = {value: code for code, value in enumerate(column["values"])}
        codes, numbers = np.array([known.get(text, -1) for text in texts], dtype=np.int64)[which], np.full(n, np.nan)
    else:
        numbers = numbers_of(array, name)
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(np.array(column["edges"]), numbers, side="right"))
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise DataError(
            f"condition '{name}' has no usable value for item {row} ({array[row]!r}); {expected}. An exported model "
            "takes known conditions only"
        )
    return codes, numbers


def _vectors(column: Mapping[str, Any], codes: Ints, numbers: Floats) -> np.ndarray:
    if column["kind"] == "continuous":
        return ((numbers - column["mean"]) / column["std"])[:, None]
    return np.eye(len(column["values"]), dtype=np.float32)[codes]
