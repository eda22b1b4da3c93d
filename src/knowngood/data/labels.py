"""Anomaly labels as people write them: numbers and words in, 0, 1 or NaN out."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.config.words import for_caller
from knowngood.data.values import text_of
from knowngood.errors import DataError

NORMAL = frozenset({"0", "good", "normal", "ok", "pass", "inlier", "non_defective", "defect_free", "no_defect"})
ANOMALOUS = frozenset(
    {"1", "bad", "anomalous", "anomaly", "abnormal", "defect", "defective", "nok", "not_ok", "ng", "fail", "outlier"}
)
# German, as on works floors: "gut", "i.O." (in order), "n.i.O." (not in order). Not looked for within longer names.
GERMAN = {"gut": 0.0, "io": 0.0, "i_o": 0.0, "schlecht": 1.0, "defekt": 1.0, "nio": 1.0, "n_io": 1.0, "n_i_o": 1.0}
UNKNOWN = frozenset({"", "nan", "none", "unknown", "unlabelled", "unlabeled", "?"})


def label_word(word: str) -> float | None:
    """0.0 for a word that means normal, 1.0 for anomalous, NaN for unknown, None for any other word."""
    key = word.strip().lower().replace("-", "_").replace(" ", "_")
    if key in ("0.0", "1.0"):
        key = key[0]
    if key in NORMAL:
        return 0.0
    if key in ANOMALOUS:
        return 1.0
    return float("nan") if key in UNKNOWN else GERMAN.get(key.replace(".", ""))


def _meaning(value: Any) -> float | None:
    """As `label_word`, of a value of any kind."""
    return float(value) if isinstance(value, bool) else label_word(text_of(value) or "")


def parse_labels(values: Any, ids: np.ndarray | None = None) -> np.ndarray:
    """Labels of N images as (N,) float64: 0 normal, 1 anomalous, NaN unknown.

    Accepted, in any case: 0, good, normal, ok, pass, inlier, non-defective, defect-free, no defect; 1, bad, anomalous,
    anomaly, abnormal, defect, defective, nok, not ok, ng, fail, outlier; German gut, i.O., schlecht, defekt, n.i.O.;
    and for unknown: empty, NaN, None, unknown, unlabelled, "?".

    Raises:
        DataError: any other value, named with the item it belongs to.
    """
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"labels have shape {array.shape}; expected one label an image: (N,)")
    if array.dtype.kind in "biuf":
        found = array.astype(np.float64)
        wrong = ~(np.isnan(found) | (found == 0) | (found == 1))
    else:
        words = {value: _meaning(value) for value in set(array.tolist())}
        found = np.array([np.nan if words[v] is None else words[v] for v in array.tolist()], dtype=np.float64)
        wrong = np.array([words[v] is None for v in array.tolist()], dtype=bool)
    if wrong.any():
        first, others = int(np.flatnonzero(wrong)[0]), int(wrong.sum()) - 1
        item = f"item {first}" if ids is None else f"'{ids[first]}'"
        more = f" (and of {others} others)" if others else ""
        way = for_caller("anomalies=... says which are anomalous", "--normal CLASSES makes labels")
        coded = " (−1 of scikit-learn is 1 here)" if array.tolist()[first] == -1 else ""
        raise DataError(
            f"label {array.tolist()[first]!r} of {item}{more} is not known{coded}; expected 0, good, normal or ok; "
            f'1, bad, anomalous or defect; or empty for unknown. Classes go into a condition column ("class"); {way}.'
        )
    return found
