"""A choice of a family: an option model that names the class that carries it out; and the families as unions."""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from knowngood.config.installed import plugins


class Options(BaseModel):
    """One choice of a family, with its own settings. `implementation` is 'module:Class', imported when needed.

    also: what others call it, for the message to who asks for it by that name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    implementation: ClassVar[str]
    also: ClassVar[tuple[str, ...]] = ()
    name: str

    @property
    def build(self) -> Callable[..., Any]:
        """Makes the object this choice stands for, from these options and what its class takes beside them."""
        return partial(implementation(self), self)


def implementation(options: Options) -> Any:
    """What carries out a choice: the class, or function, that it names."""
    return loaded(options.implementation)


def loaded(place: str) -> Any:
    """What 'module:name' stands for."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def named(value: Any) -> Any:
    """A plain string as the choice of that name with its defaults; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


class Family:
    """The choices of a family, told apart by `name`: the built-in ones and those of installed plug-ins.

    `Annotated[Options, Family("objectives", VAE, …)]` is the annotation of a field that holds one of them. Plug-ins are
    looked up when the choices are first needed, not when the library is imported: they import from it.

    Args:
        group: the family, and the entry-point group "knowngood.<group>" of its plug-ins.
        before: turns what a person writes into what is validated.
    """

    def __init__(self, group: str, *built_in: type[Options], before: Callable[[Any], Any] = named) -> None:
        self.group, self.built_in, self.before = group, built_in, before

    @cached_property
    def choices(self) -> dict[str, type[Options]]:
        """The option models by name."""
        return {one.model_fields["name"].default: one for one in (*self.built_in, *plugins(self.group, Options))}

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        joined: Any = functools.reduce(operator.or_, self.choices.values())
        return TypeAdapter(Annotated[joined, Field(discriminator="name")])  # type: ignore[arg-type]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """One of the choices, whatever the annotation that this stands beside."""
        return no_info_plain_validator_function(lambda value: self._adapter.validate_python(self.before(value)))


class Group(BaseModel):
    """Options that belong together and are no choice: conditioning, calibration, data, training."""

    model_config = ConfigDict(extra="forbid", frozen=True)
