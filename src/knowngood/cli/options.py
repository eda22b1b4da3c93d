"""Command-line options made from the settings models, so that a new setting or plug-in is an option by itself.

Every choice of `Settings` is an option (`--model`), so is every option of a group (`--epochs`) and of a choice, by its
own name where that is unique (`--beta`) and always with the choice before it (`--objective-alpha`).
"""

from __future__ import annotations

import inspect
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from knowngood.cli import completion, placement
from knowngood.config import Options, Settings, choices
from knowngood.config.parsing import group
from knowngood.config.presets import preset_names
from knowngood.errors import SettingsError

# The words of the dCVAE paper's command line. Underscores for hyphens are accepted everywhere.
ALIASES = {"epochs": ("--num-epochs",)}
NULLS = ("none", "null", "off")
WORDS = {int: "INT", float: "NUMBER", str: "TEXT", dict: "COLUMN=VALUE,VALUE"}


@dataclass(frozen=True)
class SettingOption:
    """One generated option.

    path: where it lies in `Settings`: () itself, a group or a choice, ("model", "objective") a choice within a choice.
    owners: by the name of the choices that have it, their field; the name is "" where it does not depend on a choice.
    family: if it makes a choice itself, the choices by name.
    """

    parameter: str
    path: tuple[str, ...]
    field: str
    owners: dict[str, FieldInfo]
    family: dict[str, type[Options]]
    unique: bool

    @property
    def flag(self) -> str:
        return flag(self.parameter)

    @property
    def switch(self) -> str:
        """The option, a yes or no with its opposite."""
        return f"{self.flag}/--no-{self.flag[2:]}" if bool in self.kinds else self.flag

    @property
    def kinds(self) -> tuple[Any, ...]:
        """What its value may be: scalar types, `tuple`, `dict`, `NoneType`, and values of literals."""
        return tuple(dict.fromkeys(kind for info in self.owners.values() for kind in kinds(info.annotation)))

    @property
    def pairs(self) -> bool:
        """Whether it is given as COLUMN=VALUES; what can be a file is given as one."""
        return dict in self.kinds and Path not in self.kinds

    @property
    def metavar(self) -> str:
        """What its value looks like; empty for a switch."""
        if self.family:
            return "NAME"
        if bool in self.kinds:
            return ""
        if Path in self.kinds:
            return "PATH"
        return "|".join(dict.fromkeys(word for info in self.owners.values() for word in _words(info.annotation)))

    @property
    def help(self) -> str:
        """What it does, by choice where that differs, with its default."""
        described: dict[str, list[str]] = {}
        for choice, info in self.owners.items():
            described.setdefault(_described(info), []).append(choice)
        texts = [f"{', '.join(owners)}: {text}" if any(owners) else text for text, owners in described.items()]
        return "; ".join(texts).rstrip(": ")

    @property
    def annotation(self) -> Any:
        """Its type for Typer."""
        base: Any = bool if bool in self.kinds else list[str] if self.pairs else str
        flags = [self.switch, *ALIASES.get(self.parameter, ())]
        if bool not in self.kinds and self.path and self.unique and any(self.owners):
            flags.append(flag(f"{self.path[-1]}_{self.field}"))
        names = [*literals(self.kinds), *self.family]
        complete = completion.one_of(names) if names and base is str else None
        shown = {"help": self.help, "metavar": self.metavar, "show_default": False, "autocompletion": complete}
        return Annotated[base | None, typer.Option(*flags, **shown)]

    def parse(self, value: Any) -> Any:
        """The plain value that the settings model validates."""
        if self.pairs:
            return dict(_pair(self.flag, item) for item in value)
        if not isinstance(value, str):
            return value
        if type(None) in self.kinds and value.lower() in NULLS:
            return None
        if tuple in self.kinds and Path not in self.kinds:
            if re.fullmatch(r"\d+[x×]\d+", value):
                return re.split("[x×]", value)
            if "," in value or not ({int, float, str} & set(self.kinds) or literals(self.kinds)):
                return [part.strip() for part in value.split(",") if part.strip()]
        return value


