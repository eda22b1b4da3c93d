"""The classes of errors and warnings, with their exit status."""

from __future__ import annotations

import inspect

from cells import code, table

from knowngood import errors as module


def errors() -> str:
    """A table of the classes in the order of the file."""
    rows = []
    for name, one in vars(module).items():
        if inspect.isclass(one) and issubclass(one, BaseException) and one.__module__ == module.__name__:
            status = getattr(one, "exit_code", "")
            above = ", ".join(f"`{base.__name__}`" for base in one.__bases__)
            rows.append((code(name), above, status, (inspect.getdoc(one) or "").split("\n\n")[0]))
    return table(("class", "is a", "exit status", "when"), rows)
