"""Commands by name, each imported when it is run or asked about: `--help` and completion import none of them."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from knowngood.errors import SettingsError


class Place(NamedTuple):
    """Where a command is ('module:function', or a `Typer` with commands below it), what it does, and its class."""

    where: str
    help: str
    kind: str = "typer.core:TyperCommand"


SETTINGS = "knowngood.cli.settings_help:SettingsCommand"
COMMANDS = {
    "demo": Place("demo:demo", "Find an unknown digit, defects of parts."),
    "inspect": Place("inspect:inspect", "List what is wrong with the data."),
    "train": Place("train:train", "Learn from normal images; save a model.", SETTINGS),
    "doctor": Place("doctor:doctor", "Check the installation; measure speed."),
    "score": Place("score:score", "Score images: p-values, verdicts, maps."),
    "evaluate": Place("evaluate:evaluate", "Measure a model on labelled images."),
    "compare": Place("compare:compare", "Compare recipes on the same images."),
    "calibrate": Place("calibrate:calibrate", "Calibrate on other normal images."),
    "update": Place("update:update", "Let a model take new images or reviews."),
    "monitor": Place("monitor:monitor", "Test a stream of results for drift."),
    "figure": Place("figure:figure", "Draw one figure of a model."),
    "serve": Place("serve:serve", "Serve models over HTTP, with a page."),
    "watch": Place("watch:watch", "Judge every new picture in a folder."),
    "review": Place("review:review", "Say what judged images are: false alarms."),
    "reviews": Place("reviews:reviews", "Count reviews; write the images as data."),
    "export": Place("export:export", "Write a model as one ONNX file."),
    "info": Place("info:info", "Say what a model was trained on, and how."),
    "rollback": Place("info:rollback", "Go back to an older version of a model."),
    "push": Place("hub:push", "Upload a model to the Hugging Face Hub."),
    "pull": Place("hub:pull", "Download a model from the Hub."),
    "data": Place("data:app", "List, get and write named data sets."),
}


# What others call a command, and an option; the text goes behind the one that is meant.
ALSO = {
    **dict.fromkeys(("predict", "detect", "infer", "test"), "score"),
    **dict.fromkeys(("fit", "learn"), "train"),
    **dict.fromkeys(("eval", "measure", "validate"), "evaluate"),
    "audit": "inspect",
    "retrain": "update",
}
ALSO_OPTIONS = {
    **dict.fromkeys(
        ("--threshold", "--thresh", "--sensitivity", "--fpr"),
        ("--alpha", ", the share of normal images that may be flagged: the threshold follows from it"),
    ),
}


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS`. `get_command` knows name and help of one; `resolve_command` imports it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=place.help) for name, place in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Name, command and the words after it.

        Raises:
            SettingsError: there is no such command, and another one is meant.
        """
        if args and args[0] in ALSO and args[0] not in self.commands:
            raise SettingsError(f"there is no command '{args[0]}'; did you mean `knowngood {ALSO[args[0]]}`?")
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and self.load(found.name or ""), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises SettingsError: it has no such option, and another one is meant."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # the class is that of the Click that Typer brings
            given, inner = getattr(error, "option_name", None), getattr(error, "ctx", None)
            if inner is None:
                raise
            outs = [one for one in ("--out", "--output") if any(one in param.opts for param in inner.command.params)]
            if extra := outs and re.search(r"unexpected extra argument\S* \((\S+)\)", str(error)):
                several = "; several images are given as a folder" if "--output" in outs else ""
                raise SettingsError(
                    f"{inner.command_path} takes no further argument '{extra[1]}'; if it names the output, give "
                    f"{outs[0]} {extra[1]}{several}"
                ) from None
            meant, why = ALSO_OPTIONS.get(str(given), ("", ""))
            if not any(meant in one.opts for one in inner.command.params):
                raise
            raise SettingsError(f"{inner.command_path} has no option {given}; use {meant} NUMBER{why}") from None

    def load(self, name: str) -> Any:
        """The command itself, with its options."""
        place = COMMANDS[name]
        found = _imported(f"knowngood.cli.{place.where}")
        if isinstance(found, typer.Typer):
            app = found
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
            app.command(name, cls=_imported(place.kind))(found)
        app.rich_markup_mode, app.pretty_exceptions_enable = self.rich_markup_mode, False
        command = typer.main.get_command(app)
        command.name = name
        return command


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
