"""What `knowngood train` wrote beside a model: the command, and the data that it was given."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowngood.detector.versions import OF_RUN, model_at

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.data.readers.limits import Limits


def command_of(model: Path) -> dict[str, Any]:
    """The record that `train` wrote beside a model; empty if there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((run_of(model) / "command.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def trained_on(model: Path) -> str:
    """The data argument that `train` was given, as it is named from here; empty if that is not recorded.

    A path that was relative to another folder, and is still there, is named by its whole path.
    """
    record = command_of(model)
    data, folder = str(record.get("data") or ""), str(record.get("folder") or ".")
    there = Path(folder, data)
    return str(there) if data and there.exists() and Path(folder).absolute() != Path.cwd() else data


def run_of(model: Path) -> Path:
    """The folder of the run that wrote a model; its own, if it was saved from Python."""
    folder = model_at(model)
    return folder.parent if folder.name == OF_RUN else folder


def training_images(model: Path, limits: Limits | None = None) -> ImageSet | None:
    """The images that `train` was given, with labels as it chose classes; None if that is not recorded.

    Raises:
        DataError: they cannot be read any more.
    """
    from knowngood.data import open_images
    from knowngood.data.select import select

    record, data = command_of(model), trained_on(model)
    if not data:
        return None
    chosen = {name: record.get(name) for name in ("normal", "anomalous", "holdout")}
    return select(open_images(data, limits=limits), **chosen)
