"""What a reader of image sets is: a name, the suffixes it is tried for, and a function of a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from knowngood.data.imageset import ImageSet
from knowngood.errors import SettingsError


@dataclass(frozen=True)
class Reader:
    """Opens a file or folder as images.

    A package adds an instance by `[project.entry-points."knowngood.readers"]` with `mine = "my_package:READER"`.
    Readers of packages come before the built-in ones.

    Attributes:
        name: what errors call it.
        suffixes: ends of the names it is tried for, such as (".h5",) or (".nii.gz",), in any case.
        read: path → ImageSet. Raises DataError, naming the path, for what it cannot read.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], ImageSet]

    def __post_init__(self) -> None:
        if isinstance(self.suffixes, str) or not all(len(s) > 1 and s.startswith(".") for s in self.suffixes):
            raise SettingsError(
                f"reader '{self.name}': suffixes = {self.suffixes!r}; expected a tuple of suffixes with their dot, "
                "such as ('.h5',)"
            )

    def takes(self, path: Path) -> bool:
        """Whether the name of the path ends in one of the suffixes."""
        return path.name.lower().endswith(tuple(suffix.lower() for suffix in self.suffixes))
