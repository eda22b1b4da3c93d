"""Settings from plain values, laid over each other, and what is wrong with them in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from knowngood.config.base import Family, Group, Options
from knowngood.config.scores import fused
from knowngood.config.settings import Settings
from knowngood.config.words import as_share, nearest
from knowngood.errors import SettingsError
from knowngood.files import decoded, did_you_mean


@cache
def choices(model: type[BaseModel], field: str) -> dict[str, type[Options]]:
    """The option models that a field may hold, by name: `choices(VAEOptions, "objective")["dcvae"]`."""
    info, found = model.model_fields[field], {}
    left = [*reversed(info.metadata), info.annotation]
    while left:
        one = left.pop()
        if isinstance(one, Family):
            found |= one.choices
        elif isinstance(one, type) and issubclass(one, Options) and hasattr(one, "implementation"):
            found[one.model_fields["name"].default] = one
        left += reversed(get_args(one))
    return found


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values.

    Raises:
        SettingsError: every problem at once, naming setting and value, and for an unknown name the nearest known one.
    """
    return parse(Settings, dict(values))


def parse(annotation: Any, value: Any) -> Any:
    """One choice from a plain value: `parse(ObjectiveOptions, {"name": "dcvae", "beta": 4})`.

    Raises:
        SettingsError: as `parse_settings`.
    """
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        # without "must be 'auto'" beside what is wrong with the option that was meant
        items = error.errors()
        meant = [item for item in items if not any(str(part).startswith("literal[") for part in item["loc"])]
        raise SettingsError("\n".join(dict.fromkeys(_explain(item) for item in meant or items))) from None


class _Once(yaml.SafeLoader):
    """Refuses a name that comes twice in a mapping, of which YAML would drop the first in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' comes twice", problem_mark=key.start_mark)
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return node


def read_yaml(text: str) -> Any:
    """What a text in YAML says, as plain data. Raises YAMLError, also for a name that comes twice."""
    return _Once(text).get_single_data()


def read_settings(path: str | Path, **overrides: Any) -> Settings:
    """Settings from a YAML file, with `overrides` on top.

    Raises:
        SettingsError: the file cannot be read or is no YAML mapping; else as `parse_settings`.
    """
    try:
        loaded = read_yaml(decoded(Path(path).read_bytes())) or {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}{did_you_mean(path, Path.is_file)}") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected 'name: value' lines, found a {type(loaded).__name__}")
    return parse_settings({**loaded, **overrides})


def _walk(loc: tuple[Any, ...]) -> tuple[list[str], type[BaseModel], dict[str, type[Options]]]:
    """Where a problem lies: the path in words, the option model that holds it, and the choices of its last field."""
    shown: list[str] = []
    model: type[BaseModel] = Settings
    family: dict[str, type[Options]] = {}
    for part in map(str, loc):
        if part in family:
            model, family = family[part], {}
        elif part in model.model_fields:
            shown.append(part)
            family = choices(model, part)
            annotation = model.model_fields[part].annotation
            if not family and isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
        elif part.isdigit() or "[" in part:
            continue
        else:
            shown.append(part)
    return shown, model, family


def _explain(item: Any) -> str:
    path, model, family = _walk(item["loc"])
    where = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = [name for name in model.model_fields if name != "name"]
        if model is Settings:
            return f"unknown setting '{path[-1]}'" + (_moved(path[-1]) or nearest(path[-1], known))
        name = model.model_fields["name"].default if "name" in model.model_fields else None
        owner = f"{path[-2]} '{name}'" if name else path[-2]
        return f"{owner} has no option '{path[-1]}'" + nearest(path[-1], known)
    if family and item["type"] in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
        given = item["input"].get("name") if isinstance(item["input"], Mapping) else item["input"]
        if given is None:
            return f"{path[-1]} = {item['input']!r:.80} says no name; give 'name' too, one of {', '.join(family)}"
        if not isinstance(given, str):
            kind = f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"
            own = f"one of your own is a plug-in, the entry point 'knowngood.{path[-1]}s' of an installed package"
            if path[-1] == "backbone":
                own = "an object of your own goes to fit(X, backbone=…), and here stands 'own'"
            expected = f"expected a name, or a mapping of a name and options (known: {', '.join(family)})"
            return f"{path[-1]} is {kind}; {expected}; {own}"
        hint = _here(str(given), family) or _objective(path[-1], str(given)) or nearest(str(given), list(family))
        return f"unknown {path[-1]} '{given}'{hint}"
    if item["type"] == "missing" and len(path) > 1:
        owner = f"{path[-2]} '{model.model_fields['name'].default}'" if "name" in model.model_fields else path[-2]
        described = model.model_fields[path[-1]].description
        return f"{owner} needs the option '{path[-1]}'" + (f": {described}" if described else "")
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if path == ["alpha"] and item["type"] in ("less_than", "greater_than", "float_parsing"):
        return f"setting 'alpha' = {item['input']!r}: expected a number above 0 and below 1{as_share(item['input'])}"
    return f"setting '{where}' = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _here(name: str, family: Mapping[str, type[Options]]) -> str:
    """What a choice is called here, for someone who spells it otherwise or as others call it."""
    called = {_bare(one): here for here, options in family.items() for one in (*options.also, here)}
    return f"; it is called '{called[_bare(name)]}' here" if _bare(name) in called else ""


def _objective(field: str, name: str) -> str:
    """How a VAE of an objective is asked for, for someone who gives the objective as the model."""
    if field != "model":
        return ""
    for model, options in choices(Settings, "model").items():
        known = choices(options, "objective") if "objective" in options.model_fields else {}
        for objective in known:
            if _bare(objective) == _bare(name):
                return f"; it is an objective: model={{'name': '{model}', 'objective': '{objective}'}}"
    return ""


def _bare(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower().replace("β", "beta"))


def _moved(name: str) -> str:
    """Where an option lives, for someone who gives it to the detector itself: in a group, or else in a choice."""
    for field in Settings.model_fields:
        options = group(Settings, field)
        if options is not None and name in options.model_fields:
            return f"; it is an option of {field}: {field}={{'{name}': …}}"
    for field in Settings.model_fields:
        for choice, option in choices(Settings, field).items():
            if name in option.model_fields:
                return f"; it is an option of {field} '{choice}': {field}={{'name': '{choice}', '{name}': …}}"
            for inner in option.model_fields:
                for part, further in choices(option, inner).items():
                    if name in further.model_fields:
                        place = f"{{'name': '{choice}', '{inner}': {{'name': '{part}', '{name}': …}}}}"
                        return f"; it is an option of {inner} '{part}': {field}={place}"
    return ""


def overlay(
    below: Mapping[str, Any] | BaseModel, above: Mapping[str, Any] | BaseModel, model: type[BaseModel] = Settings
) -> dict[str, Any]:
    """`above` over `below`, both as `parse_settings` takes them.

    Groups are merged option by option. So is a choice whose name stays the same, or that `above` does not name; a
    choice of another name replaces the one below with all its options.
    """
    merged = _given(below)
    for name, value in _given(above).items():
        merged[name] = _over(merged[name], value, model, name) if name in merged else value
    return merged


def _given(options: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """Options as a mapping, those of a model as far as they were set."""
    if isinstance(options, BaseModel):
        return {name: getattr(options, name) for name in options.model_fields_set}
    return dict(options)


def as_choice(value: Any) -> dict[str, Any]:
    """A choice as a mapping with its name; a list of scores, or names with commas, as their fusion."""
    value = fused(value)
    if isinstance(value, BaseModel):
        return {"name": getattr(value, "name", None), **_given(value)}
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
