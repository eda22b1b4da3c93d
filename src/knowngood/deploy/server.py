"""The HTTP server: images in, the rows of the command line out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from knowngood.config.version import __version__
from knowngood.deploy.api_description import ABOUT, LOCKED, judging, refusals
from knowngood.deploy.api_page import PAGE, POLICY
from knowngood.deploy.judged_store import JudgedStore
from knowngood.deploy.judgement import Row
from knowngood.deploy.keys import owner_of
from knowngood.deploy.logs import event
from knowngood.deploy.metrics import Metrics
from knowngood.deploy.middleware import BodyLimit, Observed
from knowngood.deploy.page import page_routes
from knowngood.deploy.queue import Full, Queue
from knowngood.deploy.served_model import for_sinks
from knowngood.deploy.served_models import ServedModels, exchange, exchange_changed
from knowngood.deploy.uploads import read_form, refused, uploaded
from knowngood.deploy.views import keep
from knowngood.errors import ArtifactError, KnowngoodError, OutputError

FIELDS = 20  # of a form, beside its images
LONGEST = 1 << 20  # bytes of a field
SMALL = 1 << 20  # bytes of images that are written faster than a thread takes them over
NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves.

    keys: SHA-256 digests by name; without any, nobody needs one. origins: of web pages that may use it (CORS). body:
    bytes of a request. idle: seconds without a byte after which the sender of a body is given up. queue, batch: see
    `Queue`. poll: seconds between looks for a new version of a model. sink: is given the rows of every answer, before
    it is sent. store: keeps what was judged, for the page.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    origins: Sequence[str] = ()
    body: int = 64 * 10**6
    idle: float = 60.0
    queue: int = 256
    batch: int = 32
    poll: float = 2.0
    sink: Callable[[list[Row]], None] | None = None
    store: JudgedStore | None = None


def create_app(models: ServedModels, options: ServerOptions = ServerOptions()) -> FastAPI:
    """The server of these models, as an ASGI application."""
    metrics = Metrics()
    queue = Queue(options.queue, options.batch, metrics.scored)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        queue.start()
        look = asyncio.create_task(_look_for_versions(models, options.poll))
        event("ready", models=list(models))
        yield
        look.cancel()
        await queue.close()
        event("stopped")

    about: dict[str, Any] = {"title": "knowngood", "version": __version__, "description": ABOUT}
    app = FastAPI(**about, docs_url=None, redoc_url=None, lifespan=lifespan, telemetry=NO_TELEMETRY)
    app.state.queue = queue
    allowed = [Depends(_authorised(options.keys))]

    @app.post("/v1/score", dependencies=allowed, summary="Score images", **judging("/v1/score", explain=False))
    async def score(request: Request) -> Response:
        """Anomaly score, p-value and verdict of every image, in the order of the files."""
        return await _answer(request, models, queue, options, metrics, explain=False)

    @app.post("/v1/explain", dependencies=allowed, summary="Explain images", **judging("/v1/explain", explain=True))
    async def explain(request: Request) -> Response:
        """The same, and why: where, against what, and how the image compares with normal ones."""
        return await _answer(request, models, queue, options, metrics, explain=True)

    @app.get("/v1/models", dependencies=allowed, summary="List the models", responses=refusals(LOCKED))
    async def list_models() -> dict[str, Any]:
        """The models, their versions, conditions and false-alarm rates."""
        return {"models": [model.describe() for model in models.values()]}

    absent = {404: "there is no such model", 409: "the new version cannot be loaded; the former one stays"}

    @app.post(
        "/v1/models/{name}/reload",
        dependencies=allowed,
        summary="Take a new version of a model into use",
        responses=refusals(LOCKED | absent),
    )
    async def reload(name: str) -> dict[str, Any]:
        """Load the version that is in use on the disk. Requests that were accepted keep the one they began with."""
        if name not in models:
            raise HTTPException(404, f"there is no model '{name}'; served: {', '.join(models)}")
        return (await run_in_threadpool(exchange, models, name)).describe()

    async def judge(request: Request) -> Response:
        return await _answer(request, models, queue, options, metrics, explain=True, source="page")

    app.include_router(page_routes(models, queue, options.store, judge, allowed))

    @app.get("/healthz", summary="Whether the server runs")
    async def healthy() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the server takes images", responses={503: {"description": "it is closing"}})
    async def ready() -> Response:
        return JSONResponse({"status": "closing" if queue.closing else "ready"}, 503 if queue.closing else 200)

    @app.get(
        "/metrics",
        dependencies=allowed,
        summary="Counts for Prometheus",
        response_class=PlainTextResponse,
        responses=refusals(LOCKED),
    )
    async def counts() -> Response:
        versions = [(model.name, model.mark) for model in models.values()]
        return Response(metrics.text(queue.held, versions), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    for kind in (StarletteException, RequestValidationError, KnowngoodError, Full):
        app.add_exception_handler(kind, _refusal)
    if options.origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(BodyLimit, most=options.body, idle=options.idle)  # type: ignore[arg-type]
    app.add_middleware(Observed, metrics=metrics)  # type: ignore[arg-type]
    return app


async def _look_for_versions(models: ServedModels, seconds: float) -> None:
    logged: dict[str, str] = {}
    while True:
        await asyncio.sleep(seconds)
        await run_in_threadpool(exchange_changed, models, logged)


async def _answer(
    request: Request,
    models: ServedModels,
    queue: Queue,
    options: ServerOptions,
    metrics: Metrics,
    *,
    explain: bool,
    source: str = "api",
) -> Response:
    """The rows of the images of a request; 422 if none of them can be read."""
    facts: dict[str, Any] = request.state.facts
    with queue.place() as place:
        sent = request.headers.get("content-type", "").partition(";")[0].strip()
        if sent.lower() != "multipart/form-data":  # bytes of a picture would be read as names and values
            what = f"no image: the body is {sent or 'of no content type'}"
            raise refused(f"{what}; expected a form (multipart/form-data) with files: curl -F images=@FILE", 400)
        async with request.form(max_files=options.queue, max_fields=FIELDS, max_part_size=LONGEST) as fields:
            form = read_form(fields, request.query_params, explain=explain)
            place.take(len(form.files))
            try:
                model = models.named(form.model)
            except KeyError as error:
                raise refused(error.args[0], 404 if form.model else 422) from None
            if form.asked.explain and not model.explains and source != "page":
                raise refused(model.lacks("explain"))
            for column in form.conditions:
                model.check_column(column)
            keeps = source == "page" or options.store is not None
            take = partial(uploaded, form, model.limits, shown=keeps)
            small = sum(file.size or 0 for file in form.files) <= SMALL
            upload = take() if small else await run_in_threadpool(take)
        try:
            images = upload.images
            facts |= {"model": model.name, "scored_by": model.mark, "images": len(upload.names)}
            event("accepted", request_id=request.state.request_id)
            explained = form.asked.explain and model.explains
            asked = replace(form.asked, explain=explained, keep=keeps)
            judged = await queue.score(model, images, asked)
            rows = [{**row, "id": name} for row, name in zip(judged, upload.names, strict=True)]
            if asked.keep:
                views = await run_in_threadpool(keep, options.store, model, images, rows, source)
                for row, view in zip(rows, views, strict=True) if source == "page" else ():
                    row["view"] = view
        finally:
            upload.close()
    facts |= {
        "anomalous": sum(row["is_anomalous"] is True for row in rows),
        "unread": sum(row["error"] is not None for row in rows),
    }
    metrics.judged(model.name, rows)
    if options.sink is not None:
        kept = [{**row, "key": uuid.uuid4().hex} for row in for_sinks(rows, model)]
        await run_in_threadpool(options.sink, kept)
    content: dict[str, Any] = {"request_id": request.state.request_id}
    about = model.describe()
    content |= {"model": model.name, "version": about["version"], "scored_by": model.mark}
    content |= {"alpha": about["alpha"] if form.asked.alpha is None else form.asked.alpha, "rows": rows}
    if all(row["error"] is not None for row in rows):
        why = f"no image can be scored (of {len(rows):,}); the first, {rows[0]['id']}: {rows[0]['error']}"
        return JSONResponse({"detail": why, **content}, 422)
    return JSONResponse(content)


def _authorised(keys: Mapping[str, str]) -> Callable[[Request], None]:
    """Lets a request pass that has one of the keys; all, if there are none. It is asked before the body is read."""

    def check(request: Request) -> None:
        if not keys:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
        owner = owner_of(key, keys)
        if owner is None:
            why = "this key is not known" if key else "a key is needed: Authorization: Bearer KEY"
            raise HTTPException(401, why, {"WWW-Authenticate": "Bearer"})
        request.state.facts["key"] = owner

    return check


def _refusal(request: Request, error: Exception) -> Response:
    """Why a request is not answered, as JSON."""
    headers = dict(getattr(error, "headers", None) or {})
    status = getattr(error, "status_code", 422)
    if isinstance(error, ArtifactError | OutputError):
        status = 409 if isinstance(error, ArtifactError) else 500
    if isinstance(error, Full):
        status, headers = 503, {"Retry-After": str(error.retry_after)}
    why = getattr(error, "detail", None) or str(error)
    return JSONResponse({"detail": why, "request_id": request.state.request_id}, status, headers)
