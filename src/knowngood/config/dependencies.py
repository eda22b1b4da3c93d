"""What to do where a package is not installed that `pip install knowngood` brings."""

from __future__ import annotations


def without_package(error: ModuleNotFoundError) -> str | None:
    """A line about the package that an import did not find; None where it is a module of knowngood."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "knowngood"):
        return None
    return (
        f"{package} is not installed, which this needs: `pip install knowngood` brings it. With the packages of the "
        "runtime alone, score by `python -m knowngood.runtime MODEL.onnx FOLDER`"
    )
