"""What `python -m benchmarks NAME --help` shows: the docstring of its function, and its options."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

WIDTH = 110  # characters of a line
WORDS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}


def shown(name: str, function: Callable[..., Any]) -> str:
    """The help of one benchmark: first paragraph, then every option with its type, its default and what it means."""
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function, eval_str=True).parameters
    about, meanings = _wrapped(" ".join(text.partition("\n\n")[0].split()), 0), argument_texts(text, parameters)
    lines = [f"usage: python -m benchmarks {name} [OPTIONS]", "", about, "", "options:"]
    for option, parameter in parameters.items():
        flag = " ".join(filter(None, ["--" + option.replace("_", "-"), kind_of(parameter.annotation)]))
        default = _default(parameter.default)
        lines.append(_wrapped(flag + (f"  (default: {default})" if default else ""), 2))
        if option in meanings:
            lines.append(_wrapped(meanings[option], 6))
    return "\n".join(lines)


def argument_texts(text: str, names: Collection[str]) -> dict[str, str]:
    """What the section Args of a docstring says of each name; "a, b: …" is said of both."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    one = "(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + ")"
    entry = re.compile(rf"(?:^|(?<=\. ))({one}(?:, {one})*): ", re.MULTILINE)
    _, *parts = entry.split(textwrap.dedent(section[1]))
    found = {}
    for listed, meaning in zip(parts[::2], parts[1::2], strict=True):
        several = listed.split(", ")
        for name in several:
            heading = f"{listed}: " if len(several) > 1 else ""
            found[name] = heading + " ".join(meaning.split())
    return found


def kind_of(annotation: Any) -> str:
    """What an option takes: "INT", "TEXT,…" for several, "a|b" for a choice, nothing for a switch."""
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one not in (NoneType, Ellipsis)]
    if annotation is bool:
        return ""
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin in (Union, UnionType):
        return "|".join(dict.fromkeys(map(kind_of, inner)))
    if origin in (tuple, list):
        return f"{kind_of(inner[0])},…"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)).upper())


def _default(value: Any) -> str:
    if value is None or value is False or value == "":
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _wrapped(text: str, indent: int) -> str:
    blanks = " " * indent
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=blanks,
        subsequent_indent=blanks + (" " * 6 if indent == 2 else ""),
        break_long_words=False,
        break_on_hyphens=False,
    )
