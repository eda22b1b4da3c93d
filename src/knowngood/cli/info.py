"""`knowngood info` and `knowngood rollback`: what a saved model is and which versions it has, without loading it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from knowngood.cli.console import say, table
from knowngood.cli.inputs import Model
from knowngood.cli.outputs import writing
from knowngood.detector.versions import Version, in_use, model_at, versions
from knowngood.detector.versions import rollback as take_back
from knowngood.errors import ArtifactError


def info(model: Model) -> None:
    """Say what a saved model was trained on, how, and what it guarantees; and which versions there are."""
    folder = in_use(model)
    try:
        card = (folder / "card.md").read_text(encoding="utf-8").rstrip()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        number = config["format_version"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(f"{folder} is damaged: {type(error).__name__}: {error}") from None
    say(card)
    say(f"\nformat {number}, {folder}")
    show(versions(model))


def rollback(
    model: Model,
    *,
    to: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="this version; default: the one before the one in use")
    ] = None,
) -> None:
    """Switch a model back to an older version. The others stay, so that --to can switch forward again."""
    with writing(model_at(model)):
        taken = take_back(model, to)
    say(f"version {taken.number} is in use")
    show(versions(model))


def show(known: list[Version]) -> None:
    """Print the saved versions of a model."""
    rows = [(str(one.number), one.what, one.at, "in use" if one.in_use else "") for one in known]
    table(["version", "made by", "at", ""], rows)
