"""Settings from plain values, and what is wrong with them in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from knowngood.config.base import Options
from knowngood.config.settings import Settings
from knowngood.errors import SettingsError

FAMILIES = ("objective", "labelled", "net", "likelihood", "features", "scoring")


def choices(field: str) -> dict[str, type[Options]]:
    """The option models of a family by name: `choices("objective")["dcvae"]`."""
    found: dict[str, type[Options]] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, Options):
            found[annotation.model_fields["name"].default] = annotation
        for inner in get_args(annotation):
            walk(inner)

    info = Settings.model_fields[field]
    walk(info.annotation)
    return found


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values.

    Raises:
        SettingsError: every problem at once, naming setting and value, and for an unknown name the nearest known one.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        # "must be 'auto'" is no help beside what is wrong with the option that was meant.
        items = [item for item in error.errors() if not _other_branch(item["loc"])] or error.errors()
        raise SettingsError("\n".join(_explain(item, values) for item in items)) from None


def read_settings(path: str | Path, **overrides: Any) -> Settings:
    """Settings from a YAML file, with `overrides` on top."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected 'name: value' lines, found a {type(loaded).__name__}")
    return parse_settings({**loaded, **overrides})


def nearest(name: str, known: list[str]) -> str:
    """'; did you mean …?' and the known names, for error messages. Of names equally near the first is meant."""

    def alike(other: str) -> float:
        return difflib.SequenceMatcher(None, other, name).ratio()

    best = max(known, key=alike, default=None)
    hint = f"; did you mean '{best}'?" if best is not None and alike(best) >= 0.5 else ""
    return f"{hint} (known: {', '.join(known)})"


def _other_branch(loc: tuple[Any, ...]) -> bool:
    return any(str(part).startswith("literal[") for part in loc) and loc[0] in FAMILIES


def _explain(item: Any, values: Mapping[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    family = choices(path[0]) if path and path[0] in FAMILIES else {}
    if item["type"] == "extra_forbidden":
        if len(path) == 1:
            return f"unknown setting '{path[0]}'" + nearest(path[0], list(Settings.model_fields))
        model = next((family[part] for part in reversed(path) if part in family), None)
        known = [k for k in model.model_fields if k != "name"] if model else []
        return f"{path[0]} '{path[-2]}' has no option '{path[-1]}'" + nearest(path[-1], known)
    if family and item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = item["input"].get("name") if isinstance(item["input"], Mapping) else item["input"]
        known = [name for name in family if name not in path]  # one choice may hold others, but not itself
        return f"unknown {path[0]} '{given}'" + nearest(str(given), known)
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    shown = ".".join(part for part in path if "[" not in part)
    return f"setting '{shown}' = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
