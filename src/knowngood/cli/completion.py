"""What a shell completes: names of data sets beside files, folders of models, presets, figures and choices.

`knowngood --install-completion` sets it up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from knowngood.detector.versions import CONFIG, OF_RUN, VERSIONS


def data_sets(incomplete: str) -> list[str]:
    """Names of data sets, and paths."""
    from knowngood.data.datasets.named import dataset_names

    return [*matching(dataset_names(), incomplete), *_paths(incomplete)]


def models(incomplete: str) -> list[str]:
    """Folders that are saved models, or lead to some; exported models."""
    return [
        name for name in _paths(incomplete) if name.endswith(".onnx") or (name.endswith("/") and _leads(Path(name)))
    ]


def one_of(names: Collection[str]) -> Callable[[str], list[str]]:
    """Completes these names."""
    return lambda incomplete: matching(names, incomplete)


def matching(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin so."""
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """Files and folders (with a slash) whose path begins so; hidden ones only if asked for."""
    folder, _, begin = incomplete.rpartition("/")
    place = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        found = sorted(Path(place or ".").expanduser().iterdir())
    except OSError:
        return []
    named = [one for one in found if one.name.startswith(begin) and (begin or not one.name.startswith("."))]
    return [f"{place}{one.name}" + "/" * one.is_dir() for one in named]


def _leads(folder: Path) -> bool:
    """Whether a folder is a model, or has folders in it."""
    folder = folder.expanduser()
    known = (folder / CONFIG, folder / VERSIONS, folder / OF_RUN)
    try:
        return any(one.exists() for one in known) or any(one.is_dir() for one in folder.iterdir())
    except OSError:
        return False
