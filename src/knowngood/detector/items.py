"""Items from what a caller gives: images or rows of a table, with their conditions, labels and groups."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import DataLoader, Dataset

from knowngood.config import Settings, counted, nearest
from knowngood.data import TableSet, open_images
from knowngood.data.conditions import ConditionSchema, Unknown
from knowngood.data.open import as_columns
from knowngood.data.readers.files import SUFFIXES
from knowngood.data.readers.given import holds_images, listed
from knowngood.data.readers.limits import Limits
from knowngood.data.tableset import check_rows
from knowngood.data.values import listing
from knowngood.detector.added_groups import IS, explain_misnamed, explain_others, memberships
from knowngood.detector.fit.inputs import measured, only, readable
from knowngood.detector.fit.plan import factors_of
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import DataError

FEWEST = 2
SHOWN = 40  # characters of a cell in a message


class Estimator(Protocol):
    """What is used of a detector here; a table leaves the names of its features in it, as scikit-learn does."""

    pipeline_: Pipeline
    about_: dict[str, Any]


def with_columns(X: Any, conditions: Any, features: Sequence[str] = ()) -> tuple[Any, dict[str, Any] | None]:
    """X and its condition columns. Columns of a table that `conditions` names, or gives too, are taken out of it.

    Args:
        features: columns of a table that stay in it, as those of numbers do before a fit.
    """
    X = listed(X)
    conditions = in_rows(X, conditions, "conditions")
    names = [conditions] if isinstance(conditions, str) else conditions
    if isinstance(names, list | tuple) and hasattr(X, "columns") and not holds_images(X):
        names = [name for name in names if isinstance(name, str)]
        if names and set(names) <= set(X.columns):
            return X.drop(columns=names), as_columns(X[names])
        if isinstance(conditions, str):
            raise DataError(f"the table has no column '{conditions}'{nearest(conditions, list(map(str, X.columns)))}")
    elif isinstance(names, list | tuple) and hasattr(X, "columns") and any(name in X.columns for name in _texts(names)):
        raise DataError(
            f"conditions = {conditions!r} names a column, and X is a frame of images, whose columns are conditions as "
            "they are, but for path, label, split, mask and group; leave conditions out, and from X what is none"
        )
    elif isinstance(conditions, str) and hasattr(X, "columns"):
        hint = nearest(conditions, list(map(str, X.columns)))
        raise DataError(f"the frame of images has no column '{conditions}'{hint}")
    columns = as_columns(conditions)
    if columns is None or not hasattr(X, "columns") or holds_images(X):
        return X, columns
    twice = [name for name in columns if name in X.columns and name not in features]
    if other := next((name for name in twice if not _agree(columns[name], X[name])), None):
        raise DataError(
            f"'{other}' is a column of the table and is given in conditions, with other values; leave one of them out"
        )
    return X.drop(columns=twice), columns


def _agree(values: Any, column: Any) -> bool:
    """Whether the values of a condition, or one for all, are those of a column of a frame."""
    given, own = np.asarray(values, dtype=object), column.to_numpy(dtype=object)
    return given.shape in ((), own.shape) and list(map(str, np.broadcast_to(given, own.shape))) == list(map(str, own))


def numbers(X: Any) -> list[str]:
    """Names of the columns of a frame that hold numbers, which can be features of a table."""
    return [name for name, dtype in X.dtypes.items() if dtype.kind in "biuf"] if hasattr(X, "dtypes") else []


def in_rows(X: Any, values: Any, what: str) -> Any:
    """A frame, a series, or a mapping of series in the order of the rows of X, where these have an index, too.

    Of an index with the labels of X in another order the labels count; of one that just counts, the positions.

    Raises:
        DataError: an index of other labels.
    """
    import pandas as pd

    if isinstance(values, dict):
        return {name: in_rows(X, column, f"{what} '{name}'") for name, column in values.items()}
    index, own = getattr(values, "index", None), getattr(X, "index", None)
    if not isinstance(index, pd.Index) or not isinstance(own, pd.Index) or len(index) != len(own) or index.equals(own):
        return values
    if index.is_unique and own.is_unique and own.isin(index).all():
        return values.loc[own]
    counting = pd.RangeIndex(len(own))
    if index.equals(counting) or own.equals(counting):
        return values
    raise DataError(
        f"{what}: the index, from {index[0]!r:.40}, is not that of X, from {own[0]!r:.40}; give the rows of X alone, "
        "or .to_numpy() if they are in its order"
    )


def _texts(names: Any) -> list[str]:
    return [name for name in names if isinstance(name, str)]


# To fit to --------------------------------------------------------------------------------------------------------


def items_to_fit(detector: Estimator, X: Any, columns: Any, anomalies: Any, settings: Settings) -> Items:
    """X with conditions and labels (N,), all columns kept; the detector takes the number and the names of features."""
    return _annotated(_opened(detector, X, settings, reset=True), columns, anomalies)


def items_beside(detector: Estimator, X: Any, items: Items, settings: Settings) -> Items:
    """Readable items that are learned from beside others, with the columns that these have."""
    first = X[0] if isinstance(X, list | tuple | np.ndarray) and len(X) else None
    if isinstance(first, bool | np.bool_):
        raise DataError(
            f"fit_only is a mask of {len(X):,} values; expected further items, not among X, as X itself is given: "
            "fit(X[~mask], fit_only=X[mask])"
        )
    more = readable(_opened(detector, listed(X), settings), settings)
    if type(more) is not type(items):
        raise DataError(f"fit_only holds {more.items}, X {items.items}; give {items.items}")
    return only(measured(more, settings), ConditionSchema(), items.conditions)


# Of a fitted detector -----------------------------------------------------------------------------------------------


def items_to_score(detector: Estimator, X: Any, conditions: Any = None) -> Items:
    """X with the conditions that the fitted detector knows; the group column plays no part.

    Raises:
        DataError: there is no item in X.
    """
    X, columns = _fitted_columns(detector, X, conditions)
    column = detector.pipeline_.settings.conditioning.group
    if column is not None and columns is not None:
        columns = {name: values for name, values in columns.items() if name != column}
    items = _annotated(_known(detector, X), columns)
    return measured(items, detector.pipeline_.settings, detector.pipeline_.schema)


def items_asked(detector: Estimator, X: Any, conditions: Any, unknown: Unknown | None) -> Items:
    """`items_to_score`, and a warning that names values that the fit has not seen and that are inferred."""
    check_is_fitted(detector, "pipeline_")
    pipeline, items = detector.pipeline_, items_to_score(detector, X, conditions)
    ignored = detector.about_["data"].get("ignored_values", {})
    if (unknown or pipeline.settings.conditioning.unknown) == "infer":
        belongs = memberships(pipeline.added, items.conditions, len(items))
        others = items[~(belongs == IS).any(axis=0)] if len(belongs) else items
        for sentence in pipeline.schema.explain_new(others.conditions, len(others)):
            warnings.warn(sentence, stacklevel=3)
        if sentence := explain_misnamed(pipeline.added, items.conditions, pipeline.schema, ignored):
            warnings.warn(sentence, stacklevel=3)
    elif sentence := explain_misnamed(pipeline.added, items.conditions, pipeline.schema, ignored, inferred=False):
        raise DataError(sentence)
    for sentence in explain_others(pipeline.added, items.conditions, pipeline.schema, ignored):
        warnings.warn(sentence, stacklevel=3)
    return items


def items_to_learn(
    detector: Estimator,
    X: Any,
    conditions: Any = None,
    *,
    further: tuple[str, ...] = (),
    tolerance: float | None = None,
) -> Items:
    """X as readable items in their groups, with the conditions that the fitted detector knows and further columns.

    Args:
        tolerance: share of files that may be unreadable; default as fitted.
    """
    pipeline, (X, columns) = detector.pipeline_, _fitted_columns(detector, X, conditions)
    column = pipeline.settings.conditioning.group
    items = _known(detector, X, further if column is None else (*further, column))
    items = readable(_annotated(items, columns), pipeline.settings, tolerance)
    return measured(items, pipeline.settings, pipeline.schema)


def normals_and_labelled(
    detector: Estimator, X: Any, conditions: Any, tolerance: float | None = None
) -> tuple[Items, Items]:
    """Normal and labelled anomalous items of X, of its split "train" if it has one, in their groups.

    Raises:
        DataError: none of them is normal.
    """
    further = factors_of(detector.pipeline_.settings)
    items = items_to_learn(detector, X, conditions, further=further, tolerance=tolerance)
    unused = set(detector.about_["data"].get("ignored_values", ())) - set(further)  # the fit had them, too
    items = items.replace(conditions={k: v for k, v in items.conditions.items() if k not in unused})
    if items.splits is not None and "train" in items.splits:
        items = items[items.splits == "train"]
    normals = items[items.labels != 1]
    if not len(normals):
        raise DataError(f"{items.name}: no normal item in it to learn from ({len(items)} given)")
    return normals, items[items.labels == 1]


# Inside -------------------------------------------------------------------------------------------------------------


def _fitted_columns(detector: Estimator, X: Any, conditions: Any) -> tuple[Any, dict[str, Any] | None]:
    """`with_columns`; of a table without `conditions` those of its columns that are conditions of the fit."""
    X = listed(X)
    if conditions is None and hasattr(X, "columns") and not holds_images(X):
        pipeline = detector.pipeline_
        named = {column.name for column in pipeline.schema.columns} | {pipeline.settings.conditioning.group}
        named |= {name for group in pipeline.added for name in group.values}
        named -= set(getattr(detector, "feature_names_in_", ()))
        conditions = [name for name in X.columns if name in named] or None
    X, columns = with_columns(X, conditions, getattr(detector, "feature_names_in_", ()))
    return X, None if columns is None else _of_the_fit(detector, conditions, columns)


def _of_the_fit(detector: Estimator, conditions: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """The columns, of which a single array without a name is the one condition of the fit.

    Of columns beside known ones nothing is said; of a model without conditions it is said that there are none.
    """
    pipeline = detector.pipeline_
    used = {column.name for column in pipeline.schema.columns if column.roles}
    known = [name for name in pipeline.given_columns if name in used or name not in pipeline.schema.names]
    named = isinstance(conditions, dict) or hasattr(conditions, "columns") or getattr(conditions, "name", None)
    if not named and list(columns) == ["condition"] and len(known) == 1:  # see `as_columns`
        return {known[0]: columns["condition"]}
    fitted = {*known, *detector.about_["data"].get("given_columns", ()), pipeline.settings.conditioning.group}
    others = [name for name in columns if name not in fitted]
    if others and not known:
        text = f"the model was fitted without conditions, and ignores {listing(others, quote=True, most=5)}"
        warnings.warn(text, stacklevel=6)
    return columns


def _known(detector: Estimator, X: Any, further: tuple[str, ...] = ()) -> Items:
    """X with those of its own columns that the fit knows, that added groups name, and further ones.

    What a source brings beyond them (a class that was constant, say) says nothing to the model.
    """
    pipeline = detector.pipeline_
    items = _opened(detector, X, pipeline.settings)
    if not len(items):
        raise DataError(f"{items.name}: there is no item in it; expected at least one")
    return only(items, pipeline.schema, {*further, *(name for group in pipeline.added for name in group.values)})


def _annotated(items: Items, columns: Any, anomalies: Any = None) -> Items:
    return items if columns is None and anomalies is None else items.annotate(anomalies, columns)


def _opened(detector: Estimator, X: Any, settings: Settings, *, reset: bool = False) -> Items:
    """X as a set of items.

    Args:
        reset: a table says which features there are, instead of being checked for them.
    """
    if isinstance(X, Dataset | DataLoader):
        raise DataError(
            f"X is a {type(X).__name__} of torch; give its images as a list or an iterator of tensors (C, H, W): "
            "(image for image, *_ in dataset), or (image for batch, *_ in loader for image in batch)"
        )
    if holds_images(X):
        return open_images(X, limits=Limits.of(settings.data))
    rows = _rows(detector, X, reset)
    items = TableSet.from_array(rows).replace(names=tuple(getattr(detector, "feature_names_in_", ())))
    return items if (ids := _index(X)) is None else items.replace(ids=ids)


def _index(X: Any) -> np.ndarray | None:
    """The index of a frame as ids of its rows; None where there is none, where it counts them, or is not unique."""
    import pandas as pd

    if not hasattr(X, "columns") or not isinstance(getattr(X, "index", None), pd.Index):
        return None
    texts = np.array([str(one) for one in X.index], dtype=str)
    counts = X.index.equals(pd.RangeIndex(len(X)))
    return None if counts or len(np.unique(texts)) < len(texts) else texts


def _rows(detector: Estimator, X: Any, reset: bool) -> np.ndarray:
    """The rows of a table (N, F); those of a DataFrame in the order of the columns that were fitted."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype == torch.bfloat16 else X).numpy()  # which NumPy does not have
    names = getattr(detector, "feature_names_in_", None)
    if not reset and names is not None and hasattr(X, "columns"):
        if sorted(map(str, X.columns)) != sorted(names):
            missing = [name for name in names if name not in X.columns]
            extra = [str(name) for name in X.columns if name not in names]
            wrong = [f"lacks the columns {listing(missing, quote=True, most=5)}"] if missing else []
            wrong += [f"has the unknown ones {listing(extra, quote=True, most=5)}"] if extra else []
            raise DataError(
                f"the table {' and '.join(wrong)}; the model was fitted on {counted(len(names), 'column')}: "
                f"{listing(names, quote=True, most=8)}"
            )
        X = X[list(names)]
    if X is None or isinstance(X, (dict, set)) or np.isscalar(X):
        raise DataError(
            f"X is {X!r:.60}, a {type(X).__name__}; expected images (a path, an array, a list, …) or a table (N, F)"
        )
    if hasattr(X, "columns") and not len(X.columns):
        raise DataError("the table has no columns; expected numbers (N, F)")
    if getattr(X, "ndim", 2) == 1:
        raise DataError(
            f"X has shape {tuple(X.shape)}; expected images (N, H, W) or a table of numbers (N, F). Reshape your data: "
            "X.reshape(-1, 1) if it is one column, X.reshape(1, -1) if one row"
        )
    if getattr(X, "ndim", 0) == 2 and len(X) == 0:
        raise DataError(f"the table has no rows; expected {f'{FEWEST} or more' if reset else 'at least one'}")
    kept = {"ensure_all_finite": False, "ensure_min_samples": FEWEST if reset else 1}
    try:
        rows: Any = validate_data(detector, X, reset=reset, dtype=np.float64, **kept)
    except TypeError as error:
        if hasattr(X, "columns"):  # not all of its names are texts, or it has times
            raise DataError(_text_column(X) or str(error)) from None
        raise
    except ValueError as error:
        raise DataError(_text_column(X) or str(error)) from None
    check_rows(rows, getattr(detector, "feature_names_in_", None))
    return rows


def _text_column(X: Any) -> str:
    """What to do with the first column of a frame that holds no numbers; nothing if all do."""
    names = [] if len(X) == 0 else list(getattr(X, "columns", ()))
    if len(set(names)) < len(names):
        return (
            f"column '{next(name for name in names if names.count(name) > 1)}' comes twice; rename one, or leave it out"
        )
    for name in names:
        if X[name].dtype.kind not in "biuf":
            held = str(X[name].iloc[0])
            shown = f"'{held}'" if len(held) <= SHOWN else f"'…{held[-SHOWN:]}'"
            if Path(held).suffix.lower() in SUFFIXES:
                return f"column '{name}' holds {shown}: if these are paths of images, rename it to 'path'"
            return (
                f"column '{name}' holds {shown}, and a table holds numbers: name the column as a condition, "
                f"conditions='{name}', or leave it out"
            )
    return ""
