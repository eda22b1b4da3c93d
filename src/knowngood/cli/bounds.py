"""The options that bound how large a file may be that a command reads: --max-pixels, --max-pages, --max-unpacked-gb."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.config.bounds import BOUNDS

if TYPE_CHECKING:
    from knowngood.config import DataOptions


class Bounds(dict[str, float]):
    """The bounds that were given as options, by the name of their setting."""

    def over(self, options: DataOptions | None = None) -> DataOptions:
        """These, over those of the settings of a model or the defaults.

        Raises:
            SettingsError: a bound is not above 0.
        """
        from knowngood.config import DataOptions, parse_settings

        below = (options or DataOptions()).model_dump(include={*BOUNDS})
        return parse_settings({"data": {**below, **self}}).data


def with_bounds(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it receives one `bounds: Bounds`."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in BOUNDS}
        command(**arguments, bounds=Bounds({name: value for name, value in given.items() if value is not None}))

    def parameter(name: str) -> inspect.Parameter:
        bound = BOUNDS[name]
        text = f"{bound.description}; default that of MODEL, else {bound.default:,}"
        kind: Any = type(bound.default)
        annotation = Annotated[kind | None, typer.Option("--" + name.replace("_", "-"), help=text)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)

    own = inspect.signature(command, eval_str=True)
    kept = [one for one in own.parameters.values() if one.name != "bounds"]
    run.__signature__ = own.replace(parameters=[*kept, *map(parameter, BOUNDS)])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run
