"""Settings as plain values, laid over each other: a preset under a YAML file under options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from knowngood.config import Group, Settings, choices
from knowngood.config.scores import fused


def overlay(below: Mapping[str, Any], above: Mapping[str, Any], model: type[BaseModel] = Settings) -> dict[str, Any]:
    """`above` over `below`, both as `parse_settings` takes them.

    Groups are merged option by option. So is a choice whose name stays the same, or that `above` does not name; a
    choice of another name replaces the one below with all its options.
    """
    merged = dict(below)
    for name, value in above.items():
        merged[name] = _over(merged[name], value, model, name) if name in merged else value
    return merged


def as_choice(value: Any) -> dict[str, Any]:
    """A choice as a mapping with its name; a list of scores, or names with commas, as their fusion."""
    value = fused(value)
    if isinstance(value, BaseModel):
        return {"name": getattr(value, "name", None), **value.model_dump(exclude_unset=True)}
    return dict(value) if isinstance(value, Mapping) else {"name": value}


def group(model: type[BaseModel], field: str) -> type[Group] | None:
    """The group of options that a field holds, None if it holds something else."""
    default = model.model_fields[field].default if field in model.model_fields else None
    return type(default) if isinstance(default, Group) else None


def _over(below: Any, above: Any, model: type[BaseModel], field: str) -> Any:
    options = group(model, field)
    if options is not None:
        return overlay(below or {}, above or {}, options)
    family = choices(model, field) if field in model.model_fields else {}
    if not family or above is None or isinstance(above, list | tuple):
        return above
    old, new = as_choice(below), as_choice(above)
    name = old.get("name")
    if name not in family or new.get("name", name) != name or "scores" in new:
        return above
    return overlay(old, new, family[name])
