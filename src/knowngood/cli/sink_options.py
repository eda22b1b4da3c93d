"""The option --to of `serve` and `watch`, and the delivery behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.outputs import writing
from knowngood.errors import OutputError, SettingsError
from knowngood.files import check_file, check_folder

if TYPE_CHECKING:
    from knowngood.deploy.delivery import Delivery
    from knowngood.deploy.sinks import Sink

To = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SINK",
        help="deliver the rows to: results.csv, results.parquet (a folder), sqlite:///results.db, https://host/path, "
        "mqtt://host/topic, opc.tcp://host/node, opc-server://host:port; repeatable",
    ),
]


def sinks_of(to: list[str] | None) -> list[Sink]:
    """These sinks; nothing is opened. Raises SettingsError: there is no such sink, or one is given twice."""
    from knowngood.deploy.sinks import sink_of

    sinks = [sink_of(url) for url in to or ()]
    if twice := {one.url for one in sinks if [other.url for other in sinks].count(one.url) > 1}:
        raise SettingsError(f"--to {twice.pop()} is given twice")
    return sinks


def check_state(state: Path) -> None:
    """Raise OutputError where the file of the state cannot be written: the option that moves it is the way out."""
    try:
        check_folder(state.parent)
        check_file(state)
    except OutputError as error:
        why = str(error).partition(";")[0]
        raise OutputError(
            f"{why}, where {state.name} keeps what is judged and not delivered yet; give it another place that you may "
            "write to: --state FILE"
        ) from None


@contextmanager
def opened(to: list[str] | None, state: Path) -> Iterator[Delivery]:
    """Within, rows go to these sinks, with what is on its way in the file `state`. One process at a time.

    Raises:
        SettingsError: there is no such sink, or another process uses it. OutputError: as `check_state`.
    """
    from knowngood.deploy.delivery import Delivery
    from knowngood.deploy.outbox import Outbox

    sinks = sinks_of(to)
    files, folders = ([getattr(one, what, None) for one in sinks] for what in ("path", "folder"))
    check_state(state)
    with writing(state, *files, folders=folders), closing(Delivery(Outbox(state), sinks)) as delivery:
        delivery.start()
        yield delivery
