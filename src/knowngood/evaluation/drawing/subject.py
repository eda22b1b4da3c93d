"""What is drawn: fitted detectors and images. Everything that figures show is computed here, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from knowngood.config import Elbo, Reconstruction, nearest
from knowngood.data import ImageSet
from knowngood.data.select import sort_classes
from knowngood.detector.fit.given import measured
from knowngood.detector.rows import Unknown, rows_at_once
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.figures import Reconstructed
from knowngood.models.objectives.rf_vae import SPEED
from knowngood.representations import Edges, Features, Pixels

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.detector.estimator import Detector

MOST_CODED = 2000  # images that averages over codes are taken from


class Codes(NamedTuple):
    """Posteriors of N images under the condition that is known or explains them best; of features, means of places."""

    mean: np.ndarray  # (N, D)
    kl: np.ndarray  # (N, D) nats, of the posterior from the prior
    c: np.ndarray | None  # (N, W) encoded conditions


class Conditions(NamedTuple):
    """The K conditions a model knows. An unconditional model has one without a name."""

    names: list[str] | None
    c: np.ndarray | None  # (K, W)
    what: str  # the column, or "condition" where there are several


@dataclass(frozen=True)
class Subject:
    """Detectors by name, the first being the one in question, and images with labels and classes.

    hidden: columns that group the images but that the models are not shown.
    """

    models: dict[str, Detector]
    images: ImageSet | None = None
    hidden: tuple[str, ...] = ()
    unknown: Unknown | None = None

    @property
    def detector(self) -> Detector:
        return next(iter(self.models.values()))

    @property
    def unit(self) -> str:
        """Of the anomaly score."""
        return "nats" if self.detector.pipeline_.score.is_likelihood else ""

    def data(self) -> ImageSet:
        """The images. Raises SettingsError if there are none."""
        if self.images is None:
            raise SettingsError("this figure shows images: name them after the model (a folder, file or data set)")
        if not len(self.images):
            raise DataError(f"{self.images.name}: no image is left to draw")
        return self.images

    def sample(self, most: int, images: ImageSet | None = None) -> ImageSet:
        """At most so many of the images, evenly spread over their order."""
        images = self.data() if images is None else images
        return images if len(images) <= most else images[spread(len(images), most)]

    def chosen(self, ids: Sequence[str]) -> ImageSet:
        """The images with these ids, in this order. Raises DataError for an id that is not there."""
        images = self.data()
        known = {str(name): i for i, name in enumerate(images.ids)}
        for name in ids:
            if name not in known:
                raise DataError(f"{images.name} has no image '{name}'" + nearest(name, list(known)))
        return images[np.array([known[name] for name in ids])]

    def groups(self, images: ImageSet, by: str | None) -> np.ndarray | None:
        """(N,) text of the column `by`; by default that of "class", None if there is none."""
        column = "class" if by is None and "class" in images.conditions else by
        if column is None:
            return None
        if column not in images.conditions:
            known = list(images.conditions)
            raise DataError(
                f"the data has no column '{column}'"
                + (nearest(column, known) if known else "; it has no columns at all")
            )
        return np.array(["unknown" if v is None or v != v else str(v) for v in images.conditions[column].tolist()])

    def shown(self, images: ImageSet, detector: Detector | None = None) -> ImageSet:
        """The images as a model is shown them: with just the columns it knows and that are not hidden."""
        pipeline = (detector or self.detector).pipeline_
        known = {column.name for column in pipeline.schema.columns} - set(self.hidden)
        told = images.replace(conditions={k: v for k, v in images.conditions.items() if k in known})
        return measured(told, pipeline.settings, pipeline.schema)  # type: ignore[return-value]

    # Arrays ---------------------------------------------------------------------------------------------------------

    def table(self, detector: Detector | None = None) -> DataFrame:
        """Verdicts on all images, see `Detector.detect`, one row an image; NaN where one could not be read."""
        images = self.data()
        detector = detector or self.detector
        return detector.detect(self.shown(images, detector), unknown=self.unknown).iloc[: len(images)]

    @torch.no_grad()
    def codes(self, images: ImageSet) -> Codes:
        """Posterior means, KLs and conditions of the images."""
        model, means, kls, conditions = self.detector.model_, [], [], []
        for chunk in self.detector.pipeline_.best_rows(self.shown(images), self.unknown):
            x, c, n = chunk.x, chunk.c, len(chunk.x)
            if model.patches is not None:
                x, c = model.patches.split(x, c)
            posterior = model.encode(x, c)
            kl = posterior.kl(model.prior(c, like=posterior.mean))
            means.append(posterior.mean.unflatten(0, (n, -1)).mean(1).cpu().numpy())
            kls.append(kl.unflatten(0, (n, -1)).mean(1).cpu().numpy())
            conditions += [] if chunk.c is None else [chunk.c.cpu().numpy()]
        return Codes(np.concatenate(means), np.concatenate(kls), np.concatenate(conditions) if conditions else None)

    def mean_kl(self) -> np.ndarray:
        """(D,) nats of each dimension, averaged over at most 2,000 of the images that are not labelled anomalous."""
        images = self.data()
        good = images[images.labels != 1]
        return self.codes(self.sample(MOST_CODED, good if len(good) else images)).kl.mean(0, dtype=float)

    def relevance(self) -> np.ndarray | None:
        """(D,) from 0 to 1, which dimensions the method found to matter (`rf_vae`); None for one that does not ask."""
        raw = self.detector.pipeline_.objective_state.get("raw_relevance")
        return None if raw is None else (SPEED * raw.double()).sigmoid().cpu().numpy()

    @torch.no_grad()
    def reconstructed(self, images: ImageSet, detector: Detector | None = None) -> tuple[np.ndarray, Reconstructed]:
        """Inputs (N, H, W, C), scaled, and one model's reconstructions of them with E and A."""
        detector = detector or self.detector
        check_images(detector)
        model, elbo, distance = detector.model_, Elbo().build(), Reconstruction().build()
        state = elbo.fit(model, [])
        inputs, made, e, a = [], [], [], []
        for chunk in detector.pipeline_.best_rows(self.shown(images, detector), self.unknown):
            inputs.append(chunk.x.cpu().numpy())
            made.append(model.reconstruct(chunk.x, chunk.c).cpu().numpy())
            e.append(elbo.score(model, state, chunk.x, chunk.c, chunk.stratum).values.cpu().numpy())
            a.append(distance.score(model, {}, chunk.x, chunk.c, chunk.stratum).values.cpu().numpy())
        return channels_last(inputs), Reconstructed(channels_last(made), np.concatenate(e), np.concatenate(a))

    @torch.no_grad()
    def decoded(self, z: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        """(..., H, W, C) decoder means of codes z (..., D) under conditions c (..., W), scaled."""
        check_images(self.detector)
        model, device = self.detector.model_, self.detector.pipeline_.device
        model.eval()
        rows = torch.from_numpy(np.array(z, np.float32)).reshape(-1, z.shape[-1]).to(device)
        given = None
        if c is not None:
            wide = np.broadcast_to(c, (*z.shape[:-1], c.shape[-1])).reshape(-1, c.shape[-1])
            given = torch.from_numpy(np.array(wide, np.float32)).to(device)
        made = [
            model.likelihood.mean(model.decode(rows[part], None if given is None else given[part])).cpu().numpy()
            for part in torch.arange(len(rows), device=device).split(rows_at_once(model.shape))
        ]
        images = channels_last(made)
        return images.reshape(*z.shape[:-1], *images.shape[1:])

    def conditions(self, only: Sequence[str] | None = None) -> Conditions:
        """The conditions the model knows, or those named: by a value, or by the full text where columns are several.

        Where a column may not be inferred the model keeps no list of what goes together, and the images' own
        conditions are taken.
        """
        pipeline = self.detector.pipeline_
        used = [column for column in pipeline.schema.columns if column.width]
        if not pipeline.conditional:
            if only:
                raise SettingsError(f"the model has no conditions, so there is no '{only[0]}' among them")
            return Conditions(None, None, "")
        if all("infer" in column.roles for column in pipeline.schema.columns if column.roles):
            rows = pipeline.schema.expand({}, 1, unknown="infer")
        else:
            rows = pipeline.expand(self.shown(self.data()), self.unknown)
        first = {label: i for i, label in reversed(list(enumerate(rows.label)))}
        what = used[0].name if len(used) == 1 else "condition"
        cut = f"{what}=" if len(pipeline.schema.columns) == 1 else ""
        named = {label.removeprefix(cut): i for label, i in first.items()}
        names = sort_classes(named)
        for name in only or ():
            if name not in named:
                raise SettingsError(f"the model knows no condition '{name}'" + nearest(name, names))
        names = list(only) if only else names
        return Conditions(names, rows.c[[named[name] for name in names]], what)

    @torch.no_grad()
    def prior(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the prior under each condition, (K, D) each."""
        check_images(self.detector)
        model, device = self.detector.model_, self.detector.pipeline_.device
        c = None if conditions.c is None else torch.from_numpy(conditions.c).to(device)
        rows = 1 if conditions.c is None else len(conditions.c)
        found = model.prior(c, like=torch.zeros(rows, model.latent_dim, device=device))
        return found.mean.cpu().numpy(), (0.5 * found.log_var).exp().cpu().numpy()


def check_images(detector: Detector) -> None:
    """Raise SettingsError for a model of tables, features or edges, which makes no pictures."""
    representation = detector.pipeline_.representation
    if isinstance(representation, Features | Edges):
        what = "features" if isinstance(representation, Features) else "edges"
        raise SettingsError(
            f"this figure shows what a model of pixels makes of images; this one reconstructs their {what}, which are "
            "no pictures. `knowngood score --explain DIR` shows where and why an image is odd"
        )
    if not isinstance(representation, Pixels):
        raise SettingsError("this figure shows images; the model was fitted on a table")


def channels_last(parts: list[np.ndarray]) -> np.ndarray:
    """Batches (B, C, H, W) as one (N, H, W, C)."""
    return np.moveaxis(np.concatenate(parts), 1, -1)


def spread(n: int, most: int) -> np.ndarray:
    """At most `most` of 0 … n − 1, evenly spaced, the same every time."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
