"""Settings of a benchmark: plain nested mappings, put over one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowngood.config import read_settings
from knowngood.config.presets import read_preset


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings over one another, nested ones too. A choice of another name replaces the one below with its options."""
    found: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            found[name] = _over(found.get(name), value)
    return found


def chosen_settings(preset: str | None = None, config: Path | None = None, **over: Any) -> dict[str, Any]:
    """Settings of a preset, over them those of a YAML file, over them `over`, where None changes nothing.

    In `over`, `epochs` belongs to training.
    """
    base = read_preset(preset, over) if preset else {}
    given = read_settings(config).model_dump(exclude_unset=True, mode="json") if config else {}
    epochs = over.pop("epochs", None)
    own = {name: value for name, value in over.items() if value is not None}
    return merged(base, given, own, {} if epochs is None else {"training": {"epochs": epochs}})


def shaped(settings: Mapping[str, Any], pixels: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose representation has these options of images too, `image_size` and `grey`; "auto" stays as it is."""
    own = settings.get("representation", "auto")
    if own == "auto" or not pixels:
        return dict(settings)
    named = {"name": own} if isinstance(own, str) else own
    return {**settings, "representation": {"name": named["name"], **pixels, **named}}


def _over(below: Any, above: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, str):
        below = {"name": below}
    if not isinstance(below, Mapping) or below.get("name") != above.get("name", below.get("name")):
        return dict(above)
    return merged(below, above)
