"""Which condition columns have their stated values checked against the image: those that the model can compare."""

from __future__ import annotations

from knowngood.config import (
    MemoryBankOptions,
    PatchGaussianOptions,
    Settings,
    SharedGaussianOptions,
    VAEOptions,
    implementation,
    nearest,
)
from knowngood.data.columns import Column
from knowngood.data.combinations import group
from knowngood.data.conditions import ConditionSchema
from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Objective

MOST_CELLS = 64  # that "auto" compares; each costs a pass through the model


def with_checked(settings: Settings, schema: ConditionSchema, objective: Objective | None) -> Settings:
    """The settings with the names of the columns that are checked; "auto" takes all that can be.

    "auto" leaves out measured image factors, which are never wrong, and takes none if more than 64 combinations of
    values would be compared.

    Raises:
        SettingsError: a column that is named cannot be checked.
    """
    asked = settings.conditioning.check
    columns = {column.name: column for column in schema.columns}
    if asked == "auto":
        measured = settings.conditioning.measure
        names = [n for n, one in columns.items() if n not in measured and not _hindrance(one, settings, objective)]
        names = names if combinations(schema, names) <= MOST_CELLS else []
    else:
        names = [name for name in columns if name in asked]
        for name in asked:
            if name not in columns:
                way_out = nearest(name, list(columns)) if columns else "; the model is fitted without conditions"
                raise SettingsError(f"check: there is no condition '{name}'{way_out}")
            if why := _hindrance(columns[name], settings, objective):
                raise SettingsError(f"check: condition '{name}' {why}; leave it out of check, or take check='auto'")
    conditioning = settings.conditioning.model_copy(update={"check": tuple(names)})
    return settings.model_copy(update={"conditioning": conditioning})


def checked_sentence(asked: Settings, found: Settings) -> str:
    """What was decided, for the end of the sentence on the recipe; empty if nothing was asked for."""
    names = found.conditioning.check
    if names:
        return f"; stated conditions that are checked: {', '.join(names)}"
    why = f"the model can compare none, or more than {MOST_CELLS} combinations of values"
    return f"; no stated condition is checked ({why})" if asked.conditioning.check == "auto" else ""


def combinations(schema: ConditionSchema, names: list[str]) -> int:
    """How many combinations of values of these columns occurred."""
    at = [column.name in names for column in schema.columns if column.in_cells]
    return len(group(schema.cell_codes[:, at])[0]) if any(at) else 0


def _hindrance(column: Column, settings: Settings, objective: Objective | None) -> str:
    """Why the model cannot compare the values of a column; empty if it can."""
    model, score = settings.model, settings.score
    if column.n_codes < 2:
        return "has one value only"
    needed = ("stratify", "infer") if isinstance(model, MemoryBankOptions) else ("model", "infer")
    if lacking := [role for role in needed if role not in column.roles]:
        return f"lacks the role '{lacking[0]}', by which its values are compared"
    if isinstance(model, PatchGaussianOptions | SharedGaussianOptions) and column.kind == "continuous":
        return "is a number, and patch_gaussian compares categories alone"
    if isinstance(model, VAEOptions):
        unconditional = objective is not None and not objective.conditional
        return f"is not used by the objective '{model.objective.name}'" if unconditional else ""
    if isinstance(model, MemoryBankOptions | PatchGaussianOptions | SharedGaussianOptions):
        return ""
    if not implementation(score).is_likelihood:  # type: ignore[arg-type]
        return f"needs a score that is a likelihood, which '{score.name}' is not"  # type: ignore[union-attr]
    return ""
