"""One condition column: what kind it is, which values it knows, and how raw values become codes and numbers."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.config.roles import Role
from knowngood.config.words import for_caller
from knowngood.data.values import Floats, Ints, as_array, listing, numbers_of, plain_number, rows_text, texts_of
from knowngood.errors import DataError

MOST_BINS = 8
FEWEST_NAMES = 10  # items, from which on a value of its own for each is no accident
MOST_CATEGORIES_FROM_NUMBERS = 20


@dataclass(frozen=True)
class Column:
    """One condition column as fitted.

    Categorical: `values`, the text of each known value. Continuous: `mean` and `std` for the nets, `edges` (inner,
    ascending; a value equal to an edge belongs to the bin above) and `medians` of at most 8 quantile bins.
    """

    name: str
    kind: Literal["categorical", "continuous"]
    roles: tuple[Role, ...]
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    edges: tuple[float, ...] = ()
    medians: tuple[float, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Column:
        """The column that `dataclasses.asdict` gave. Raises TypeError: an attribute is unknown or missing."""
        given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in record.items()}
        return cls(**given)

    @classmethod
    def fit(cls, name: str, data: ArrayLike, n: int, roles: tuple[Role, ...], rows: Ints | None = None) -> Column:
        """The column of `n` items; see `ConditionSchema.fit`. Without roles nothing is looked at.

        Args:
            rows: positions of the items that mean, std, edges and medians are learned from; None for all. The kind of
                the column and the values of a categorical one are those of all items.

        Raises:
            DataError: there are no items, or a value is missing.
        """
        array = as_array(name, data, n)
        if not roles:
            return cls(name=name, kind="categorical", roles=())
        if n == 0:
            raise DataError(f"condition '{name}': there are no items to learn its values from")
        which, texts = texts_of(array)
        missing = np.array([text is None for text in texts])[which]
        if missing.any():
            ignored = for_caller(
                f"ignore the column with roles={{'{name}': ()}}",
                "name the columns that are conditions with --condition NAMES (none: no column)",
            )
            raise DataError(
                f"condition '{name}' is missing for {missing.sum():,} of {n:,} items to fit on "
                f"(rows {rows_text(missing)}). Give the values, leave those items out, or {ignored}."
            )
        numbers = numbers_of(array, name) if _numeric(array) else None
        if numbers is None or (len(texts) <= MOST_CATEGORIES_FROM_NUMBERS and (numbers == np.round(numbers)).all()):
            return cls(name=name, kind="categorical", roles=roles, values=_ordered([text for text in texts if text]))
        numbers = numbers if rows is None else numbers[rows]
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, MOST_BINS + 1)[1:-1]))
        bins, codes = np.unique(np.searchsorted(edges, numbers, side="right"), return_inverse=True)
        edges = edges[bins[1:] - 1]  # the lower edges of the bins that hold something
        return cls(
            name=name,
            kind="continuous",
            roles=roles,
            mean=float(numbers.mean()),
            std=(float(numbers.std()) or 1.0) if np.ptp(numbers) > 0 else 1.0,
            edges=tuple(edges.tolist()),
            medians=tuple(float(np.median(numbers[codes == code])) for code in range(len(bins))),
        )

    @property
    def n_codes(self) -> int:
        """Number of values (categorical) or bins (continuous)."""
        return len(self.values) if self.kind == "categorical" else len(self.medians)

    @property
    def in_cells(self) -> bool:
        """Whether the column is part of the combinations that the schema counts."""
        return "infer" in self.roles or "stratify" in self.roles

    @property
    def width(self) -> int:
        """Entries of this column in the encoded vector."""
        if "model" not in self.roles:
            return 0
        return len(self.values) if self.kind == "categorical" else 1

    @cached_property
    def code_names(self) -> tuple[str, ...]:
        """'camera=A' for each value, 'exposure 0.1 to 0.2' for each bin."""
        if self.kind == "categorical":
            return tuple(f"{self.name}={value}" for value in self.values)
        if not self.edges:
            return (f"{self.name} any",)
        digits = next((d for d in (4, 6, 9) if len({f"{e:.{d}g}" for e in self.edges}) == len(self.edges)), 17)
        text = [f"{edge:.{digits}g}" for edge in self.edges]
        inner = [f"{self.name} {low} to {high}" for low, high in itertools.pairwise(text)]
        return (f"{self.name} < {text[0]}", *inner, f"{self.name} ≥ {text[-1]}")

    @cached_property
    def _places(self) -> tuple[dict[str, int], dict[float, int]]:
        """Codes by value, and by number where one value alone is that number."""
        numbers = [plain_number(value) for value in self.values]
        times = Counter(numbers)
        alone = {number: code for code, number in enumerate(numbers) if number is not None and times[number] == 1}
        return {value: code for code, value in enumerate(self.values)}, alone

    def _code(self, text: str | None) -> int:
        """Of a value; −1 of one that is missing or new. A table of numbers alone has 1.5 for the value 1.50."""
        if text is None:
            return -1
        exact, numbers = self._places
        number = None if text in exact else plain_number(text)
        return exact.get(text, -1 if number is None else numbers.get(number, -1))

    def read(self, data: Any, n: int) -> tuple[Ints, Floats, list[str]]:
        """Codes (n,) with −1 for missing and new, numbers (n,) (NaN if categorical or missing), new values' text."""
        if self.kind == "categorical":
            which, texts = texts_of(as_array(self.name, data, n))
            codes = [self._code(text) for text in texts]
            new = sorted(text for text, code in zip(texts, codes, strict=True) if text and code < 0)
            return np.array(codes, dtype=np.int64)[which], np.full(n, np.nan), new
        numbers = numbers_of(as_array(self.name, data, n), self.name)
        codes = np.searchsorted(np.asarray(self.edges), numbers, side="right").astype(np.int64)
        codes[np.isnan(numbers)] = -1
        return codes, numbers, []


