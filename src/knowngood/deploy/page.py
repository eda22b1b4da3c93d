"""The page: what people do with a browser. It is served with the API, and asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from knowngood.config.version import __version__
from knowngood.data import ImageSet
from knowngood.data.findings import Unreadable
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judged_store import LONGEST, MOST_REGIONS, ORDERS, VERDICTS, Box, Filter, JudgedStore, Review
from knowngood.deploy.judgement import Asked
from knowngood.deploy.line import Line
from knowngood.deploy.queue import Queue
from knowngood.deploy.review_job import ReviewJob
from knowngood.deploy.review_routes import review_routes
from knowngood.deploy.served_model import ServedModel
from knowngood.deploy.served_models import ServedModels
from knowngood.deploy.views import as_images, coloured, drawn, large
from knowngood.errors import DataError, SettingsError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
PRIVATE = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
MOST = 480  # judgements at once
SLIDERS = 8  # latent dimensions of a picture that can be moved, those of the highest KL


class Said(BaseModel):
    """A review as the page sends it; `verdict` None takes back the one before."""

    model_config = ConfigDict(extra="forbid")

    verdict: str | None
    who: str = Field("", max_length=LONGEST["who"])
    kind: str = Field("", max_length=LONGEST["kind"])
    regions: list[tuple[int, int, int, int]] = Field([], max_length=MOST_REGIONS)
    note: str = Field("", max_length=LONGEST["note"])


def page_routes(
    models: ServedModels,
    queue: Queue,
    store: JudgedStore | None,
    judge: Callable[[Request], Awaitable[Response]],
    allowed: Sequence[Any],
) -> APIRouter:
    """The page at `/`, and what it asks for below `/page`. `judge` answers a form of images."""
    routes = APIRouter(include_in_schema=False)
    own = [*allowed, Depends(_same_site)]
    line = None if store is None else Line(store)
    job = None if store is None else ReviewJob(models, store)
    if store is not None and job is not None:
        routes.include_router(review_routes(models, store, job, own))

    def kept() -> JudgedStore:
        if store is None:
            raise HTTPException(404, "nothing is kept: the server was started with --no-keep")
        return store

    def found(number: int, picture: bool = False) -> dict[str, Any]:
        try:
            return (kept().picture if picture else kept().one)(number)
        except KeyError as error:
            raise HTTPException(404, error.args[0]) from None
        except OverflowError:
            raise HTTPException(404, f"there is no judged image {number:.6g}") from None

    def named(name: str | None) -> ServedModel:
        try:
            return models.named(name)
        except KeyError as error:
            raise HTTPException(404, error.args[0]) from None

    @contextmanager
    def again(number: int) -> Iterator[tuple[ServedModel, ImageSet]]:
        """Within, the model in use for a judged image, and this image to look at again."""
        about = found(number)
        model = named(about["model"])
        with as_images({**about, **found(number, picture=True)}, model.limits) as images:
            try:
                yield model, images
            except (DataError, SettingsError, Unreadable) as error:
                raise HTTPException(422, str(error)) from None

    @routes.get("/")
    async def page() -> Response:
        return HTMLResponse(_file("page.html.j2"), headers={**SAFE, "Cache-Control": "no-cache"})

    @routes.get("/page.css")
    async def style() -> Response:
        return Response(_file("page.css.j2"), media_type="text/css", headers={"Cache-Control": "no-cache"})

    @routes.get("/page.js")
    async def script() -> Response:
        return Response(_file("page.js"), media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @routes.get("/page/models", dependencies=own)
    def list_models() -> dict[str, Any]:
        each = [
            {**model.describe(), "card": model.card, "reviews": None if job is None else job.state(model)}
            for model in models.values()
        ]
        return {"models": each, "keeps": store is not None, "folder": str(store.folder.absolute()) if store else None}

    @routes.post("/page/judge", dependencies=own)
    async def judge_images(request: Request) -> Response:
        return await judge(request)

    @routes.get("/page/normal/{name}/{reference}", dependencies=own)
    def normal(name: str, reference: int) -> Response:
        image = named(name).normal_image(reference)
        if image is None:
            raise HTTPException(404, "this model keeps no normal image to compare with")
        return _picture(*drawn(image, 640), headers={})

    @routes.get("/page/state", dependencies=own)
    def state() -> dict[str, Any]:
        return {"stamp": None if store is None else store.stamp(), "models": [one.mark for one in models.values()]}

    @routes.get("/page/judged", dependencies=own)
    def judged(
        request: Request,
        order: str = "newest",
        first: int = Query(0, ge=0, lt=1 << 63),
        most: int = Query(48, ge=1, le=MOST),
    ):
        if order not in ORDERS:
            raise HTTPException(422, f"order = '{order:.40}'; expected {' or '.join(ORDERS)}")
        total, items = kept().page(_filter(request), order, first, most)
        return {"total": total, "items": items, "counts": kept().counts(), **kept().values()}

    @routes.get("/page/judged/{number}", dependencies=own)
    def one(number: int) -> dict[str, Any]:
        seen = found(number, picture=True)
        return {**found(number), "legend": str(seen["scale"][-1]) if seen["map"] else ""}

    @routes.get("/page/judged/{number}/latents", dependencies=own)
    def latents(number: int, z: str = Query("", max_length=2000)) -> dict[str, Any]:
        """The latent dimensions of a judged image, and what is decoded with those in `z`, as 3:1.5,7:-2, moved."""
        moved = _moved(z)
        with again(number) as (model, images):
            dims, made = model.code(images, moved)
        kind, content = drawn(made, 640)
        return {"dims": dims[:SLIDERS], "picture": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}

    @routes.get("/page/judged/{number}/{view}", dependencies=own)
    def view(number: int, view: str) -> Response:
        record = found(number, picture=True)
        if view == "thumbnail" and record["thumbnail"]:
            png = record["thumbnail"].startswith(b"\x89PNG")
            return _picture("png" if png else "jpeg", record["thumbnail"])
        if view == "map" and record["map"]:
            return _picture("png", coloured(record["map"], record["scale"]))
        if view == "picture":
            about = found(number)
            model = models.get(about["model"])
            bounds = Limits().with_settings(models.bounds) if model is None else model.limits
            try:
                return _picture(*large({**about, **record}, bounds))
            except Unreadable as error:
                raise HTTPException(422, error.reason) from None
        if view == "compared":
            with again(number) as (model, images):
                image = model.compared_image(images)
            if image is not None:
                return _picture(*drawn(image, 640))
        raise HTTPException(404, f"the judged image {number} has no {view:.40}")

    @routes.post("/page/judged/{number}/why", dependencies=own)
    async def why(number: int) -> dict[str, Any]:
        """Sentences that explain it, by the version that is in use now."""
        about = await run_in_threadpool(found, number)
        model = named(about["model"])
        if about["why"]:
            return {"why": about["why"], "scored_by": about["scored_by"]}
        if not model.explains:
            raise HTTPException(409, model.lacks("explain"))
        record = await run_in_threadpool(found, number, True)
        with queue.place(), as_images({**about, **record}, model.limits) as images:
            row = (await queue.score(model, images, Asked(unknown="infer", explain=True)))[0]
        if row["error"] is not None:
            raise HTTPException(422, row["error"])
        sentences = row["explanation"]["sentences"]
        if model.mark == about["scored_by"]:
            await run_in_threadpool(kept().explain, number, sentences)
        return {"why": sentences, "scored_by": model.mark}

    @routes.post("/page/judged/{number}/review", dependencies=own)
    def review(number: int, said: Said, request: Request) -> dict[str, Any]:
        about = found(number)
        if said.verdict is not None and said.verdict not in VERDICTS:
            raise HTTPException(422, f"verdict = '{said.verdict:.40}'; expected {', '.join(VERDICTS)} or null")
        regions = tuple(_within(box, about["height"], about["width"]) for box in said.regions)
        who = request.state.facts.get("key") or said.who
        try:
            kept().review(number, Review(said.verdict, who, said.kind.strip(), regions, said.note))  # type: ignore[arg-type]
        except DataError as error:
            raise HTTPException(422, str(error)) from None
        return found(number)

    @routes.get("/page/line", dependencies=own)
    def statistics(request: Request, model: str | None = None) -> dict[str, Any]:
        kept()
        assert line is not None
        return line.describe(named(model), _filter(request))

    return routes


@cache
def _file(name: str) -> str:
    """A template of this package; style sheets may include those of the reports."""
    package = Path(__file__).parents[1]  # by path: the package of the reports would import its plots
    loader = FileSystemLoader([package / "deploy" / "templates", package / "evaluation" / "report" / "templates"])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    if name.endswith(".js"):
        return loader.get_source(environment, name)[0]
    return environment.get_template(name).render(version=__version__)


def _filter(request: Request) -> Filter:
    given = request.query_params
    return Filter(**{one.name: given[one.name] for one in fields(Filter) if one.name in given})


def _moved(text: str) -> dict[int, float]:
    """Positions by latent dimension."""
    found = {}
    for part in filter(None, text.split(",")):
        dim, _, position = part.partition(":")
        try:
            found[int(dim)] = float(position)
        except ValueError:
            raise HTTPException(422, f"z = '{part:.40}'; expected DIMENSION:POSITION") from None
        if not math.isfinite(found[int(dim)]):
            raise HTTPException(422, f"z = '{part:.40}'; expected a finite position")
    return found


def _picture(kind: str, content: bytes, headers: dict[str, str] = PRIVATE) -> Response:
    return Response(content, media_type=f"image/{kind}", headers=headers)


def _within(box: Box, height: int | None, width: int | None) -> Box:
    top, left, bottom, right = box
    if not (0 <= top < bottom <= (height or 0) and 0 <= left < right <= (width or 0)):
        raise HTTPException(422, f"region {list(box)} is not within the picture, {width} × {height} pixels")
    return box


def _same_site(request: Request) -> None:
    """Refuses what a page of another site makes a browser send."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "this is for the page of this server")
