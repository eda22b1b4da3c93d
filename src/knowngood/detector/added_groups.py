"""Mondrian groups that only the calibration tells apart: added to a fitted model, which does not use them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.calibration import Calibration
from knowngood.config import nearest
from knowngood.config.words import for_caller
from knowngood.data.columns import near_value
from knowngood.data.conditions import ConditionSchema
from knowngood.data.values import as_array, listing, plain_number, texts_of
from knowngood.detector.image_statistics import ImageStatistics
from knowngood.errors import ArtifactError, SettingsError

NO, MAY, IS = 0, 1, 2  # how an item belongs to a group
MOST_VALUES = 100  # of a column that the model does not use


@dataclass(frozen=True, eq=False)
class AddedGroup:
    """One added group: items with these values, column → text, for example {"camera": "B"}.

    calibration: of the anomaly scores of its calibration items, as the calibration of the fit gives them; so items of
    the group and these are exchangeable, and p-values hold in the group. maps: of the largest values of their maps, on
    features. statistics: of its calibration images. source: where these came from. mismatch: as
    `Pipeline.mismatch_calibrations`, on their scale; none where they have no conditions to check.
    """

    values: dict[str, str]
    calibration: Calibration
    maps: Calibration | None = None
    statistics: ImageStatistics | None = None
    source: str = ""
    mismatch: tuple[Calibration, ...] = ()

    @property
    def name(self) -> str:
        """'camera=B'."""
        return ", ".join(f"{column}={value}" for column, value in self.values.items())

    def membership(self, conditions: Mapping[str, Any], n: int) -> np.ndarray:
        """(N,) `IS` where all values are those of the group, `MAY` where some are missing in a column that is given.

        An item without the column, or with another value, does not belong to the group: `NO`.
        """
        found = np.full(n, IS)
        for column, value in self.values.items():
            if column not in conditions:
                return np.full(n, NO)
            which, texts = texts_of(as_array(column, conditions[column], n))
            each = [MAY if text is None else IS if _same(text, value) else NO for text in texts]
            found = np.minimum(found, np.array(each)[which])
        return found

    def summary(self, alpha: float | None = None) -> dict[str, Any]:
        """As a row of `Calibration.summary`; thresholds are of the anomaly score."""
        (row,) = self.calibration.summary(alpha)
        return {**row, "condition": self.name}

    def to_tensors(self) -> dict[str, np.ndarray]:
        """As plain arrays, for safetensors; `metadata` holds the rest."""
        parts: dict[str, Any] = {"known": self.calibration, "maps": self.maps, "images": self.statistics}
        parts |= {f"mismatch{k}": one for k, one in enumerate(self.mismatch)}
        arrays = {kind: part.to_tensors() for kind, part in parts.items() if part is not None}
        return {f"{kind}.{name}": array for kind, named in arrays.items() for name, array in named.items()}

    def metadata(self) -> dict[str, Any]:
        """Names and numbers, for JSON."""
        return {
            "values": self.values,
            "source": self.source,
            "alpha": self.calibration.alpha,
            "mismatches": len(self.mismatch),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> AddedGroup:
        """The group that `to_tensors` and `metadata` gave.

        Raises:
            ArtifactError: a part is missing or does not fit the rest.
        """
        parts: dict[str, dict[str, np.ndarray]] = {"known": {}, "maps": {}, "images": {}}
        parts |= {f"mismatch{k}": {} for k in range(int(metadata.get("mismatches", 0)))}
        for name, array in tensors.items():
            kind, _, rest = name.partition(".")
            parts.get(kind, {})[rest] = array
        values, facts = metadata["values"], {"stratum_names": ("all",), "alpha": metadata["alpha"]}
        if not isinstance(values, dict) or not values or not all(isinstance(text, str) for text in values.values()):
            raise ArtifactError(f"calibration: an added group has values {values!r}; expected text by column")
        maps = Calibration.from_tensors(parts["maps"], facts) if parts["maps"] else None
        statistics = ImageStatistics.from_tensors(parts["images"])
        mismatch = tuple(
            Calibration.from_tensors(arrays, facts) for kind, arrays in parts.items() if kind.startswith("mismatch")
        )
        known = Calibration.from_tensors(parts["known"], facts)
        return cls(values, known, maps, statistics, str(metadata["source"]), mismatch)


def as_option(values: Mapping[str, str]) -> str:
    """The values as the option --as takes them, quoted for a shell: camera=B, or 'camera="A, left"'."""
    pairs = [f'{column}="{value}"' if "," in value else f"{column}={value}" for column, value in values.items()]
    return shlex.quote(",".join(pairs))


def explain_gone(added: Sequence[AddedGroup], since: str = "scores changed") -> str:
    """That a new version lacks the groups of the former one, and what to do."""
    names, values = ", ".join(group.name for group in added), added[0].values
    again = adding(values)
    return f"groups added to the calibration are gone, since {since}: {names}; calibrate on them again: {again}"


def adding(values: Mapping[str, str]) -> str:
    """How the caller adds a group with these values to the calibration."""
    return for_caller(
        f"calibrate(X, as_group={dict(values)})", f"`knowngood calibrate MODEL DATA --as {as_option(values)}`"
    )


def checked_values(values: Any) -> dict[str, str]:
    """The values that name a group, as text by column.

    Raises:
        SettingsError: no mapping of columns to one value each.
    """
    if not isinstance(values, Mapping) or not values or not all(isinstance(column, str) for column in values):
        raise SettingsError(f"as_group = {values!r}; expected a value by column, such as {{'camera': 'B'}}")
    found = {}
    for column, value in values.items():
        text = texts_of(as_array(column, [value], 1))[1][0]
        if not text:
            raise SettingsError(f"as_group: column '{column}' has no value ({value!r}); give one, such as 'B'")
        found[column] = text
    return found


def _same(text: str, value: str) -> bool:
    """Whether both are one value; a table of numbers alone has 1.5 for 1.50."""
    number = plain_number(text)
    return text == value or (number is not None and number == plain_number(value))


def memberships(added: Sequence[AddedGroup], conditions: Mapping[str, Any], n: int) -> np.ndarray:
    """(G, N) how each item belongs to each group."""
    return np.array([group.membership(conditions, n) for group in added]).reshape(len(added), n)


def ignored_values(conditions: Mapping[str, Any], schema: ConditionSchema) -> dict[str, list[str]]:
    """The values of columns that a schema does not know, for example one that was constant in the fit."""
    known = {column.name for column in schema.columns}
    texts = {
        name: sorted(text for text in texts_of(as_array(name, values, len(values)))[1] if text)
        for name, values in conditions.items()
        if name not in known
    }
    return {name: some for name, some in texts.items() if len(some) <= MOST_VALUES}


def explain_others(
    added: Sequence[AddedGroup],
    conditions: Mapping[str, Any],
    schema: ConditionSchema,
    ignored: Mapping[str, Sequence[str]],
) -> list[str]:
    """A sentence for each column of an added group that has values of no group and of no normal item fitted to.

    Args:
        ignored: see `ignored_values`.
    """
    found, known = [], {column.name for column in schema.columns}
    for name in dict.fromkeys(name for group in added for name in group.values):
        if name in known or name not in conditions:  # of columns that the schema knows it says so itself
            continue
        groups = [group.values[name] for group in added if name in group.values]
        texts = ignored_values({name: conditions[name]}, schema).get(name, [])
        new = [text for text in texts if text not in groups and text not in ignored.get(name, ())]
        if new:
            found.append(
                f"the calibration has no group of {name} {listing(new, quote=True, most=5)} (added: "
                f"{listing(groups)}); these items are judged by the calibration that was there before. Add one: "
                f"{adding({name: new[0]})}"
            )
    return found


def explain_misnamed(
    added: Sequence[AddedGroup],
    conditions: Mapping[str, Any],
    schema: ConditionSchema,
    ignored: Mapping[str, Sequence[str]],
    *,
    inferred: bool = True,
) -> str:
    """A sentence where a column is given that the fit has not seen, and one of the model's is not; else empty.

    Args:
        ignored: see `ignored_values`.
        inferred: whether what is not given is inferred; if not, names that are nearly the same are spoken of alone.
    """
    names = [column.name for column in schema.columns]
    seen = {*names, *ignored, *(name for group in added for name in group.values)}
    strange = [name for name in conditions if name not in seen]
    lacking = [column.name for column in schema.columns if column.roles and column.name not in conditions]
    if not strange or not lacking or not (inferred or near_value(strange, lacking)):
        return ""
    return (
        f"the model has no condition {listing(strange, quote=True)}{nearest(strange[0], lacking)}; "
        f"{listing(lacking, quote=True)} is not given{' and inferred' if inferred else ''}"
    )
