"""The options --keep and --keep-most of `serve` and `watch`, and the store behind them."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.detector.versions import OF_RUN
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.deploy.judged_store import JudgedStore

KeepMost = Annotated[
    int, typer.Option(min=1, help="judged images that are kept; the oldest ones that nobody reviewed are removed")
]
MOST = 10_000


def beside(model: Path, what: str = "judged") -> Path:
    """Where judged images are kept by default: runs/parts-judged for runs/parts, its folder `model`, and parts.onnx.

    Args:
        what: another end of the name, for what else is kept there.
    """
    whole = model.resolve()
    whole = whole.parent if whole.name == OF_RUN else whole.with_suffix("") if whole.is_file() else whole
    return whole.with_name(f"{whole.name}-{what}")


def judged_by(model: Path, given: str | Path | None, flag: str) -> Path:
    """The folder of what a model judged: the one `given` by an option such as --keep, or that beside the model.

    Raises:
        DataError: nothing is kept there.
    """
    from knowngood.deploy.judged_store import FILE

    folder = beside(model) if given is None else Path(given)
    if not (folder / FILE).is_file():
        named, place = shlex.quote(str(model)), shlex.quote(str(folder))
        raise DataError(
            f"{folder}: no judged images, so there are no reviews yet. `knowngood serve {named}` keeps what it judges "
            f"there, as does `knowngood watch {named} INCOMING --keep {place}`; review on the server's page, or with "
            f"`knowngood review {named} IMAGE --as false-alarm`. They are elsewhere: {flag} FOLDER"
        )
    return folder


def kept(folder: Path | None, most: int) -> AbstractContextManager[JudgedStore | None]:
    """Within, the store in this folder; None where nothing is kept. Several processes may use it."""
    from knowngood.deploy.judged_store import JudgedStore

    return nullcontext() if folder is None else closing(JudgedStore(folder, most))
