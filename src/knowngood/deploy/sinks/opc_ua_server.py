"""`opc-server://host:4840`: an OPC UA server whose object `Inspection` holds the latest row, and a heartbeat.

Variables are named as the columns of a row; beside them are `result` in words, `count` of the rows since the start, and
`heartbeat`, which counts seconds. `key` is written last, so that it says that the others are new. Clients read and
subscribe, without a password; they cannot write.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from knowngood.deploy.sinks import Place, Row, Sink, Unavailable
from knowngood.deploy.sinks.opc_ua import NEVER, typed
from knowngood.errors import SettingsError

PORT = 4840
NAMESPACE, OBJECT = "urn:knowngood", "Inspection"
VARIABLES = {  # type of OPC UA, and the value before the first row; the last is written last
    "id": ("String", ""),
    "result": ("String", ""),
    "is_anomalous": ("Boolean", False),
    "anomaly_score": ("Double", math.nan),
    "p_value": ("Double", math.nan),
    "condition": ("String", ""),
    "note": ("String", ""),
    "error": ("String", ""),
    "time": ("DateTime", NEVER),
    "model": ("String", ""),
    "scored_by": ("String", ""),
    "count": ("UInt64", 0),
    "key": ("String", ""),
}


class OpcUaServer(Sink):
    """Listens from the start of the run. every: seconds of a heartbeat."""

    at_once = 1
    every = 1.0

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc or parts.path.strip("/") or parts.query:
            raise SettingsError(f"--to opc-server://{parts.hostname or ''}…: expected opc-server://HOST:PORT")
        if find_spec("asyncua") is None:
            raise SettingsError("opc-server:// needs asyncua: pip install 'knowngood[line]'")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.url = f"opc-server://{host}:{parts.port or PORT}"
        self._server: Any = None
        self._variables: dict[str, Any] = {}
        self._count, self._ending, self._beat = 0, threading.Event(), threading.Thread(target=self._beats, daemon=True)

    def open(self) -> None:
        from asyncua.sync import Server
        from asyncua.ua import SecurityPolicyType, Variant, VariantType

        server = Server()
        try:
            server.set_endpoint(self.url.replace("opc-server:", "opc.tcp:", 1))
            server.set_server_name("knowngood")
            server.set_security_policy([SecurityPolicyType.NoSecurity])
            at = server.register_namespace(NAMESPACE)
            place = server.nodes.objects.add_object(f"ns={at};s={OBJECT}", f"{at}:{OBJECT}")
            for name, (kind, value) in {**VARIABLES, "heartbeat": ("UInt32", 0)}.items():
                first = Variant(value, VariantType[kind])
                self._variables[name] = place.add_variable(f"ns={at};s={OBJECT}.{name}", f"{at}:{name}", first)
            server.start()
        except OSError as error:
            server.tloop.stop()
            why = f"{error.strerror or error}; choose another port or host"
            raise SettingsError(f"--to {self.url}: {why}") from None
        self._server = server
        self._beat.start()

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        if self._server is None:
            raise Unavailable(f"{self.url}: the server does not run")
        for row in rows:
            self._count += 1
            cells = {**row, "result": _result(row), "count": self._count}
            for name, (kind, _) in VARIABLES.items():
                self._set(name, typed(cells.get(name), kind), kind)
        return place

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            self._ending.set()
            self._beat.join()
            server.stop()

    def _beats(self) -> None:
        beats = 0
        while not self._ending.wait(self.every):
            beats = (beats + 1) % 2**32
            self._set("heartbeat", beats, "UInt32")

    def _set(self, name: str, value: Any, kind: str) -> None:
        from asyncua.ua import DataValue, Variant, VariantType

        self._variables[name].write_value(DataValue(Variant(value, VariantType[kind])))


def _result(row: Row) -> str:
    if row.get("error") is not None:
        return "not read"
    return str(row.get("verdict") or ("anomalous" if row["is_anomalous"] else "normal"))