def explain_unknown(column: Column, codes: Ints, new: list[str], *, given: bool, learned: bool = False) -> str:
    """Why the values with code −1 cannot be used, what is known, and the way out.

    Args:
        learned: the items are fitted to or calibrate, so that no value may be unknown.
    """
    if new:
        what = f"has no value {listing(new, quote=True)}"
    elif given:
        absent = codes < 0
        what = f"is missing for {absent.sum():,} of {len(codes):,} items (rows {rows_text(absent)})"
    else:
        what = "is not given"
    known = f"known: {listing(column.values)}" if column.kind == "categorical" else "expected a number for each item"
    if learned:
        return (
            f"condition '{column.name}' {what}; {known}. Items that are learned from or calibrate need a known value: "
            "give it, leave the others out, or train again with them."
        )
    if "infer" in column.roles:
        value = column.values[0] if column.values else "NUMBER"
        python = f'conditions={{"{column.name}": …}} or a column of the manifest'
        ways = for_caller(python, f"--as {column.name}={value} or a column of the manifest")
        infer = for_caller('unknown="infer"', "--unknown infer")
        hint = near_value(new, column.values) if new else ""
        return (
            f"condition '{column.name}' {what}{hint}; {known}. Give {'a known value' if new else 'it'}: {ways}; or "
            f"pass {infer}, and the known values that explain it best count."
        )
    wanted = (*column.roles, "infer")
    return (
        f"condition '{column.name}' {what}; {known}. It was fitted without the role 'infer' and cannot be "
        f"marginalised: give the value, or fit with roles={{'{column.name}': {wanted!r}}}."
    )


def near_value(new: Sequence[str], known: Sequence[str]) -> str:
    """', did you mean 'A'?' for one value that is written much like a known one; else nothing."""
    found = difflib.get_close_matches(str(new[0]), list(map(str, known)), 1) if len(new) == 1 else []
    return f", did you mean '{found[0]}'?" if found else ""


def identifies(array: NDArray[Any]) -> bool:
    """Whether a column names items instead of describing them: another value for each, of text, time or a counter.

    Numbers are a counter if they are whole and follow each other, or rise or fall from item to item.
    """
    if len(array) < FEWEST_NAMES:
        return False
    texts = texts_of(array)[1]
    if None in texts or len(texts) < len(array):
        return False
    if not _numeric(array):
        return True
    numbers = numbers_of(array, "")
    steps = np.diff(numbers)
    whole = bool((numbers == np.round(numbers)).all())
    return whole and bool(np.ptp(numbers) == len(numbers) - 1 or (steps > 0).all() or (steps < 0).all())


def _numeric(array: NDArray[Any]) -> bool:
    if array.dtype.kind in "iuf":
        return True
    numbers = (int, float, np.integer, np.floating)
    return array.dtype.kind == "O" and all(issubclass(t, numbers) and t is not bool for t in set(map(type, array)))


def _ordered(values: list[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(values, key=lambda value: (float(value), value)))
    except ValueError:
        return tuple(sorted(values))
