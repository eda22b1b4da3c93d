"""Conditions: columns that describe how an image was made, as one vector and one Mondrian group (stratum) an item.

A schema is fitted once on the normal items and saved with the model. Each column has roles: `model` (enters the nets
as one-hot vector or standardised number), `stratify` (each Mondrian group gets its own calibration), `infer` (may be
unknown when scoring and is then marginalised). A column without roles is carried along and ignored.

Weights of unknown values come from the observed cells: the combinations of values of all `infer` and `stratify`
columns among the fitted items, with their counts. Torch-free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.config.roles import Role
from knowngood.config.words import nearest
from knowngood.data.columns import Column, explain_unknown
from knowngood.data.combinations import find, group
from knowngood.data.unknown_values import filled
from knowngood.data.values import Floats, Ints, listing
from knowngood.errors import DataError, SettingsError

ALL_ROLES: tuple[Role, ...] = get_args(Role)
MOST_CELLS = 4096
Unknown = Literal["error", "infer"]  # what to do with an unknown value: refuse, or marginalise


@dataclass(frozen=True)
class Expanded:
    """Rows to score or to fit: one for an item with all its values, one a compatible cell for an item that lacks some.

    c: (M, width) float32 for the nets. stratum: (M,) int64 for calibration; −1 stands for known values that never
    occurred together in the fit: no stratum has such normals. item: (M,) int64, ascending: the item each row belongs
    to. log_weight: (M,) float64, log π of the row's cell among those compatible with the item; 0 for known items.
    known: (N,) bool, an item had every value. label: (M,) text of the condition a row stands for. codes: (M, columns)
    int64, the value or bin of each column. stated: (N,) int64, the row of an item's own values, −1 where it lacks one;
    None where no other rows were asked for.
    """

    c: NDArray[np.float32]
    stratum: Ints
    item: Ints
    log_weight: Floats
    known: NDArray[np.bool_]
    label: list[str]
    codes: Ints
    stated: Ints | None = None

    @staticmethod
    def kept(stratum: Ints, known: NDArray[np.bool_], label: list[str] | None = None) -> Expanded:
        """A row an item, with what is kept of items that were scored: no vectors and codes, no texts unless given."""
        n = len(stratum)
        none = np.empty((n, 0), np.int64)
        texts = [""] * n if label is None else label
        return Expanded(none.astype(np.float32), stratum, np.arange(n), np.zeros(n), known, texts, none)

    def take(self, rows: NDArray[np.integer]) -> Expanded:
        """The given rows (K,) as K items of one row each, for example the condition chosen for each item.

        Weights become 0 (log of 1), as of known items; `known` stays that of the item each row came from.
        """
        return Expanded(
            c=self.c[rows],
            stratum=self.stratum[rows],
            item=np.arange(len(rows)),
            log_weight=np.zeros(len(rows)),
            known=self.known[self.item[rows]],
            label=[self.label[row] for row in rows],
            codes=self.codes[rows],
        )

    @staticmethod
    def concat(parts: Sequence[Expanded]) -> Expanded:
        """The items of all parts, one after the other; at least one part.

        Raises:
            DataError: a part has an item with several rows. `take` one row an item first.
        """
        for part in parts:
            if len(part.item) != len(part.known):
                raise DataError(
                    f"Expanded.concat: a part has {len(part.item)} rows for {len(part.known)} items; expected one row "
                    "an item. Choose one row an item with `take` first."
                )
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("c", "stratum", "log_weight", "known", "codes")
        }
        label = [text for part in parts for text in part.label]
        return Expanded(**joined, item=np.arange(len(label)), label=label)


@dataclass(frozen=True)
class ConditionSchema:
    """The condition columns of a model, and which combinations of them were observed. An empty schema has none."""

    columns: tuple[Column, ...] = ()
    cells: tuple[tuple[int, ...], ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ConditionSchema:
        """The schema that `dataclasses.asdict` gave. Raises KeyError, TypeError: it is damaged."""
        columns, cells, counts = (record[name] for name in ("columns", "cells", "counts"))
        return cls(tuple(map(Column.of, columns)), tuple(map(tuple, cells)), tuple(counts))

    @classmethod
    def fit(
        cls,
        columns: Mapping[str, ArrayLike],
        n: int,
        roles: Mapping[str, Sequence[Role]] | None = None,
        rows: Ints | None = None,
    ) -> ConditionSchema:
        """The schema of `n` items.

        Numbers become a continuous column, except whole numbers with at most 20 different values, which are categories
        like text (whatever their dtype: a missing value elsewhere turns integers into floats). Text is always
        categorical. Columns not named in `roles` get all roles.

        Args:
            rows: positions (M,) of the items that numbers are learned from: mean, scale and bins of a column, and how
                often a combination occurs, at least once. None for all. Which values and combinations exist is known
                from all items, so that those which are not learned from can be scored.

        Raises:
            SettingsError: `roles` names an unknown column or role.
            DataError: a value is missing or not finite, lengths differ, or more than 4096 combinations are observed.
        """
        roles = _checked_roles(roles or {}, list(columns))
        fitted = tuple(Column.fit(name, data, n, roles.get(name, ALL_ROLES), rows) for name, data in columns.items())
        used = [column for column in fitted if column.in_cells]
        if not used:
            return cls(columns=fitted)
        cells, which = group(np.stack([column.read(columns[column.name], n)[0] for column in used], axis=1))
        if len(cells) > MOST_CELLS:
            widest = max(used, key=lambda column: column.n_codes)
            names = ", ".join(f"'{column.name}'" for column in used)
            raise DataError(
                f"{len(cells):,} combinations of the condition columns {names} occur; at most {MOST_CELLS:,} are "
                f"allowed. Take the roles 'infer' and 'stratify' from a column, for example "
                f"roles={{'{widest.name}': ('model',)}} ({widest.n_codes:,} values), or omit the column."
            )
        counts = np.bincount(which if rows is None else which[rows], minlength=len(cells)).clip(1)
        return cls(columns=fitted, cells=tuple(map(tuple, cells.tolist())), counts=tuple(counts.tolist()))

    def refit(self, columns: Mapping[str, ArrayLike], n: int, rows: Ints) -> ConditionSchema:
        """The schema of the same columns of the same `n` items, with its numbers learned from those at `rows`."""
        roles = {column.name: column.roles for column in self.columns}
        return self.fit({name: columns[name] for name in roles}, n, roles, rows)

    def kinds(self, columns: Mapping[str, ArrayLike], n: int) -> Ints:
        """(n,) numbers of the Mondrian groups by categorical columns alone, which depend on nothing that is learned."""
        by_name = [column for column in self.strata_columns if column.kind == "categorical"]
        codes = [column.read(columns[column.name], n)[0] for column in by_name]
        return group(np.stack(codes, axis=1))[1] if codes else np.zeros(n, dtype=np.int64)

    @property
    def width(self) -> int:
        """Entries of an encoded condition vector."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> list[str]:
        """Those of the columns, also of such without roles."""
        return [column.name for column in self.columns]

    @property
    def inferable(self) -> bool:
        """Whether all conditions may be unknown, and there are several."""
        return len(self.cells) > 1 and all("infer" in column.roles for column in self.columns if column.roles)

    @property
    def each_cell_a_stratum(self) -> bool:
        """Whether all columns are categories, and every combination of them occurred and is a Mondrian group."""
        used = [column for column in self.columns if column.roles]
        plain = all(column.kind == "categorical" and "stratify" in column.roles for column in used)
        return plain and len(self.cells) == math.prod(column.n_codes for column in used)

    @cached_property
    def cell_codes(self) -> Ints:
        """(R, columns in cells) the codes of the combinations that occurred."""
        return np.array(self.cells, np.int64).reshape(len(self.cells), sum(one.in_cells for one in self.columns))

    @cached_property
    def strata_columns(self) -> list[Column]:
        """The columns with the role `stratify`, in the order of `columns`."""
        return [column for column in self.columns if "stratify" in column.roles]

    @cached_property
    def strata(self) -> Ints:
        """(K, len(strata_columns)) the codes that make each of the K Mondrian groups (strata), in ascending order.

        Without strata columns there is one group, "all", with no codes: (1, 0).
        """
        if not self.strata_columns:
            return np.zeros((1, 0), dtype=np.int64)
        in_cells = [column for column in self.columns if column.in_cells]
        return group(self.cell_codes[:, ["stratify" in column.roles for column in in_cells]])[0]

    @property
    def n_strata(self) -> int:
        """Number of strata, at least 1."""
        return len(self.strata)

    @cached_property
    def stratum_names(self) -> list[str]:
        """One name a stratum: 'camera=A, product=2'; 'all' where no column stratifies."""
        return [
            ", ".join(column.code_names[code] for column, code in zip(self.strata_columns, row, strict=True)) or "all"
            for row in self.strata.tolist()
        ]

    def strata_in(self, other: ConditionSchema) -> Ints:
        """(K,) the Mondrian group of another fit to the same columns that has the values of each one here; −1: none.

        A bin of numbers goes by its median.
        """
        codes = np.empty_like(self.strata)
        for j, (mine, theirs) in enumerate(zip(self.strata_columns, other.strata_columns, strict=True)):
            values = mine.medians if mine.kind == "continuous" else mine.values
            codes[:, j] = theirs.read(np.asarray(values)[self.strata[:, j]], len(codes))[0]
        return find(other.strata, codes)

    def encode_or_nan(self, columns: Mapping[str, ArrayLike], n: int) -> NDArray[np.float32]:
        """Condition vectors (N, width); NaN for an item that lacks a value or has a new one."""
        codes, numbers, _ = self._codes(columns, n)
        c = self._vectors(np.maximum(codes, 0), numbers)
        c[(codes[:, [column.width > 0 for column in self.columns]] < 0).any(axis=1)] = np.nan
        return c

    def expand(self, columns: Mapping[str, ArrayLike] | None, n: int, *, unknown: Unknown = "error") -> Expanded:
        """The rows of `n` items.

        A missing column is unknown for every item; with `unknown="infer"` a new value counts as unknown. Known values
        select the compatible cells; if they never occurred together, every cell is compatible in its unknown columns.
        An unknown number stands at the median of its bin. Columns with neither `infer` nor `stratify` must be known
        and do not change the weights. Up to n × cells rows: pass items in portions where both are large.

        Raises:
            DataError: a value is missing or new (with `unknown="infer"` only in columns without the role `infer`), a
                column is not in the schema, or lengths differ.
            SettingsError: `unknown` is neither of the two.
        """
        if unknown not in get_args(Unknown):
            raise SettingsError(f"unknown={unknown!r}: expected 'error' or 'infer'")
        codes, numbers = self._read(columns, n, unknown)
        codes, numbers, item, log_weight, known = filled(self.columns, self.cell_codes, self.counts, codes, numbers)
        return Expanded(
            c=self._vectors(codes, numbers),
            stratum=self._stratum(codes),
            item=item,
            log_weight=log_weight,
            known=known,
            label=self._labels(codes, numbers),
            codes=codes,
        )

    def check_known(self, columns: Mapping[str, ArrayLike], n: int) -> None:
        """Refuse items that lack a value, or have a new one: none can be learned from or calibrate.

        Raises:
            DataError: names the first column, what is known, and the way out.
        """
        codes, _, new = self._codes(columns, n)
        for column, own, values in zip(self.columns, codes.T, new, strict=True):
            if column.roles and (own < 0).any():
                raise DataError(explain_unknown(column, own, values, given=column.name in columns, learned=True))

    def with_alternatives(
        self,
        columns: Mapping[str, ArrayLike] | None,
        n: int,
        checked: Sequence[str],
        *,
        unknown: Unknown = "error",
    ) -> Expanded:
        """A row for each condition that `n` items may have, were the values of the `checked` columns not known.

        The row of an item's own values, if it has all, comes first and keeps its numbers; another number stands at the
        median of its bin. `log_weight` is log π of the cell among the rows of the item, of own values that never
        occurred together the smallest.

        Raises:
            DataError: as `expand`.
        """
        own = self.expand(columns, n, unknown=unknown)
        others = {name: values for name, values in (columns or {}).items() if name not in checked}
        every = self.expand(others, n, unknown="infer")
        known, first = own.known, np.searchsorted(own.item, np.arange(n))
        at = [i for i, column in enumerate(self.columns) if column.name in checked]
        same = known[every.item] & (every.codes[:, at] == own.codes[first][every.item][:, at]).all(axis=1)
        weight = np.minimum.reduceat(every.log_weight, np.searchsorted(every.item, np.arange(n))) if n else np.empty(0)
        weight[every.item[same]] = every.log_weight[same]
        rows, rest = first[known], np.flatnonzero(~same)
        labels = [*(own.label[row] for row in rows), *(every.label[row] for row in rest)]
        order = np.argsort(np.concatenate([np.flatnonzero(known), every.item[rest]]), kind="stable")

        def joined(name: str) -> Any:
            return np.concatenate([getattr(own, name)[rows], getattr(every, name)[rest]])[order]

        item = joined("item")
        return Expanded(
            c=joined("c"),
            stratum=joined("stratum"),
            item=item,
            log_weight=np.concatenate([weight[known], every.log_weight[rest]])[order],
            known=known,
            label=[labels[row] for row in order],
            codes=joined("codes"),
            stated=np.where(known, np.searchsorted(item, np.arange(n)), -1),
        )

    def explain_new(self, columns: Mapping[str, ArrayLike], n: int) -> list[str]:
        """A sentence for each column with values that are new since the fit and that `expand` can infer."""
        return [
            f"condition '{column.name}' has no value {listing(new, quote=True, most=5)} (known: "
            f"{listing(column.values, most=8)}); these items were treated as unknown and their condition inferred"
            for column, new in zip(self.columns, self._codes(columns, n)[2], strict=True)
            if new and "infer" in column.roles
        ]

    # Inside ---------------------------------------------------------------------------------------------------------

    def _stratum(self, codes: Ints) -> Ints:
        return find(self.strata, codes[:, ["stratify" in column.roles for column in self.columns]])

    def _vectors(self, codes: Ints, numbers: Floats) -> NDArray[np.float32]:
        c, start = np.zeros((len(codes), self.width), dtype=np.float32), 0
        for i, column in enumerate(self.columns):
            if column.width and column.kind == "categorical":
                c[np.arange(len(codes)), start + codes[:, i]] = 1.0
            elif column.width:
                c[:, start] = (numbers[:, i] - column.mean) / column.std
            start += column.width
        return c

    def _labels(self, codes: Ints, numbers: Floats) -> list[str]:
        parts: list[list[str]] = []
        for i, column in enumerate(self.columns):
            if column.kind == "categorical" and column.roles:
                parts.append(np.array(column.code_names, dtype=object)[codes[:, i]].tolist())
            elif column.roles:
                parts.append([f"{column.name}={number:.4g}" for number in numbers[:, i].tolist()])
        return [", ".join(row) for row in zip(*parts, strict=True)] if parts else [""] * len(codes)

    def values_of(self, label: str) -> dict[str, str] | None:
        """The values in the text of a condition, by column; None if it is none of this schema. Values may hold ', '."""
        names = [column.name for column in self.columns if column.roles]
        found = re.fullmatch(", ".join(f"{re.escape(name)}=(.*)" for name in names), label, re.DOTALL)
        return None if found is None else dict(zip(names, found.groups(), strict=True))

    def _read(self, columns: Mapping[str, ArrayLike] | None, n: int, unknown: str) -> tuple[Ints, Floats]:
        columns = columns or {}
        for name in columns:
            if name not in self.names:
                way_out = (
                    nearest(name, self.names) if self.names else f"; it was fitted without conditions, omit '{name}'"
                )
                raise DataError(f"the model has no condition '{name}'{way_out}")
        codes, numbers, new = self._codes(columns, n)
        for column, column_codes, new_values in zip(self.columns, codes.T, new, strict=True):
            inferred = unknown == "infer" and "infer" in column.roles
            if column.roles and not inferred and (column_codes < 0).any():
                raise DataError(explain_unknown(column, column_codes, new_values, given=column.name in columns))
        return codes, numbers

    def _codes(self, columns: Mapping[str, ArrayLike], n: int) -> tuple[Ints, Floats, list[list[str]]]:
        """Codes (n, columns), −1 where unknown, numbers (n, columns), and the new values of each column."""
        codes, numbers = np.full((n, len(self.columns)), -1, dtype=np.int64), np.full((n, len(self.columns)), np.nan)
        new: list[list[str]] = [[] for _ in self.columns]
        for i, column in enumerate(self.columns):
            if column.roles and column.name in columns:
                codes[:, i], numbers[:, i], new[i] = column.read(columns[column.name], n)
        return codes, numbers, new


def _checked_roles(roles: Mapping[str, Sequence[Role]], names: list[str]) -> dict[str, tuple[Role, ...]]:
    for name, given in roles.items():
        if name not in names:
            way_out = nearest(name, names) if names else "; the images have no condition columns"
            raise SettingsError(f"roles: there is no condition column '{name}'{way_out}")
        if isinstance(given, str):
            raise SettingsError(f"roles: column '{name}' has {given!r}; expected a list such as ['{given}']")
        for role in given:
            if role not in ALL_ROLES:
                raise SettingsError(
                    f"roles: column '{name}' cannot have the role '{role}'{nearest(role, [*ALL_ROLES])}"
                )
    return {name: tuple(role for role in ALL_ROLES if role in given) for name, given in roles.items()}
