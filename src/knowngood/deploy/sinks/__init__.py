"""Where rows go, by URL. A sink is one file with a subclass of `Sink`, and a line in `SINKS` or an entry point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from knowngood.config import nearest
from knowngood.config.installed import plugins
from knowngood.errors import SettingsError

Row = Mapping[str, Any]
Place = dict[str, Any]

TIMEOUT = 10.0  # seconds that a receiver on the network has to answer


class Unavailable(Exception):
    """A sink cannot take rows now; they are kept, and it is tried again."""


class Rejected(Exception):
    """A sink will never take this row."""


class Sink(ABC):
    """Takes rows, which have a `key` that no other row has.

    A write may be repeated after a crash with the same first rows: it must then change nothing for those that are
    there. at_once: the most rows of a write. url: where it writes, without secrets.

    A package adds one by `[project.entry-points."knowngood.sinks"]` with `mine = "my_package:MySink"`. It is made of
    the URL after `--to`, whose `scheme` it names, and raises SettingsError for one that it cannot use.
    """

    url: str
    at_once: int = 1
    scheme: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, url: str) -> None:
        self.url = url

    def begin(self) -> Place:
        """Before the first write ever: where the sink stands. Raises SettingsError, Unavailable."""
        return {}

    def open(self) -> None:
        """At the start of a run. Raises SettingsError."""
        return

    @abstractmethod
    def write(self, rows: Sequence[Row], place: Place) -> Place:
        """Write rows after this place, for good; gives the next place. Raises Unavailable, Rejected."""
        ...

    def close(self) -> None:
        """Nothing is written any more."""
        return


SINKS = {
    "csv": "csv_file:CsvFile",
    "parquet": "parquet_folder:ParquetFolder",
    "sqlite": "sqlite_table:SqliteTable",
    "https": "webhook:Webhook",
    "http": "webhook:Webhook",
    "mqtt": "mqtt:Mqtt",
    "mqtts": "mqtt:Mqtt",
    "opc.tcp": "opc_ua:OpcUa",
    "opc-server": "opc_ua_server:OpcUaServer",
}
PATHS = ("csv", "parquet")  # which are given by a path, not by a URL
EXAMPLES = (
    "results.csv, results.parquet, sqlite:///results.db, https://host/path, mqtt://host/topic, opc.tcp://host/node, "
    "opc-server://127.0.0.1:4840"
)


def sink_of(url: str) -> Sink:
    """The sink of a URL, or of the path of a CSV file or a folder of parquet.

    Raises:
        SettingsError: there is no such kind of sink, or the URL is wrong.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else Path(url).suffix.lower().removeprefix(".")
    added: dict[str, Callable[[str], Sink]] = {one.scheme: one for one in plugins("sinks", Sink)}
    if (scheme not in SINKS and scheme not in added) or (scheme in PATHS) == ("://" in url):
        known = [*SINKS, *added]
        raise SettingsError(f"--to {url}: no such sink{nearest(scheme, known)}; expected such as {EXAMPLES}")
    module, _, name = SINKS.get(scheme, "").partition(":")
    make = getattr(import_module(f"{__name__}.{module}"), name) if module else added[scheme]
    try:
        return make(url)
    except SettingsError:
        raise
    except ValueError:  # of its parts, which may be secret
        raise SettingsError(f"--to {scheme}://…: is no URL; expected such as {EXAMPLES}") from None
