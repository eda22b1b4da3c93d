"""What a shell completes: names of data sets beside files, folders of models, presets, figures and choices.

`knowngood --install-completion` sets it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    from knowngood.config.presets import preset_names

    return matching(preset_names(), incomplete)


def figures(incomplete: str) -> list[str]:
    """Names of figures."""
    from knowngood.evaluation.figures import FIGURES

    return matching(FIGURES, incomplete)


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completes these names."""
    known = list(names)

    def complete(incomplete: str) -> list[str]:
        return matching(known, incomplete)

    return complete


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
