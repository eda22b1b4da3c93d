"""`knowngood info` and `knowngood rollback`: what a saved model is and which versions it has, without loading it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from knowngood.cli.console import AsJson, emit, for_machines, say, table
from knowngood.cli.inputs import Model
from knowngood.cli.outputs import writing
from knowngood.detector.versions import Version, in_use, model_at, versions
from knowngood.detector.versions import rollback as take_back
from knowngood.errors import ArtifactError


def info(model: Model, *, as_json: AsJson = False) -> None:
    """Say what a saved model was trained on, how, and what it guarantees; and which versions there are."""
    with for_machines(as_json):
        folder = in_use(model)
        try:
            card = (folder / "card.md").read_text(encoding="utf-8").rstrip()
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            number, about, settings = config["format_version"], config["about"], config["settings"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(f"{folder} is damaged: {type(error).__name__}: {error}") from None
        say(card)
        say(f"\nformat {number}, {folder}")
        known = versions(model)
        show(known)
        calibration = config["calibration"].get("known", {})
        facts = {
            "model": folder,
            "format": number,
            "recipe": about["recipe"],
            "data": about["data"],
            "settings": settings,
        }
        facts |= {"alpha": settings["alpha"], "calibrated_by": config["calibrated_by"], "versions": _records(known)}
        emit({**facts, "groups": calibration.get("stratum_names", []), "history": about["history"]})


def rollback(
    model: Model,
    *,
    as_json: AsJson = False,
    to: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="this version; default: the one before the one in use")
    ] = None,
) -> None:
    """Switch a model back to an older version. The others stay, so that --to can switch forward again."""
    with for_machines(as_json), writing(folders=[model_at(model)]):
        taken = take_back(model, to)
        say(f"version {taken.number} is in use")
        known = versions(model)
        show(known)
        emit({"in_use": taken.number, "versions": _records(known)})


def show(known: list[Version]) -> None:
    """Print the saved versions of a model."""
    rows = [(str(one.number), one.what, one.at, "in use" if one.in_use else "") for one in known]
    table(["version", "made by", "at", ""], rows)


def _records(known: list[Version]) -> list[dict[str, Any]]:
    return [{"version": one.number, "made_by": one.what, "at": one.at, "in_use": one.in_use} for one in known]
