"""Every command with its arguments and options, from Typer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from cells import code, table

from knowngood.cli import build_app
from knowngood.cli.options import setting_options


def commands() -> str:
    """All commands; the settings of `train` are on the page of settings."""
    app = typer.main.get_command(build_app())
    return "\n\n".join(_of(app, "knowngood"))


def _of(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    names = list(getattr(command, "commands", ()))
    yield f"## {name}"
    if command.help:
        yield _prose(command.help)
    params = [param for param in command.params if param.name not in _generated(command)]
    if not names:
        words = [param.metavar or param.name.upper() for param in params if param.param_type_name == "argument"]
        yield f"```text\n{' '.join([name, *words, '[OPTIONS]'])}\n```"
    if params:
        shown = [param for param in params if not getattr(param, "hidden", False)]
        yield table(("argument or option", "meaning"), [_row(param, context) for param in shown])
    if len(params) < len(command.params):
        yield "Also all [settings](settings.md)."
    for word in names:
        yield from _of(command.resolve_command(context, [word])[1], f"{name} {word}")


def _generated(command: Any) -> set[str]:
    return {option.parameter for option in setting_options()} if command.name == "train" else set()


def _prose(text: str) -> str:
    return "\n\n".join(" ".join(part.split()).replace("<", "&lt;").replace("*", "\\*") for part in text.split("\n\n"))


def _row(param: Any, context: Any) -> tuple[str, str]:
    if param.param_type_name == "argument":
        return code(param.metavar or param.name.upper()), getattr(param, "help", None) or ""
    names, what = param.get_help_record(context)
    return code(names), what