def setting_options() -> list[SettingOption]:
    """Every option the settings give rise to, in the order of the models. What plug-ins bring takes no name away."""
    found = list(_fields((), {"": Settings}))
    built_in = [_bare(path, field) for path, field, owners, _ in found if not _from_plugins(path, field, owners)]
    first = {_bare(path, field) for path, field, owners, _ in found if not any(owners)}
    named, counts = [], Counter(built_in)
    for path, field, owners, family in found:
        name = _bare(path, field)
        mine = 0 if _from_plugins(path, field, owners) else 1
        unique = not any(owners) or bool(family) or (name not in first and counts[name] == mine)
        named.append(SettingOption(name if unique else f"{path[-1]}_{field}", path, field, owners, family, unique))
    return named


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all setting options, `--preset`, `--config` and `--gpu`; it receives one `settings: Settings`.

    The command is of a class with `every_option(context)`, the text of `--help-all`.
    """
    options = setting_options()

    @wraps(command)
    def run(**arguments: Any) -> None:
        flags = {option.parameter: arguments.pop(option.parameter) for option in options}
        preset, config, gpu = (arguments.pop(name) for name in ("preset", "config", "gpu"))
        arguments.pop("help_all")
        given = {name: value for name, value in flags.items() if value not in (None, [], ())}
        if gpu:
            if given.get("device", "gpu") not in ("gpu", "cuda"):
                raise SettingsError(f"--gpu contradicts --device {given['device']}; give one of them")
            given.setdefault("device", "gpu")
        command(**arguments, settings=settings_from(given, preset=preset, config=config))

    def show_all(context: typer.Context, wanted: bool) -> None:
        if wanted:
            command: Any = context.command
            print(command.every_option(context))
            raise typer.Exit

    def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    own = inspect.signature(command, eval_str=True)
    about = f"start from named settings: {', '.join(preset_names())}"
    preset = typer.Option(help=about, metavar="NAME", autocompletion=completion.one_of(preset_names()))
    config = typer.Option(help="YAML file of settings, over the preset", metavar="FILE")
    gpu = typer.Option("--gpu", help="short for --device gpu")
    help_all = typer.Option("--help-all", callback=show_all, is_eager=True, help="list every option and stop")
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[
            *(parameter for parameter in own.parameters.values() if parameter.name != "settings"),
            keyword("preset", Annotated[str | None, preset]),
            keyword("config", Annotated[Path | None, config]),
            *(keyword(option.parameter, option.annotation) for option in options),
            keyword("gpu", Annotated[bool, gpu], False),
            keyword("help_all", Annotated[bool, help_all], False),
        ],
        return_annotation=None,
    )
    run.__annotations__ = {}
    return run


def settings_from(given: Mapping[str, Any], *, preset: str | None = None, config: Path | None = None) -> Settings:
    """Settings from options, over those of a YAML file, over those of a preset, over the defaults.

    An option of a choice that was not made implies the choice if only one has it.

    Args:
        given: option values by parameter name, as typed; only those the user gave.

    Raises:
        SettingsError: as `parse_settings`; also an option that the chosen representation, model or score lacks, or that
            several have while none was chosen.
    """
    options = {option.parameter: option for option in setting_options()}
    placed = [
        placement.Given(option.path, option.field, option.flag, option.parse(given[name]))
        for name, option in options.items()
        if name in given
    ]
    return placement.settings(placed, preset=preset, config=config)


def flag(parameter: str) -> str:
    """The option of a parameter: --batch-size of batch_size."""
    return "--" + parameter.replace("_", "-")


def kinds(annotation: Any) -> tuple[Any, ...]:
    """What an annotation admits, flattened: scalar types, `tuple`, `dict`, `NoneType`, and `Literal[...]` values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(dict.fromkeys(kind for inner in get_args(annotation) for kind in kinds(inner)))
    if origin is Literal:
        return get_args(annotation)
    return (origin or annotation,)


def literals(found: tuple[Any, ...]) -> list[str]:
    """The words among kinds."""
    return [kind for kind in found if isinstance(kind, str)]


_Field = tuple[tuple[str, ...], str, dict[str, FieldInfo], dict[str, type[Options]]]


def _fields(path: tuple[str, ...], models: Mapping[str, type[BaseModel]]) -> Iterator[_Field]:
    """Path, name, owners and choices of every field of these models and of the choices within them."""
    for field in dict.fromkeys(name for model in models.values() for name in model.model_fields):
        having = {choice: model for choice, model in models.items() if field in model.model_fields}
        owners = {choice: model.model_fields[field] for choice, model in having.items()}
        options = group(Settings, field) if not path else None
        family = {name: option for model in having.values() for name, option in choices(model, field).items()}
        if options is not None:
            yield from _fields((field,), {"": options})
        elif field != "name" and not (family and any(tuple in kinds(info.annotation) for info in owners.values())):
            yield path, field, owners, family
            yield from _fields((*path, field), family)


def _bare(path: tuple[str, ...], field: str) -> str:
    """The name of an option without what tells it from others: `calibration` for the method of calibration."""
    return path[0] if field == "method" and group(Settings, path[0]) else field


def _from_plugins(path: tuple[str, ...], field: str, owners: Mapping[str, FieldInfo]) -> bool:
    """Whether only choices of plug-ins have this option."""
    if not any(owners):
        return False
    found: dict[str, Any] = {"": Settings}
    for part in path:
        models = [model for model in found.values() if part in model.model_fields]
        found = {name: option for model in models for name, option in choices(model, part).items()}
    return not any(found[name].__module__.startswith("knowngood.") for name in owners)


def _words(annotation: Any) -> list[str]:
    """How values of a type are written."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0])
    if origin in (Union, types.UnionType):
        return [word for one in inner for word in _words(one)]
    if origin is Literal:
        return [str(one) for one in inner]
    if origin is tuple:
        some = [word for one in inner if one is not Ellipsis for word in _words(one)]
        endless = len(some) < 3 and len(some) != len(inner)
        return [",".join([*some[:1] * 2, "…"] if endless else some)]
    return [WORDS[origin or annotation]] if (origin or annotation) in WORDS else []


def default_of(info: FieldInfo) -> str:
    """' (default 0.05)' of a setting; empty where it has none to show."""
    default = info.default
    if info.is_required() or default is None or isinstance(default, bool) or default == ():
        return ""
    if isinstance(default, tuple):
        return f" (default {','.join(map(str, default))})"
    return f" (default {f'{default:g}' if isinstance(default, float) else getattr(default, 'name', default)})"


def _described(info: FieldInfo) -> str:
    return f"{info.description or ''}{default_of(info)}".strip()


def _pair(option: str, text: str) -> tuple[str, list[str]]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise SettingsError(f"{option} {text}: expected COLUMN=VALUE,VALUE, for example {option} camera=model,stratify")
    return key, [part.strip() for part in value.split(",") if part.strip()]
