"""Command-line options made from the settings models, so that a new setting is an option by itself.

Each field of `Settings` is an option. The fields of the option models behind objective, net, likelihood and score are
options too (`--beta`, `--hidden`, `--sigma`, …) and go to whichever model is chosen.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from knowngood.config import Settings, choices, parse_settings, read_settings
from knowngood.config.presets import preset_names, read_preset
from knowngood.errors import SettingsError

# The words of the dCVAE paper's command line. Underscores for hyphens are accepted everywhere.
ALIASES = {"objective": ("--model",), "epochs": ("--num-epochs",)}
_NULLS = ("none", "null", "off")


@dataclass(frozen=True)
class SettingOption:
    """One generated option: a setting, or with `family` a field of that family's option models."""

    parameter: str
    field: str
    family: str | None
    kinds: tuple[Any, ...]
    option: Any

    @property
    def flag(self) -> str:
        return "--" + self.parameter.replace("_", "-")

    @property
    def annotation(self) -> Any:
        base: Any = bool if bool in self.kinds else list[str] if self.pairs else str
        return Annotated[base | None, self.option]

    @property
    def pairs(self) -> bool:
        """Whether it is given as COLUMN=VALUES; what can be a file is given as one."""
        return dict in self.kinds and Path not in self.kinds

    def parse(self, value: Any) -> Any:
        """The plain value that the settings model validates."""
        if self.pairs:
            return dict(_pair(self.flag, item) for item in value)
        if not isinstance(value, str):
            return value
        if type(None) in self.kinds and value.lower() in _NULLS:
            return None
        if tuple in self.kinds and Path not in self.kinds:
            if re.fullmatch(r"\d+[x×]\d+", value):
                return re.split("[x×]", value)
            if "," in value or not ({int, float, str} & set(self.kinds) or _literals(self.kinds)):
                return [part.strip() for part in value.split(",") if part.strip()]
        return value


def setting_options() -> list[SettingOption]:
    """Every option the settings give rise to, in the order of the models."""
    found = [_plain(name, info) for name, info in Settings.model_fields.items()]
    taken = set(Settings.model_fields)
    owners: dict[str, set[str]] = {}
    for family in families():
        for model in choices(family).values():
            for name in model.model_fields:
                owners.setdefault(name, set()).add(family)
    for family in families():
        for name, models in _options_of(family).items():
            clash = name in taken or len(owners[name]) > 1
            found.append(_nested(family, name, models, f"{family}_{name}" if clash else name))
    return found


