"""`opc.tcp://host:4840/ns=2;s=Inspection`: the latest row, as the variables of an object of an OPC UA server.

Variables whose names are columns of the row are written, each in its own type; `key` last, so that it says that the
others are new. What is missing in a row becomes "", NaN, 0, false or the year 1601, the first of OPC UA.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

from knowngood.deploy.sinks import TIMEOUT, Place, Row, Sink, Unavailable
from knowngood.errors import SettingsError

NEVER = datetime(1601, 1, 1)
BITS = {"Byte": 8, "UInt16": 16, "UInt32": 32, "UInt64": 64, "SByte": 8, "Int16": 16, "Int32": 32, "Int64": 64}
WHOLE = {  # smallest and largest value of the types of whole numbers
    kind: (0, 2**bits - 1) if kind[0] in "BU" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for kind, bits in BITS.items()
}


class OpcUa(Sink):
    """Connects at the first row, and again when the connection was lost."""

    at_once = 1

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._node = unquote(parts.path.removeprefix("/"))
        if not parts.hostname or "@" in parts.netloc or "=" not in self._node:
            raise SettingsError(f"--to opc.tcp://{parts.hostname or ''}…: expected opc.tcp://HOST:PORT/NODE-ID")
        if find_spec("asyncua") is None:
            raise SettingsError("opc.tcp:// needs asyncua: pip install 'knowngood[line]'")
        self.url, self._server = url, f"opc.tcp://{parts.netloc}"
        self._client: Any = None
        self._variables: dict[str, tuple[Any, Any]] = {}

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        from asyncua.ua import DataValue, Variant

        try:
            self._connect()
            for row in rows:
                for name in sorted(self._variables.keys() & row.keys(), key=lambda name: name == "key"):
                    variable, kind = self._variables[name]
                    try:
                        value = typed(row[name], kind.name)
                    except (TypeError, ValueError):
                        raise OSError(
                            f"the variable {name} is a {kind.name}, which holds no {row[name]!r:.40}"
                        ) from None
                    variable.write_value(DataValue(Variant(value, kind)))
        except Exception as error:  # asyncua raises many types
            self.close()
            raise Unavailable(f"{self.url}: {error or type(error).__name__}") from None
        return place

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                client.disconnect()
            except Exception:  # the connection is lost already
                client.tloop.stop()

    def _connect(self) -> None:
        if self._client is not None:
            return
        from asyncua.sync import Client

        client = Client(self._server, timeout=TIMEOUT)
        try:
            client.connect()
        except Exception:
            client.tloop.stop()
            raise
        self._client = client
        variables = client.get_node(self._node).get_variables()
        self._variables = {
            one.read_browse_name().Name: (one, one.read_data_type_as_variant_type()) for one in variables
        }
        if "key" not in self._variables:
            raise OSError(f"{self._node} has no variable 'key'; found: {', '.join(self._variables) or 'none'}")


def typed(value: Any, kind: str) -> Any:
    """A cell as a value of an OPC UA type.

    Raises:
        TypeError, ValueError: the type holds no such value.
    """
    if kind == "String":
        return "" if value is None else value if isinstance(value, str) else json.dumps(value)
    if kind in ("Double", "Float"):
        return float("nan") if value is None else float(value)
    if kind == "DateTime":  # in UTC, and without saying so
        return NEVER if value is None else datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    if kind == "Boolean":
        return bool(value)
    if kind not in WHOLE:
        raise TypeError(kind)
    low, high = WHOLE[kind]
    number = int(value or 0)
    if not low <= number <= high:
        raise ValueError(number)
    return number
