"""The help of a command with settings: one screen by --help, every option by --help-all."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from knowngood.cli.options import SettingOption, flag, literals, setting_options
from knowngood.config import Settings
from knowngood.config.parsing import group

WIDTH = 100  # columns, fewer on a narrower terminal
COLUMN = 26  # where descriptions begin
Row = tuple[str, str]


class SettingsCommand(TyperCommand):
    """A command whose `--help` names the choices in one screen and leaves their options to `--help-all`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the short help."""
        formatter.write(overview(ctx))

    def every_option(self, context: typer.Context) -> str:
        """The text of `--help-all`."""
        return every_option(context)


def overview(context: typer.Context) -> str:
    """Usage, the choices in a line each, and the options of the command itself."""
    command: Any = context.command
    settings = setting_options()
    own = {option.parameter for option in settings}
    paragraph = (command.help or "").split("\n\n")
    text = [f"Usage: {context.command_path} [OPTIONS] DATA", "", *_wrapped(paragraph[0], 0)]
    text += ["", _heading("Choices; each brings options of its own, which --help-all lists")]
    for field in Settings.model_fields:
        text.append(_line(*_choice(field, settings)))
        text += [
            _line(f"  {option.flag} NAME", _cut(_names(option), f"of {' or '.join(option.owners)}: "))
            for option in settings
            if option.path == (field,) and option.family
        ]
    arguments = [record for param in command.params if param.name not in own and (record := _record(param, context))]
    return "\n".join([*text, "", _heading("Data and output"), *(_line(*row) for row in arguments)])


def every_option(context: typer.Context) -> str:
    """All options, by what they belong to, with the names that each choice knows."""
    command: Any = context.command
    settings = setting_options()
    own = {option.parameter for option in settings}
    text = [f"Usage: {context.command_path} [OPTIONS] DATA"]
    for paragraph in (command.help or "").split("\n\n"):
        text += ["", *_wrapped(paragraph, 0)]
    rows = [record for param in command.params if param.name not in own and (record := _record(param, context))]
    text += _panel("Data and output", rows)
    for path in dict.fromkeys(option.path for option in settings):
        rows = []
        for option in settings:
            if option.path == path:
                rows.append((f"{_flags(option)} {option.metavar}".rstrip(), option.help))
                rows += [(f"    {name}", _first_line(model)) for name, model in option.family.items()]
        title = path[-1].capitalize() if path and group(Settings, path[0]) else _title(path, settings)
        text += _panel(title, rows)
    return "\n".join(text)


def _title(path: tuple[str, ...], settings: Sequence[SettingOption]) -> str:
    if not path:
        return "Choices"
    owners = dict.fromkeys(owner for option in settings if option.path == path for owner in option.owners)
    return f"Options of {path[-1]} {', '.join(owners)}"


def _choice(field: str, settings: Sequence[SettingOption]) -> Row:
    """A choice of `Settings` in one line: what it is, and the names or options it has."""
    what = (Settings.model_fields[field].description or "").split(";")[0]
    if group(Settings, field) is not None:
        flags = [option.flag for option in settings if option.path == (field,)]
        return field.replace("_", "-"), _cut(flags, f"{len(flags)} options: ")
    option = next(option for option in settings if (option.path, option.field) == ((), field))
    names = _names(option)
    shown = _cut(names, f"{what}: ") if names else what
    return f"{option.flag} {'NAME' if names else option.metavar}", shown


def _names(option: SettingOption) -> list[str]:
    """What a choice may be: its words, such as auto, and its choices."""
    return [*literals(option.kinds), *option.family]


def _record(param: Any, context: typer.Context) -> Row | None:
    if param.param_type_name == "argument":
        return param.metavar, param.help
    return param.get_help_record(context)


def _flags(option: SettingOption) -> str:
    return f"{option.flag}/--no-{option.flag[2:]}" if bool in option.kinds else flag(option.parameter)


def _first_line(model: type) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _panel(title: str, rows: Sequence[Row]) -> list[str]:
    lines = ["", _heading(title)]
    for name, what in rows:
        body = _wrapped(what, COLUMN)
        if len(name) + 4 > COLUMN or not body:
            lines += [f"  {name}", *body]
        else:
            lines += [f"  {name}".ljust(COLUMN) + body[0].lstrip(), *body[1:]]
    return lines


def _line(name: str, what: str) -> str:
    """One line; a description that is too long is cut at a word."""
    start = f"  {name}".ljust(COLUMN - 1) + " "
    return start + textwrap.shorten(" ".join(what.split()), max(20, _width() - len(start)), placeholder=" …")


def _cut(names: Sequence[str], start: str) -> str:
    """As many of the names as a line has room for."""
    room, shown = _width() - COLUMN - len(start), list(names)
    while len(", ".join(shown)) + (3 if len(shown) < len(names) else 0) > room and len(shown) > 1:
        shown.pop()
    return start + ", ".join(shown) + (", …" if len(shown) < len(names) else "")


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _width(), initial_indent=" " * indent, subsequent_indent=" " * indent)


def _heading(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
