"""All that shapes a fit: the choices that `Detector` takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from knowngood.config.base import Options, named
from knowngood.config.groups import ON_PIXELS, CalibrationOptions, Conditioning, DataOptions, TrainingOptions
from knowngood.config.models import ModelChoice, ModelOptions, PatchGaussianOptions, SharedGaussianOptions
from knowngood.config.nets import Bernoulli
from knowngood.config.representations import (
    AutoOptions,
    FeatureOptions,
    HOGOptions,
    PixelOptions,
    RepresentationOptions,
    TableOptions,
)
from knowngood.config.scores import ScoreChoice, ScoreOptions


class Shift(Options):
    """DAn-VAE: labelled anomalies get the prior N(shift·1, I) in training; the decoder does not learn from them."""

    implementation = "knowngood.models.objectives.penalties:Labelled"
    name: Literal["shift"] = "shift"
    weight: float = Field(default=1.0, ge=0, description="beside the loss of normal items")
    warmup: float = Field(default=0.25, ge=0, lt=1, description="share of all steps on normal items only")
    shift: float = Field(default=10.0, gt=0, description="mean of their prior, in every dimension")


def _default(value: Any) -> Any:
    """None stands for the defaults of a group."""
    return {} if value is None else value


def _method(value: Any) -> Any:
    """A plain name as the method of that name."""
    return {"method": value} if isinstance(value, str) else _default(value)


def _labels(value: Any) -> Any:
    """A plain name as the choice of that name."""
    return value if value in ("auto", "ignore") else named(value)


class Settings(BaseModel):
    """All that shapes a fit. `Detector(...)` takes the same names with the same defaults.

    A choice is a name, a mapping of a name and options, or an option model; a group is a mapping of options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    representation: RepresentationOptions = Field(
        default=AutoOptions(),
        description="what the model sees; auto: features of photographs, HOG of small pictures, table columns",
    )
    model: Literal["auto"] | ModelChoice = Field(
        default="auto", description="what learns; auto: patch_gaussian on features, vae on everything else"
    )
    score: Literal["auto"] | ScoreChoice = Field(
        default="auto",
        description="the anomaly score; a list of scores is their fusion; auto: the best known of the model",
    )
    conditioning: Annotated[Conditioning, BeforeValidator(_default)] = Field(
        default=Conditioning(), description="roles of condition columns, measured image factors, unknown values"
    )
    alpha: float = Field(default=0.05, gt=0, lt=1, description="false-alarm rate that `predict` and `detect` use")
    calibration: Annotated[CalibrationOptions, BeforeValidator(_method)] = Field(
        default=CalibrationOptions(), description="split or cross-conformal, and its fractions or folds"
    )
    labels: Annotated[Literal["auto", "ignore"] | Shift, BeforeValidator(_labels)] = Field(
        default="auto",
        description="labelled anomalies; auto: add a learned penalty to the score if cross-validation improves AUROC "
        "(on features: raise the score of what looks like one), or what the objective defines; ignore: leave them out",
    )
    data: Annotated[DataOptions, BeforeValidator(_default)] = Field(
        default=DataOptions(), description="ignored regions, tiles, tolerance for unreadable files"
    )
    training: Annotated[TrainingOptions, BeforeValidator(_default)] = Field(
        default=TrainingOptions(), description="epochs, batch size, learning rate and so on; for models with a network"
    )
    device: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        default="auto", description="where to compute; auto: a GPU if there is one"
    )
    random_state: int | None = Field(
        default=0, ge=0, lt=2**32, description="seed of the split, the weights and every draw"
    )

    @model_validator(mode="after")
    def _training_of_pixels(self) -> Settings:
        """The defaults of pixels where the training options say nothing."""
        if isinstance(self.representation, PixelOptions):
            values = {name: value for name, value in ON_PIXELS.items() if name not in self.training.model_fields_set}
            object.__setattr__(self, "training", self.training.model_copy(update=values))  # frozen for all others
        return self

    @model_validator(mode="after")
    def _choices_fit_together(self) -> Settings:
        representation, model, score = self.representation, self.model, self.score
        takes = model.representations if isinstance(model, ModelOptions) else None
        if takes is not None and not isinstance(representation, AutoOptions) and representation.name not in takes:
            raise ValueError(
                f"model '{model.name}' takes {' or '.join(takes)}, not representation '{representation.name}'; "  # type: ignore[union-attr]
                "change one of them, or leave model='auto'"
            )
        if isinstance(score, ScoreOptions) and isinstance(model, ModelOptions):
            score.check_model(model.name)
        likelihood = getattr(model, "likelihood", None)
        if isinstance(likelihood, Bernoulli) and isinstance(representation, HOGOptions | TableOptions):
            raise ValueError(
                f"likelihood 'bernoulli' is of values from 0 to 1, and those of representation '{representation.name}' "
                "are not; leave likelihood='auto', or take representation='pixels'"
            )
        tile, ignore = self.data.tile if isinstance(self.data.tile, int) else None, self.data.ignore
        if (tile or ignore is not None) and not isinstance(representation, AutoOptions | FeatureOptions):
            asked = "tile" if tile else "ignore"
            raise ValueError(
                f"data: {asked} needs representation 'features', which has locations; got '{representation.name}'"
            )
        if (
            ignore is not None
            and isinstance(model, ModelOptions)
            and not isinstance(model, PatchGaussianOptions | SharedGaussianOptions)
        ):
            raise ValueError(
                f"data: ignore needs a model that knows which locations count, patch_gaussian or shared_gaussian; "
                f"'{model.name}' compares them all; leave model='auto'"  # type: ignore[union-attr]
            )
        if not isinstance(representation, FeatureOptions):
            return self
        for name in ("align", "illumination") if tile else ():
            if getattr(representation, name) not in ("none", "auto", None):
                raise ValueError(f"features: {name} compares whole images, tile = {tile} cuts them; leave one out")
        if representation.align == "pose" and (ignore is not None or representation.crop or representation.pad):
            raise ValueError("features: align = pose finds the part and crops to it; leave ignore, crop and pad out")
        if (representation.crop or representation.pad) and (tile or ignore is not None):
            raise ValueError("data: tile and ignore refer to images as they are; leave crop and pad out")
        return self
