"""Conditions of items as the inputs of an exported graph: as `data.conditions` encodes them, from plain data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from knowngood.data.combinations import find
from knowngood.data.unknown_values import filled
from knowngood.data.values import Floats, Ints, as_array, listing, numbers_of, texts_of
from knowngood.errors import DataError

Unknown = Literal["error", "infer"]


class Encoded(NamedTuple):
    """M rows of N items: one for an item with all its values, one for each condition that another one may have."""

    condition: np.ndarray  # (M, W) float32
    stratum: Ints  # (M,), −1 where the values never occurred together in the fit
    label: list[str]  # (M,)
    item: Ints  # (M,) ascending
    log_weight: Floats  # (M,) log π of the condition among those that the item may have
    known: np.ndarray  # (N,) bool


class Column(NamedTuple):
    """A condition column, as the metadata of the file has it; see `data.columns.Column`."""

    name: str
    kind: Literal["categorical", "continuous"]
    roles: Sequence[str]
    values: Sequence[str]
    mean: float
    std: float
    edges: Sequence[float]
    medians: Sequence[float]
    code_names: Sequence[str]

    @property
    def in_cells(self) -> bool:
        """Whether the column is part of the combinations that are counted."""
        return "infer" in self.roles or "stratify" in self.roles


class Conditions:
    """The conditions that a model knows.

    Args:
        facts: the metadata of the file: columns, strata, and cells with their counts.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        every = [Column(**column) for column in facts["columns"]]
        self.names, self.columns = [column.name for column in every], [column for column in every if column.roles]
        self.cells = np.array(facts["cells"], np.int64).reshape(len(facts["cells"]), sum(one.in_cells for one in every))
        self.counts, own = facts["cell_counts"], sum("stratify" in one.roles for one in every)
        self.strata = np.array(facts["strata"], np.int64).reshape(len(facts["strata"]), own)

    def check(self, name: str) -> None:
        """Raise DataError for a column that the model does not have."""
        if name not in self.names:
            known = f"it has {listing(self.names)}" if self.names else "it was fitted without conditions"
            raise DataError(f"the model has no condition '{name}'; {known}")

    def encode(self, given: Mapping[str, Any], n: int, unknown: Unknown = "error") -> Encoded:
        """The conditions of n items.

        Args:
            given: column → values (N,).
            unknown: "infer" takes a missing or new value as unknown, in columns that may be.

        Raises:
            DataError: a column is not known, or has a missing or new value that may not be unknown.
        """
        for name in given:
            self.check(name)
        columns = self.columns
        codes, numbers = np.full((n, len(columns)), -1, dtype=np.int64), np.full((n, len(columns)), np.nan)
        for i, column in enumerate(columns):
            codes[:, i], numbers[:, i] = _read(column, given, n, unknown)
        rows = filled(columns, self.cells, self.counts, codes, numbers)
        parts, texts = [np.zeros((len(rows.item), 0), np.float32)], []
        for i, column in enumerate(columns):
            if "model" in column.roles:
                parts.append(_vectors(column, rows.codes[:, i], rows.numbers[:, i]))
            if column.kind == "categorical":
                texts.append([column.code_names[k] for k in rows.codes[:, i]])
            else:
                texts.append([f"{column.name}={value:.4g}" for value in rows.numbers[:, i]])
        return Encoded(
            np.concatenate(parts, axis=1, dtype=np.float32),
            find(self.strata, rows.codes[:, ["stratify" in column.roles for column in columns]]),
            [", ".join(row) for row in zip(*texts, strict=True)] if texts else [""] * n,
            rows.item,
            rows.log_weight,
            rows.known,
        )


def _read(column: Column, given: Mapping[str, Any], n: int, unknown: Unknown) -> tuple[Ints, Floats]:
    """Codes (N,) of values or bins, −1 where unknown, and numbers (N,), NaN of a categorical column."""
    name, may_lack = column.name, unknown == "infer" and "infer" in column.roles
    categorical = column.kind == "categorical"
    known = f"known: {listing(column.values)}" if categorical else "expected a number for each item"
    way_out = "" if "infer" not in column.roles else '. Pass unknown="infer" (--unknown infer) to marginalise'
    if name not in given:
        if may_lack:
            return np.full(n, -1), np.full(n, np.nan)
        raise DataError(f"condition '{name}' is not given; {known}{way_out}")
    array = as_array(name, given[name], n)
    if categorical:
        which, texts = texts_of(array)
        position: dict[str | None, int] = {value: code for code, value in enumerate(column.values)}
        codes = np.array([position.get(text, -1) for text in texts], dtype=np.int64)[which]
        numbers, new = np.full(n, np.nan), sorted({text for text in texts if text and text not in position})
    else:
        numbers, new = numbers_of(array, name), []
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(np.array(column.edges), numbers, side="right"))
    if (codes < 0).any() and not may_lack:
        row = int(np.flatnonzero(codes < 0)[0])
        raise DataError(f"condition '{name}' has no usable value for item {row} ({array[row]!r}); {known}{way_out}")
    if new:
        warnings.warn(
            f"condition '{name}' has no value {listing(new, quote=True, most=5)} ({known}); these items were treated "
            "as unknown and their condition inferred",
            stacklevel=5,
        )
    return codes, numbers


def _vectors(column: Column, codes: Ints, numbers: Floats) -> np.ndarray:
    if column.kind == "continuous":
        return ((numbers - column.mean) / column.std)[:, None]
    return np.eye(len(column.values), dtype=np.float32)[codes]
