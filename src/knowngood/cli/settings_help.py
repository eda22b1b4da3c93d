"""The help of a command with settings: one screen by --help, every option by --help-all."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from knowngood.cli.console import coloured
from knowngood.cli.options import SettingOption, default_of, literals, setting_options
from knowngood.config import Settings
from knowngood.config.parsing import group

WIDTH = 100  # columns, fewer on a narrower terminal
COLUMN = 26  # where descriptions begin
Row = tuple[str, str]

LESSER = ("with --", "short for --")  # what belongs to another option, or is one: for `--help-all`


class SettingsCommand(TyperCommand):
    """A command whose `--help` names the choices in one screen and leaves their options to `--help-all`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the short help: the choices in a line each, and the options of the command itself."""
        settings, rows = setting_options(), []
        for field in Settings.model_fields:
            within = [option for option in settings if option.path == (field,)]
            rows.append(_choice(field, settings, within))
            named = [(option, f"of {' or '.join(option.owners)}: ") for option in within if option.family]
            rows += [
                (f"  {option.flag} NAME", _cut(_names(option), start, _default(option))) for option, start in named
            ]
        text = [*_head(ctx, (self.help or "").split("\n\n")[:1])]
        text += _panel("Choices; each brings options of its own, which --help-all lists", rows, short=True)
        rows = [row for row in _own(ctx, settings) if not row[1].startswith(LESSER)]
        text += _panel("Data and output", rows, short=True)
        formatter.write("\n".join(text))

    def every_option(self, ctx: Any) -> str:
        """The text of `--help-all`: all options, by what they belong to, with the names that each choice knows."""
        settings = setting_options()
        text = [*_head(ctx, (self.help or "").split("\n\n")), *_panel("Data and output", _own(ctx, settings))]
        for path in dict.fromkeys(option.path for option in settings):
            within, rows = [option for option in settings if option.path == path], []
            for option in within:
                rows.append((f"{option.switch} {option.metavar}".rstrip(), option.help))
                rows += [(f"    {name}", (model.__doc__ or "").split("\n")[0]) for name, model in option.family.items()]
            owners = ", ".join(dict.fromkeys(owner for option in within for owner in option.owners))
            title = f"Options of {path[-1]} {owners}" if path else "Choices"
            text += _panel(path[-1].capitalize() if path and group(Settings, path[0]) else title, rows)
        return "\n".join(text)


def _head(context: Any, paragraphs: Sequence[str]) -> list[str]:
    text = [f"Usage: {context.command_path} [OPTIONS] DATA"]
    for paragraph in paragraphs:
        text += ["", *textwrap.wrap(" ".join(paragraph.split()), _width())]
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


def _choice(field: str, settings: Sequence[SettingOption], within: Sequence[SettingOption]) -> Row:
    """A choice of `Settings` in one line: what it is, and the names or options it has."""
    if group(Settings, field) is not None:
        return field.replace("_", "-"), _cut([option.flag for option in within], f"{len(within)} options: ")
    option = next(option for option in settings if (option.path, option.field) == ((), field))
    what, names = (Settings.model_fields[field].description or "").split(";")[0], _names(option)
    text = _cut(names, f"{what}: ", _default(option)) if names else what + _default(option)
    return f"{option.flag} {'NAME' if names else option.metavar}", text


def _default(option: SettingOption) -> str:
    """In brackets, where all choices that have the option agree."""
    found = {default_of(info) for info in option.owners.values()}
    return found.pop() if len(found) == 1 else ""


def _names(option: SettingOption) -> list[str]:
    """What a choice may be: its words, such as auto, and its choices."""
    return [*literals(option.kinds), *option.family]


def _panel(title: str, rows: Sequence[Row], *, short: bool = False) -> list[str]:
    """Rows under a heading; in a `short` one each has one line, cut at a word."""
    lines = ["", f"\033[1m{title}\033[0m" if coloured(sys.stdout) else title]
    for name, what in rows:
        start = f"  {name} ".ljust(COLUMN)
        room = max(20, _width() - (len(start) if short else COLUMN))
        body = textwrap.wrap(" ".join(what.split()), room, max_lines=1 if short else None, placeholder=" …") or [""]
        alone = len(start) > COLUMN and not short
        lines += [start.rstrip()] if alone else [(start + body.pop(0)).rstrip()]
        lines += [" " * COLUMN + line for line in body]
    return lines


def _cut(names: Sequence[str], start: str, end: str = "") -> str:
    """As many of the names as a line has room for, between `start` and `end`."""
    room, shown = _width() - COLUMN - len(start) - len(end), list(names)
    while len(", ".join(shown)) + (3 if len(shown) < len(names) else 0) > room and len(shown) > 1:
        shown.pop()
    return start + ", ".join(shown) + (", …" if len(shown) < len(names) else "") + end


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
