"""`knowngood info`: what a saved model is, without loading it."""

from __future__ import annotations

import json

from knowngood.cli.console import say
from knowngood.cli.inputs import Model, model_folder


def info(model: Model) -> None:
    """Say what a saved model was trained on, how, and what it guarantees."""
    folder = model_folder(model)
    card = folder / "card.md"
    say(card.read_text(encoding="utf-8").rstrip())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    say(f"\nformat {config.get('format_version', '?')}, {folder}")
