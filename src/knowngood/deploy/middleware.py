"""What happens to every request: an id, a log line and counts; and bounds on the size and the silence of its body."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knowngood.deploy.logs import LOGGER, event
from knowngood.deploy.metrics import Metrics

ID = "x-request-id"
_WORD = re.compile(r"[\w.-]{1,64}")


class Observed:
    """Gives every request an id, that of its header if it has a usable one, and logs and counts the request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(ID, "")
        name = given if _WORD.fullmatch(given) else uuid.uuid4().hex
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=name, facts=facts)
        status, started = 500, time.perf_counter()

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID] = name
            await send(message)

        try:
            await self.app(scope, receive, answered)
        except Exception as error:
            trace = (type(error), error, error.__traceback__)
            LOGGER.error("failed", exc_info=trace, extra={"facts": {"request_id": name}})
            if status == 500:
                answer = JSONResponse({"detail": "this was not expected; see the log", "request_id": name}, 500)
                await answer(scope, receive, answered)
        finally:
            seconds = time.perf_counter() - started
            path = _path(scope)
            self.metrics.answered(path, status, seconds)
            if path not in ("/healthz", "/readyz", "/metrics", "/page/state"):
                event(
                    "request",
                    request_id=name,
                    method=scope["method"],
                    path=path,
                    status=status,
                    seconds=round(seconds, 4),
                    **facts,
                )


def _path(scope: Scope) -> str:
    """The path of the route that answered, without values in it; "other" where there is none."""
    if "route" in scope:
        return scope["route"].path
    known = {getattr(route, "path", None) for route in getattr(scope.get("app"), "routes", ())}
    return str(scope["path"]) if scope["path"] in known else "other"


class BodyLimit:
    """Refuses a body of more bytes than may be, by its declared length or once it is longer; then it is not kept.

    What is refused is read on for as many bytes again and thrown away, so that the sender sees the answer. A sender of
    whom nothing comes for `idle` seconds before the body is whole is refused too: it may be gone, and holds a place in
    the queue.
    """

    def __init__(self, app: ASGIApp, most: int, idle: float) -> None:
        self.app, self.most, self.idle = app, most, idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, size, more = Headers(scope=scope), 0, True
        declared = headers.get("content-length", "0")
        asks_first = headers.get("expect", "").lower() == "100-continue"

        async def counted() -> Message:
            nonlocal size, more
            if not more:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.idle)
            except TimeoutError:
                more = False
                raise HTTPException(408, f"nothing of the body came for {self.idle:g} seconds; send it again") from None
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if size > self.most:
                raise self._refusal()
            return message

        async def drained(message: Message) -> None:
            nonlocal size, more
            if message["type"] == "http.response.start" and not (asks_first and not size):
                end = size + self.most
                while more and size < end and declared != "0":
                    try:
                        rest = await asyncio.wait_for(receive(), self.idle)
                    except TimeoutError:
                        break
                    size += len(rest.get("body", b""))
                    more = rest["type"] == "http.request" and rest.get("more_body", False)
            await send(message)

        if declared.isdecimal() and int(declared) > self.most:
            error = self._refusal()
            name = scope.get("state", {}).get("request_id")
            await JSONResponse({"detail": error.detail, "request_id": name}, 413)(scope, receive, drained)
            return
        await self.app(scope, counted, drained)

    def _refusal(self) -> HTTPException:
        return HTTPException(
            413,
            f"the body has more than {self.most:,} bytes; send fewer images at a time, or allow more: --max-body-mb",
        )
