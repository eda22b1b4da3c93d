"""A choice of a family: an option model that names the class that carries it out."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """One choice of a family, with its own settings. `implementation` is 'module:Class', imported when needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    implementation: ClassVar[str]
    name: str

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The object this choice stands for, made from these options."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)(self, *args, **kwargs)


def named(value: Any) -> Any:
    """A plain string as the choice of that name with its defaults; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value
