"""The help of a command with settings: one screen by --help, every option by --help-all."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

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
        """Write the short help: the choices in a line each, and the options of the command itself."""
        settings = setting_options()
        text = [*_head(ctx, (self.help or "").split("\n\n")[:1]), ""]
        text.append(_heading("Choices; each brings options of its own, which --help-all lists"))
        for field in Settings.model_fields:
            text.append(_line(*_choice(field, settings)))
            text += [
                _line(f"  {option.flag} NAME", _cut(_names(option), f"of {' or '.join(option.owners)}: "))
                for option in settings
                if option.path == (field,) and option.family
            ]
        text += ["", _heading("Data and output"), *(_line(*row) for row in _own(ctx, settings))]
        formatter.write("\n".join(text))

    def every_option(self, ctx: Any) -> str:
        """The text of `--help-all`: all options, by what they belong to, with the names that each choice knows."""
        settings = setting_options()
        text = [*_head(ctx, (self.help or "").split("\n\n")), *_panel("Data and output", _own(ctx, settings))]
        for path in dict.fromkeys(option.path for option in settings):
            rows = []
            for option in settings:
                if option.path == path:
                    rows.append((f"{_flags(option)} {option.metavar}".rstrip(), option.help))
                    rows += [(f"    {name}", _first_line(model)) for name, model in option.family.items()]
            text += _panel(_title(path, settings), rows)
        return "\n".join(text)


def _head(context: Any, paragraphs: Sequence[str]) -> list[str]:
    text = [f"Usage: {context.command_path} [OPTIONS] DATA"]
    for paragraph in paragraphs:
        text += ["", *_wrapped(paragraph)]
    return text


def _own(context: Any, settings: Sequence[SettingOption]) -> list[Row]:
    """Name and help of the command's own arguments and options, without those of the settings."""
    generated = {option.parameter for option in settings}
    rows = [
        (param.metavar, param.help) if param.param_type_name == "argument" else param.get_help_record(context)
        for param in context.command.params
        if param.name not in generated
    ]
    return [row for row in rows if row]


def _title(path: tuple[str, ...], settings: Sequence[SettingOption]) -> str:
    if not path:
        return "Choices"
    if group(Settings, path[0]):
        return path[-1].capitalize()
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


def _flags(option: SettingOption) -> str:
    return f"{option.flag}/--no-{option.flag[2:]}" if bool in option.kinds else flag(option.parameter)


def _first_line(model: type) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _panel(title: str, rows: Sequence[Row]) -> list[str]:
    lines = ["", _heading(title)]
    for name, what in rows:
        body = _wrapped(what, " " * COLUMN)
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


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _width(), initial_indent=indent, subsequent_indent=indent)


def _heading(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
