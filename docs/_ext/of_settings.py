"""Every setting with type, default and range, from the models that check it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cells import code, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from knowngood.cli.options import setting_options
from knowngood.config import Options, Settings, choices
from knowngood.config.parsing import group

SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
TITLES = ("option", "value", "default", "meaning")


def settings() -> str:
    """All of `Settings`: its own fields, then each group and each choice."""
    sections = ["## Settings", _table(Settings, ())]
    for field, info in Settings.model_fields.items():
        within, family = group(Settings, field), choices(Settings, field)
        if within is None and not family:
            continue
        sections += [f"## {field}", (info.description or "") + "."]
        if within is not None:
            sections.append(_table(within, (field,)))
        for name, model in family.items():
            sections += _choice(name, model, (field,))
    return "\n\n".join(sections)


def _choice(name: str, model: type[Options], path: tuple[str, ...], depth: int = 3) -> Iterator[str]:
    yield f"{'#' * depth} {path[-1]} {name}"
    yield " ".join((model.__doc__ or "").split("Args:")[0].split())
    yield _table(model, path)
    for field in model.model_fields:
        for inner, below in choices(model, field).items():
            yield from _choice(inner, below, (*path, field), depth + 1)


def _table(model: type[BaseModel], path: tuple[str, ...]) -> str:
    flags = {
        option.field: option.flag
        for option in setting_options()
        if option.path == path
        and any(owner is model.model_fields.get(option.field) for owner in option.owners.values())
    }
    rows = [
        (
            " ".join(map(code, filter(None, (field, flags.get(field))))),
            _value(model, field, info),
            _default(info),
            info.description or "",
        )
        for field, info in model.model_fields.items()
        if field != "name"
    ]
    return table(TITLES, rows) if rows else "No options."


def _value(model: type[BaseModel], field: str, info: FieldInfo) -> str:
    """What it may be: the names of a choice, or a type with its range."""
    names = [code(name) for name in choices(model, field)]
    words = [word for word in type_text(info.annotation).split(" or ") if not names or word not in ("choice", "list")]
    return ", ".join(filter(None, [" or ".join(words), *names, range_text(info)]))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "–"
    if isinstance(value, BaseModel):
        return code(getattr(value, "name", "")) if hasattr(value, "name") else "its own defaults"
    return code(f"{value:g}" if isinstance(value, float) else value)


def range_text(info: FieldInfo) -> str:
    """The bounds of a number, such as > 0, < 1."""
    found = []
    for rule in [*info.metadata, *_rules(info.annotation)]:
        found += [
            f"{sign} {getattr(rule, name):g}" for name, sign in SIGNS.items() if getattr(rule, name, None) is not None
        ]
        found += [f"at least {rule.min_length}" for _ in "1" if getattr(rule, "min_length", None)]
    return ", ".join(map(code, dict.fromkeys(found)))


def _rules(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield from _rules(part)
    yield from getattr(annotation, "__metadata__", ())


def type_text(annotation: Any) -> str:
    """A type in words: number, whole number, yes or no, one of some words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_text(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(type_text, get_args(annotation)))))
    if origin is tuple:
        inside = [part for part in get_args(annotation) if part is not Ellipsis]
        many = type_text(inside[0]) if inside else ""
        count = {2: "two ", 3: "three "}.get(len(inside), "several ")
        return count + (f"{many}s" if many in ("number", "whole number", "text") else "values")
    if origin in (dict, list) or getattr(origin, "__name__", "") in ("Mapping", "Sequence"):
        return "mapping" if origin is not list else "list"
    words = {int: "whole number", float: "number", bool: "yes or no", str: "text", Path: "path", type(None): ""}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group" if not issubclass(annotation, Options) else "choice"
    return words.get(annotation, "")
