"""What the page asks for to learn from reviews, to go back, and to draw a random sample."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from knowngood.deploy.judged_store import JudgedStore
from knowngood.deploy.review_job import ReviewJob
from knowngood.deploy.served_model import ServedModel
from knowngood.deploy.served_models import ServedModels, exchange
from knowngood.detector.versions import rollback
from knowngood.errors import DataError


class Sample(BaseModel):
    """How many more images of a model are drawn."""

    model_config = ConfigDict(extra="forbid")

    model: str
    images: int = Field(ge=10, le=1000)


def review_routes(models: ServedModels, store: JudgedStore, job: ReviewJob, own: list[Any]) -> APIRouter:
    """Routes below `/page/models` and `/page/sample`, for pages of this server alone (`own`)."""
    routes = APIRouter(include_in_schema=False)

    def named(name: str) -> ServedModel:
        try:
            return models.named(name)
        except KeyError as error:
            raise HTTPException(404, error.args[0]) from None

    @routes.post("/page/models/{name}/learn", dependencies=own)
    def learn(name: str) -> dict[str, Any] | None:
        """Begin to learn from the reviews of a model."""
        try:
            job.start(named(name).name)
        except DataError as error:
            raise HTTPException(409, str(error)) from None
        return job.state(named(name))

    @routes.post("/page/models/{name}/rollback", dependencies=own)
    def go_back(name: str) -> dict[str, Any]:
        """Take the version before the one in use into use."""
        model = named(name)
        if not model.learns:
            raise HTTPException(409, model.lacks("roll back"))
        rollback(model.path)
        return exchange(models, name).describe()

    @routes.post("/page/sample", dependencies=own)
    def sample(asked: Sample) -> dict[str, Any]:
        """Draw images at random, to be reviewed."""
        return {"drawn": len(store.sample(asked.images, named(asked.model).name))}

    return routes
