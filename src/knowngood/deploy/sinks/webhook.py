"""`https://host/path`: a POST of JSON a row, signed by HMAC-SHA256.

The signature is that of "TIMESTAMP.BODY" by the secret in the environment variable KNOWNGOOD_WEBHOOK_SECRET. A row may
arrive twice, after a crash or a lost answer: `Idempotency-Key` is the same then.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from knowngood.deploy.sinks import TIMEOUT, Place, Rejected, Row, Sink, Unavailable
from knowngood.errors import SettingsError

VARIABLE = "KNOWNGOOD_WEBHOOK_SECRET"
REJECTED = (400, 413, 422)  # of this row; every other failure is tried again


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook(Sink):
    """Without a secret the rows are sent without a signature."""

    at_once = 1

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc or parts.port == 0:
            raise SettingsError(f"--to {parts.scheme}://{parts.hostname or ''}…: expected https://HOST/PATH")
        if not re.fullmatch("[!-~]+", url):  # no request can be made of it
            raise SettingsError(
                f"--to {parts.scheme}://{parts.hostname}…: holds a blank or no ASCII; write it as %20, %C3%A4"
            )
        self.url, self._secret = url, os.environ.get(VARIABLE, "").encode()
        self._open = urllib.request.build_opener(_NoRedirect).open

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        for row in rows:
            body = json.dumps(row, ensure_ascii=False).encode()
            headers = {"Content-Type": "application/json", "Idempotency-Key": str(row["key"])}
            request = urllib.request.Request(self.url, body, headers | signature(self._secret, body), method="POST")
            try:
                with self._open(request, timeout=TIMEOUT):
                    pass
            except urllib.error.HTTPError as error:
                kind = Rejected if error.code in REJECTED else Unavailable
                raise kind(f"{self.url}: status {error.code}") from None
            except (OSError, ValueError) as error:
                raise Unavailable(f"{self.url}: {getattr(error, 'reason', error)}") from None
        return place


def signature(secret: bytes, body: bytes, timestamp: int | None = None) -> dict[str, str]:
    """The headers that sign a body at a time, default now; none without a secret."""
    if not secret:
        return {}
    text = str(int(time.time()) if timestamp is None else timestamp)
    digest = hmac.new(secret, text.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Knowngood-Timestamp": text, "X-Knowngood-Signature": f"sha256={digest}"}
