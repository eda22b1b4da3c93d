"""Which column of a table says what is normal, where none is called `label`: a defect is never read as a condition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from knowngood.data.labels import label_word
from knowngood.data.readers.layout import class_word
from knowngood.errors import DataError

_FAULT = "anomal(?:y|ous)|defect(?:ive|ed|s)?|fault(?:y|s)?|flaw(?:ed|s)?|abnormal|nok|ng"
ANOMALOUS_NAME = re.compile(rf"(?:is_|has_)?(?:{_FAULT})|labels|target_label|ground_truth_label")
NORMAL_NAME = re.compile(r"(?:is_)?(?:good|ok|normal|passed|pass)")
KIND_NAME = re.compile(rf"class|(?:{_FAULT})_(?:type|kind|class|name|category|code)|(?:type|kind)_of_(?:{_FAULT})")
WORDS = {
    "true": 1.0,
    "yes": 1.0,
    "y": 1.0,
    "1": 1.0,
    "1.0": 1.0,
    "false": 0.0,
    "no": 0.0,
    "n": 0.0,
    "0": 0.0,
    "0.0": 0.0,
}
OWN_RESULTS = frozenset({"anomaly_score", "p_value"})  # with these `is_anomalous` is a verdict, not a label
NO_DEFECT = frozenset({"none", "no", "-", "without", "null"})  # in a column that names kinds of defects
SHOWN = 4


class LabelColumn(NamedTuple):
    """A column read as labels: one a row, 0 normal, 1 anomalous, NaN unknown; whether it stays a condition too."""

    name: str
    labels: list[float]
    kept: bool
    said: str


def label_column(columns: Mapping[str, Sequence[str | None]], table: str) -> LabelColumn | None:
    """The column that says which rows are normal; None if no column does. Cells (N,): text, None if empty.

    - a name such as `is_anomaly`, `defect`, `ok`: 0 and 1, true and false, yes and no, or words such as "good";
    - a column of words for normal and for anomalous only, "OK" and "NG";
    - `class`, `defect_type` and the like, with a word for normal ("good", "none") among its values: all others are
      anomalous.

    Raises:
        DataError: several columns do, or one may name defects and does not say what is normal.
    """
    if OWN_RESULTS & columns.keys():
        return None
    found = [one for name, cells in columns.items() if (one := _read(name, cells, table)) is not None]
    if len(found) > 1:
        differ = next((one for one in found[1:] if repr(one.labels) != repr(found[0].labels)), None)
        if differ is not None:
            raise DataError(
                f"{table}: the columns '{found[0].name}' and '{differ.name}' both say what is normal, and differ; "
                "call the right one 'label', or remove one of them"
            )
    return found[0] if found else None


def _read(name: str, cells: Sequence[str | None], table: str) -> LabelColumn | None:
    key = re.sub(r"[\s\-]+", "_", name.strip().lower())
    values = list(dict.fromkeys(cell for cell in cells if cell is not None))
    if not values:
        return None
    flags = {value: WORDS.get(value.lower()) for value in values}
    words = {value: _word(value) for value in values}
    if NORMAL_NAME.fullmatch(key) and all(flag is not None for flag in flags.values()):
        return _column(name, cells, {value: 1 - flag for value, flag in flags.items() if flag is not None})
    if ANOMALOUS_NAME.fullmatch(key):
        known = {value: words[value] if flags[value] is None else flags[value] for value in values}
        if all(label is not None for label in known.values()):
            return _column(name, cells, {value: label for value, label in known.items() if label is not None})
    if {0.0, 1.0} <= set(words.values()) and None not in words.values():  # of one word alone it may be a condition
        return _column(name, cells, {value: label for value, label in words.items() if label is not None})
    if not (KIND_NAME.fullmatch(key) or ANOMALOUS_NAME.fullmatch(key)):
        return None
    none = NO_DEFECT if key != "class" else frozenset()
    whole = {value: 0.0 if value.lower() in none else class_word(value) for value in values}
    if 0.0 in whole.values():
        return _column(name, cells, {v: 1.0 if label is None else label for v, label in whole.items()}, kept=True)
    if key == "class":
        return None  # classes of things, such as digits
    shown = ", ".join(values[:SHOWN]) + (", …" if len(values) > SHOWN else "")
    raise DataError(
        f"{table}: can be read in two ways, so it was not read. (1) The column '{name}' ({shown}) names defects: these "
        "rows are anomalous. (2) It is a condition of normal images. If (1) is right, write 'good' where it is empty, "
        "or add a column 'label' with 'good' and 'anomalous'. If (2) is right, add a column 'label' with 'good'"
    )


def _word(value: str) -> float | None:
    """The label of a word; None of a number and of any other word."""
    return None if WORDS.get(value.lower()) is not None else label_word(value)


def _column(name: str, cells: Sequence[str | None], labels: Mapping[str, float], *, kept: bool = False) -> LabelColumn:
    normal = [value for value, label in labels.items() if label == 0]
    rest = [value for value, label in labels.items() if label == 1]
    said = f"the column '{name}' is read as labels: {_listed(normal)} normal, {_listed(rest)} anomalous"
    return LabelColumn(name, [float("nan") if cell is None else labels[cell] for cell in cells], kept, said)


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(values[:SHOWN]) or "nothing"
    return f"{shown} and {len(values) - SHOWN} more" if len(values) > SHOWN else shown
