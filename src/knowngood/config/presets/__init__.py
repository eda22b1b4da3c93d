"""Named settings, one YAML file each: those of published work, to compare like with like, and recipes for tasks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from knowngood.config import nearest
from knowngood.config.parsing import as_choice, overlay
from knowngood.errors import SettingsError


def preset_names() -> list[str]:
    """The names `read_preset` knows, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_preset(name: str, above: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a preset sets, ready for `parse_settings` or `Detector(**settings)`.

    A file with `base: other` starts from the settings of that one. What stands under `objectives` holds for one
    objective alone.

    Args:
        above: settings that will be laid over the preset; they may name another objective.

    Raises:
        SettingsError: there is no such preset; the message names the nearest one.
    """
    if name not in preset_names():
        raise SettingsError(f"unknown preset '{name}'" + nearest(name, preset_names()))
    content = yaml.safe_load((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))
    base = read_preset(content["base"]) if "base" in content else {}
    settings = overlay(base, content["settings"])
    objective = as_choice(as_choice((above or {}).get("model")).get("objective")).get("name")
    return overlay(settings, content.get("objectives", {}).get(objective, {}))
