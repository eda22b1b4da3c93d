"""`mqtt://host/topic`: a message of JSON a row, with QoS 1; `mqtts://` over TLS.

A row may arrive twice after a crash: its `key` is the same then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import unquote, urlsplit

from knowngood.deploy.sinks import TIMEOUT, Place, Row, Sink, Unavailable
from knowngood.errors import SettingsError


class Mqtt(Sink):
    """Connects at the first row, and again when the connection was lost."""

    at_once = 64

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.topic = unquote(parts.path.removeprefix("/"))
        try:
            port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        except ValueError:
            port = 0
        if not parts.hostname or not self.topic or not port or set("#+") & set(url):
            raise SettingsError(f"--to {parts.scheme}://{parts.hostname or ''}…: expected mqtt://HOST[:PORT]/TOPIC")
        if find_spec("paho") is None:
            raise SettingsError("mqtt:// needs paho-mqtt: pip install 'knowngood[line]'")
        self.url = f"{parts.scheme}://{parts.hostname}:{port}/{self.topic}"
        self._parts, self._address, self._client = parts, (parts.hostname, port), None

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        try:
            client = self._connected()
            sent = [client.publish(self.topic, json.dumps(row, ensure_ascii=False), qos=1) for row in rows]
            for one in sent:
                one.wait_for_publish(TIMEOUT)
                if not one.is_published():
                    raise OSError("no acknowledgement")
        except (OSError, ValueError, RuntimeError) as error:
            self.close()
            raise Unavailable(f"{self.url}: {error}") from None
        return place

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion

            client = Client(CallbackAPIVersion.VERSION2)
            if self._parts.username:
                client.username_pw_set(unquote(self._parts.username), unquote(self._parts.password or ""))
            if self._parts.scheme == "mqtts":
                client.tls_set()
            client.connect_timeout = TIMEOUT
            answers: SimpleQueue[Any] = SimpleQueue()
            client.on_connect = lambda client, data, flags, answer, properties: answers.put(answer)
            client.connect(*self._address)
            client.loop_start()
            self._client = client
            try:
                answer = answers.get(timeout=TIMEOUT)
            except Empty:
                raise OSError("no answer") from None
            if answer.is_failure:
                raise OSError(f"the broker refuses the connection: {answer}")
        return self._client
