"""A choice of a family: an option model that names the class that carries it out; and the families as unions."""

from __future__ import annotations

import functools
import importlib
import operator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from knowngood.config.plugins import plugins


class Options(BaseModel):
    """One choice of a family, with its own settings. `implementation` is 'module:Class', imported when needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    implementation: ClassVar[str]
    name: str

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The object this choice stands for, made from these options."""
        return implementation(self)(self, *args, **kwargs)


def implementation(options: Options) -> Any:
    """What carries out a choice: the class, or function, that it names."""
    module, _, name = options.implementation.partition(":")
    return getattr(importlib.import_module(module), name)


def named(value: Any) -> Any:
    """A plain string as the choice of that name with its defaults; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def union(group: str, *built_in: type[Options], before: Any = named) -> Any:
    """The union of a family, told apart by `name`: the built-in choices and those of installed plug-ins.

    Args:
        group: the family, and the entry-point group "knowngood.<group>" of its plug-ins.
        before: turns what a person writes into what the union validates.
    """
    members = (*built_in, *plugins(group, Options))
    joined = functools.reduce(operator.or_, members)
    return Annotated[Annotated[joined, Field(discriminator="name")], BeforeValidator(before)]


class Group(BaseModel):
    """Options that belong together and are no choice: conditioning, calibration, data, training."""

    model_config = ConfigDict(extra="forbid", frozen=True)