def families() -> list[str]:
    """The settings that are a choice among option models."""
    return [name for name in Settings.model_fields if choices(name)]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all setting options, `--preset`, `--config` and `--gpu`; it receives one `settings: Settings`."""
    options = setting_options()

    @wraps(command)
    def run(**arguments: Any) -> None:
        flags = {option.parameter: arguments.pop(option.parameter) for option in options}
        preset, config, gpu = (arguments.pop(name) for name in ("preset", "config", "gpu"))
        given = {name: value for name, value in flags.items() if value not in (None, [], ())}
        if gpu:
            if given.get("device", "gpu") not in ("gpu", "cuda"):
                raise SettingsError(f"--gpu contradicts --device {given['device']}; give one of them")
            given.setdefault("device", "gpu")
        command(**arguments, settings=settings_from(given, preset=preset, config=config))

    own = inspect.signature(command, eval_str=True)
    extra: list[tuple[str, Any, Any]] = [
        ("preset", Annotated[str | None, typer.Option(help=_preset_help(), metavar="NAME")], None),
        (
            "config",
            Annotated[Path | None, typer.Option(help="YAML file of settings; options go above it", metavar="FILE")],
            None,
        ),
        *((option.parameter, option.annotation, None) for option in options),
        ("gpu", Annotated[bool, typer.Option("--gpu", help="short for --device gpu")], False),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[parameter for parameter in own.parameters.values() if parameter.name != "settings"]
        + [inspect.Parameter(name, keyword, annotation=kind, default=default) for name, kind, default in extra],
        return_annotation=None,
    )
    run.__annotations__ = {}
    return run


def settings_from(given: Mapping[str, Any], *, preset: str | None = None, config: Path | None = None) -> Settings:
    """Settings from options, over those of a YAML file, over those of a preset, over the defaults.

    Args:
        given: option values by parameter name, as typed; only those the user gave.

    Raises:
        SettingsError: as `parse_settings`; also an option that the chosen objective, net, likelihood or score lacks.
    """
    values: dict[str, Any] = {}
    for layer in (read_preset(preset).settings if preset else {}, _read_config(config) if config else {}):
        for name, value in layer.items():
            values[name] = _over(values.get(name), value) if choices(name) else value
    options = {option.parameter: option for option in setting_options()}
    parsed = {name: options[name].parse(value) for name, value in given.items()}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in parsed.items():
        family = options[name].family
        if family:
            nested.setdefault(family, {})[options[name].field] = value
        else:
            values[name] = _over(values.get(name), value) if choices(name) else value
    flags = {(option.family, option.field): option.flag for option in options.values()}
    problems = []
    for family, chosen_options in nested.items():
        current = _as_mapping(values.get(family, Settings.model_fields[family].default))
        having = [name for name, model in choices(family).items() if set(chosen_options) <= set(model.model_fields)]
        if family == "scoring" and current["name"] == "auto" and ("elbo" in having or len(having) == 1):
            current = {"name": "elbo" if "elbo" in having else having[0]}
        model = choices(family).get(current["name"])
        if model is None and current["name"] not in _literals(_kinds(Settings.model_fields[family].annotation)):
            continue  # parse_settings names the nearest known choice
        problems += [
            _not_an_option(family, current["name"], name, flags[family, name])
            for name in chosen_options
            if model is None or name not in model.model_fields
        ]
        values[family] = {**current, **chosen_options}
    if problems:
        raise SettingsError("\n".join(problems))
    return parse_settings(values)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_settings(path).model_dump(exclude_unset=True)
    except SettingsError as error:
        raise SettingsError(f"--config {path}:\n{error}") from None


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    return dict(value) if isinstance(value, Mapping) else value.model_dump()


def _over(below: Any, above: Any) -> Any:
    """A choice over another: the same choice keeps the options that were set for it."""
    if below is None or _as_mapping(below)["name"] != _as_mapping(above).get("name"):
        return above
    return {**_as_mapping(below), **_as_mapping(above)}


def _not_an_option(family: str, chosen: str, name: str, flag: str) -> str:
    having = [other for other, model in choices(family).items() if name in model.model_fields]
    return f"{flag}: {family} '{chosen}' has no such option; " + (
        f"it belongs to {', '.join(having)}: add --{family} {having[0]}, or leave {flag} out"
    )


def _pair(flag: str, text: str) -> tuple[str, list[str]]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise SettingsError(f"{flag} {text}: expected COLUMN=VALUE,VALUE, for example {flag} camera=model,stratify")
    return key, [part.strip() for part in value.split(",") if part.strip()]


def _plain(name: str, info: FieldInfo) -> SettingOption:
    kinds = _kinds(info.annotation)
    metavar = "|".join([*_literals(kinds), *choices(name)]) if choices(name) else _metavar(kinds)
    return _option(name, name, None, kinds, _with_default(info.description or "", _default_text(info.default)), metavar)


def _nested(family: str, name: str, models: dict[str, FieldInfo], parameter: str) -> SettingOption:
    kinds = tuple(dict.fromkeys(kind for info in models.values() for kind in _kinds(info.annotation)))
    described: dict[str, list[str]] = {}
    for choice, info in models.items():
        default = _default_text(info.default)
        described.setdefault(_with_default(info.description or "", default), []).append(choice)
    text = "; ".join(
        f"{', '.join(owners)}: {what}" if what else ", ".join(owners) for what, owners in described.items()
    )
    return _option(parameter, name, family, kinds, text, _metavar(kinds))


def _option(
    parameter: str, field: str, family: str | None, kinds: tuple[Any, ...], text: str, metavar: str
) -> SettingOption:
    flag = "--" + parameter.replace("_", "-")
    flags = [f"{flag}/--no-{flag[2:]}"] if bool in kinds else [flag, *ALIASES.get(parameter, ())]
    option = typer.Option(
        *flags,
        help=text or None,
        metavar=None if bool in kinds else metavar,
        show_default=False,
        rich_help_panel=f"Options of the {family}" if family else "Settings",
    )
    return SettingOption(parameter, field, family, kinds, option)


def _options_of(family: str) -> dict[str, dict[str, FieldInfo]]:
    """Option name → {choice that has it: its field}."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for choice, model in choices(family).items():
        for name, info in model.model_fields.items():
            if name != "name":
                found.setdefault(name, {})[choice] = info
    return found


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """What an annotation admits, flattened: scalar types, `tuple`, `dict`, `NoneType`, and `Literal[...]` values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(dict.fromkeys(kind for inner in get_args(annotation) for kind in _kinds(inner)))
    if origin is Literal:
        return get_args(annotation)
    return (origin or annotation,)


def _literals(kinds: tuple[Any, ...]) -> list[str]:
    return [kind for kind in kinds if isinstance(kind, str)]


def _metavar(kinds: tuple[Any, ...]) -> str:
    if Path in kinds:
        return "PATH"
    words = {int: "INT", float: "NUMBER", str: "TEXT", tuple: "N,N", dict: "COLUMN=VALUE,VALUE", Path: "PATH"}
    return "|".join([*_literals(kinds), *(words[kind] for kind in kinds if kind in words)]) or "TEXT"


def _default_text(default: Any) -> str | None:
    if default is None or isinstance(default, bool):
        return None
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(getattr(default, "name", default))


def _with_default(text: str, default: str | None) -> str:
    return f"{text} (default {default})".strip() if default else text


def _preset_help() -> str:
    return f"start from a named bundle of settings: {', '.join(preset_names())}"
