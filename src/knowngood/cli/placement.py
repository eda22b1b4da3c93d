"""From options that were given to settings: which choice each one belongs to, and what it implies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic.fields import FieldInfo

from knowngood.cli.console import note
from knowngood.config import Options, Settings, choices, parse_settings, read_settings
from knowngood.config.parsing import as_choice, overlay
from knowngood.config.presets import read_preset
from knowngood.config.representations import backbone_at
from knowngood.errors import SettingsError

UNMADE = "auto"
OBJECTIVE = ("model", "objective")
OTHER_NAMES = {"betatcvae": "tc_vae"}  # of objectives, as `_word` writes them


class Given(NamedTuple):
    """One option that was given: where it lies in the settings, as it was typed, and its plain value."""

    path: tuple[str, ...]
    field: str
    flag: str
    value: Any


def settings(given: list[Given], *, preset: str | None = None, config: Path | None = None) -> Settings:
    """Settings from options over a YAML file over a preset; see `options.settings_from`."""
    given = _lineage(given)
    objective = next((one.value for one in given if (*one.path, one.field) == OBJECTIVE), None)
    values = _read(config) if config else {}
    if preset:
        named = {} if objective is None else {"model": {"objective": objective}}
        values = overlay(read_preset(preset, {**values, **named}), values)
    problems: list[str] = []
    for field, info in Settings.model_fields.items():
        own = {one.field: one.value for one in given if one.path == (field,)}
        typed = [one.value for one in given if (one.path, one.field) == ((), field)]
        if family := choices(Settings, field):
            chosen = _choice((field,), values.get(field), info, family, given, problems)
            if chosen is not None:
                values[field] = chosen
        elif own:
            values[field] = {**(values.get(field) or {}), **own}
        elif typed:
            values[field] = typed[-1]
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return parse_settings(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_settings(path).model_dump(exclude_unset=True)
    except SettingsError as error:
        raise SettingsError(f"--config {path}:\n{error}") from None


def _lineage(given: list[Given]) -> list[Given]:
    """`--model dcvae`, the dCVAE paper's word, as a VAE of that objective.

    Its command gives `--beta` to every method. One without such an option is trained as it is, and a note says so.
    """
    typed = next((one for one in given if (*one.path, one.field) == ("model",)), None)
    if typed is None:
        return given
    models = choices(Settings, "model")
    trained = [(name, model) for name, model in models.items() if "objective" in model.model_fields]
    having = {objective: (name, model) for name, model in trained for objective in choices(model, "objective")}
    known = {_word(objective): objective for objective in having}
    objective = (known | OTHER_NAMES).get(_word(typed.value))
    named = [one for one in given if (*one.path, one.field) == OBJECTIVE]
    beta = [one for one in given if (*one.path, one.field) == (*OBJECTIVE, "beta")]
    if objective is None or (typed.value in models and (named or not beta)):  # `vae` is a model, too
        return given
    for other in named:
        if other.value != objective:
            raise SettingsError(f"--model {typed.value} contradicts --objective {other.value}; give one of them")
    model, options = having[objective]
    family = choices(options, "objective")
    if beta and "beta" not in family[objective].model_fields:
        others = ", ".join(name for name, option in family.items() if "beta" in option.model_fields)
        note(f"{beta[0].flag} {beta[0].value} changes nothing: {objective} has no beta; these have one: {others}")
        given = [one for one in given if one not in beta]
    made = [typed._replace(value=model), Given(("model",), "objective", typed.flag, objective)]
    return [part for one in given for part in (made if one is typed else [one])]


def _word(name: str) -> str:
    """A name without what spellings of it differ in: FactorVAE, factor-vae and factor_vae are one."""
    return name.lower().replace("-", "").replace("_", "")


def _choice(
    path: tuple[str, ...],
    below: Any,
    info: FieldInfo,
    family: Mapping[str, type[Options]],
    given: list[Given],
    problems: list[str],
) -> Any:
    """The choice at `path`: what lies below, what was chosen by an option, and the options given for it."""
    field = path[-1]
    chosen = next((one.value for one in given if (*one.path, one.field) == path), None)
    if field == "backbone" and chosen is not None and chosen not in family:
        chosen = backbone_at(chosen)  # a path, or a name on the hub
    current = below
    if isinstance(chosen, dict) and chosen["name"] in family:
        current = chosen
    elif chosen is not None and (below is None or as_choice(below)["name"] != chosen or chosen not in family):
        current = chosen  # the same choice keeps the options that were set for it
    wanted: dict[str, list[Given]] = {}
    for one in given:
        where = (*one.path, one.field)
        if len(where) > len(path) and where[: len(path)] == path:
            wanted.setdefault(where[len(path)], []).append(one)
    if not wanted:
        return current
    flags = {name: ", ".join(one.flag for one in some) for name, some in wanted.items()}
    value = as_choice(info.default if current is None else current)
    if current is None or value["name"] == UNMADE:
        having = [name for name, model in family.items() if set(wanted) <= set(model.model_fields)]
        if value["name"] not in having:
            if len(having) != 1:
                problems.append(_unclear(field, having, family, flags))
                return current
            value = {"name": having[0]}
    name = value["name"]
    if name == "fusion" and "scores" in value:
        return _fusion(value, family, wanted, problems)
    if name not in family:
        if any(name in get_args(kind) for kind in get_args(info.annotation)):  # a word, such as auto
            problems += [_lacks(field, name, option, family, flags[option]) for option in wanted]
        return current  # parse_settings names the nearest known choice
    model = family[name]
    for option, some in wanted.items():
        if option not in model.model_fields:
            problems.append(_lacks(field, name, option, family, flags[option]))
        elif inner := choices(model, option):
            below, info = value.get(option), model.model_fields[option]
            value[option] = _choice((*path, option), below, info, inner, given, problems)
        else:
            value[option] = some[-1].value
    return value


def _fusion(
    value: dict[str, Any], family: Mapping[str, type[Options]], wanted: Mapping[str, list[Given]], problems: list[str]
) -> dict[str, Any]:
    """A fusion, its options and those of the scores in it; every score that has an option gets it."""
    scores = [as_choice(score) for score in value["scores"]]
    for option, some in wanted.items():
        having = [score for score in scores if score["name"] in family and option in family[score["name"]].model_fields]
        if option in family["fusion"].model_fields:
            value[option] = some[-1].value
        elif having:
            for score in having:
                score[option] = some[-1].value
        else:
            names = ", ".join(score["name"] for score in scores)
            problems.append(_lacks("score", names, option, family, some[-1].flag))
    return {**value, "scores": scores}


def _lacks(field: str, chosen: str, option: str, family: Mapping[str, type[Options]], flags: str) -> str:
    having = [name for name, model in family.items() if option in model.model_fields]
    return f"{flags}: {field} '{chosen}' has no such option; it belongs to {', '.join(having)}: " + (
        f"choose {'it' if len(having) == 1 else 'one'} with --{field}, or leave {flags} out"
    )


def _unclear(field: str, having: list[str], family: Mapping[str, type[Options]], flags: Mapping[str, str]) -> str:
    if having:
        one = " or ".join(filter(None, [", ".join(having[:-1]), having[-1]]))
        why = "several choices have this option" if len(flags) == 1 else "several choices have these options"
        return f"{', '.join(flags.values())}: {why}; add --{field} {one}"
    parts = [
        f"{shown} belongs to {', '.join(name for name, model in family.items() if option in model.model_fields)}"
        for option, shown in flags.items()
    ]
    return f"no {field} has all of these options: {'; '.join(parts)}; leave one of them out"
