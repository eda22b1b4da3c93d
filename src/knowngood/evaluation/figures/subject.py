"""What is drawn: fitted detectors and images. All that figures show of them is computed here, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from knowngood.config import Elbo, nearest
from knowngood.data import ImageSet
from knowngood.data.select import natural
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.figures.pixels import map_of_size

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.calibration.map_scale import MapScale
    from knowngood.data.conditions import Expanded, Unknown
    from knowngood.detector.estimator import Detector
    from knowngood.detector.pipeline import Pipeline
    from knowngood.detector.scoring import Rows
    from knowngood.models.vae import ConditionalVAE

MOST_CODED = 2000  # images that averages over codes are taken from
ROWS = 256  # codes decoded at a time


class Codes(NamedTuple):
    """Posteriors of N images under the condition that is given or explains them best."""

    mean: np.ndarray  # (N, D)
    kl: np.ndarray  # (N, D) nats, of the posterior from the prior
    c: np.ndarray | None  # (N, W) encoded conditions


class Reconstructed(NamedTuple):
    """One model's reconstructions of N images, with their scores."""

    images: np.ndarray  # (N, H, W, C), scaled like the inputs
    e: np.ndarray  # (N,) E(x) = −ELBO in nats
    a: np.ndarray  # (N,) A(x) = ‖x − x̂‖₂
    conditions: np.ndarray | None = None  # (N,) text: those it was decoded under; None for a model without


class Conditions(NamedTuple):
    """The K conditions of a model. An unconditional model has one without a name."""

    names: list[str] | None
    c: np.ndarray | None  # (K, W)
    what: str  # the column, or "condition" where there are several


@dataclass(frozen=True)
class Subject:
    """Detectors by name, the first being the one in question, and images with labels and classes.

    Args:
        hidden: columns that group the images but that the models do not see.
    """

    models: dict[str, Detector]
    images: ImageSet | None = None
    hidden: tuple[str, ...] = ()
    unknown: Unknown | None = None

    @property
    def detector(self) -> Detector:
        return next(iter(self.models.values()))

    def data(self) -> ImageSet:
        """The images. Raises SettingsError or DataError if there are none."""
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
        """The images with these ids, in this order. Raises DataError for an unknown id."""
        images = self.data()
        known = {str(name): i for i, name in enumerate(images.ids)}
        for name in ids:
            if name not in known:
                raise DataError(f"{images.name} has no image '{name}'" + nearest(name, list(known), most=5))
        return images[np.array([known[name] for name in ids])]

    def groups(self, images: ImageSet, by: str | None) -> np.ndarray | None:
        """(N,) text of the column `by`; by default that of "class", None if there is none."""
        column = "class" if by is None and "class" in images.conditions else by
        if column is None:
            return None
        if column not in images.conditions:
            raise DataError(f"the data has no column '{column}'" + nearest(column, list(images.conditions)))
        return np.array(["unknown" if v is None or v != v else str(v) for v in images.conditions[column].tolist()])

    def visible(self, images: ImageSet, detector: Detector | None = None) -> ImageSet:
        """The images with just the columns that the model knows and that are not hidden."""
        schema = (detector or self.detector).pipeline_.schema
        known = {column.name for column in schema.columns} - set(self.hidden)
        return images.replace(conditions={k: v for k, v in images.conditions.items() if k in known})

    # Arrays ---------------------------------------------------------------------------------------------------------

    def table(self, detector: Detector | None = None) -> DataFrame:
        """Verdicts on all images, see `Detector.detect`, one row an image; NaN where one could not be read."""
        images = self.data()
        detector = detector or self.detector
        return detector.detect(self.visible(images, detector), unknown=self.unknown).iloc[: len(images)]

    @torch.no_grad()
    def codes(self, images: ImageSet) -> Codes:
        """Posterior means, KLs and conditions of the images."""
        model, means, kls, conditions = vae(self.detector), [], [], []
        for chunk in self._rows(images, self.detector):
            posterior = model.encode(chunk.x, chunk.c)
            means.append(posterior.mean.cpu().numpy())
            kls.append(posterior.kl(model.prior(chunk.c, like=posterior.mean)).cpu().numpy())
            conditions += [] if chunk.c is None else [chunk.c.cpu().numpy()]
        return Codes(np.concatenate(means), np.concatenate(kls), np.concatenate(conditions) if conditions else None)

    def mean_kl(self) -> np.ndarray:
        """(D,) nats of each dimension, averaged over at most 2,000 of the images that are not labelled anomalous."""
        images = self.data()
        normals = images[images.labels != 1]
        return self.codes(self.sample(MOST_CODED, normals if len(normals) else images)).kl.mean(0, dtype=float)

    def relevance(self) -> np.ndarray | None:
        """(D,) from 0 to 1, the relevance of each dimension that `rf_vae` learned; None for another objective."""
        from knowngood.models.objectives.rf_vae import SPEED

        raw = self.detector.pipeline_.objective_state.get("raw_relevance")
        return None if raw is None else (SPEED * raw.double()).sigmoid().cpu().numpy()

    @torch.no_grad()
    def reconstructed(self, images: ImageSet, detector: Detector | None = None) -> tuple[np.ndarray, Reconstructed]:
        """Inputs (N, H, W, C), scaled, and one model's reconstructions of them with E and A."""
        detector = detector or self.detector
        model, elbo = vae(detector), Elbo().build()
        state = elbo.fit(model, [])
        inputs, made, e = [], [], []
        taken = self._taken(images, detector)
        for chunk in self._rows(images, detector, taken):
            inputs.append(chunk.x.cpu().numpy())
            made.append(model.reconstruct(chunk.x, chunk.c).cpu().numpy())
            e.append(elbo.score(model, state, chunk.x, chunk.c, chunk.stratum).values.cpu().numpy())
        x, y = channels_last(inputs), channels_last(made)
        a = np.sqrt(np.square(x - y).sum((1, 2, 3), dtype=float))
        return x, Reconstructed(y, np.concatenate(e), a, self._texts(taken, detector))

    def pairs(self, images: ImageSet) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[MapScale]]:
        """Each image with its reconstruction; of a model without, with its anomaly map, and the scales of the maps."""
        from knowngood.evaluation.figures.pixels import displayed, thinned

        pipeline = self.detector.pipeline_
        if makes_images(pipeline):
            inputs, made = self.reconstructed(images)
            return list(zip(inputs, made.images, strict=True)), []
        found, scales = [], []
        if not pipeline.score.has_map:
            return found, scales
        for batch in self.detector.stream(self.visible(images), unknown=self.unknown, maps=True):
            for i, (values, scale) in enumerate(zip(batch.maps, batch.scales, strict=True)):
                if values is None or scale is None:
                    raise DataError(f"{batch.items.ids[i]}: {batch.decisions.errors.get(i)}")
                shown = displayed(thinned(batch.items.read(i)))  # type: ignore[union-attr]
                found.append((shown, map_of_size(values, shown.shape[:2])))
                scales.append(scale)
        return found, scales

    @torch.no_grad()
    def decoded(self, z: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        """(..., H, W, C) decoder means of codes z (..., D) under conditions c (..., W), scaled."""
        model, made = vae(self.detector), []
        rows, given = _tensor(z, model), None
        if c is not None:
            given = _tensor(np.broadcast_to(c, (*z.shape[:-1], c.shape[-1])), model)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            parameters = model.decode(rows[part], None if given is None else given[part])
            made.append(model.likelihood.mean(parameters).cpu().numpy())
        images = channels_last(made)
        return images.reshape(*z.shape[:-1], *images.shape[1:])

    def conditions(self, only: Sequence[str] | None = None) -> Conditions:
        """The conditions of the model, or those in `only`: a value, or the full text where columns are several.

        If some column may not be inferred, the schema keeps no list of combinations; the images' own conditions are
        taken then.
        """
        schema, settings = self.detector.pipeline_.schema, self.detector.pipeline_.settings
        if not vae(self.detector).condition_dim:
            if only:
                raise SettingsError(f"the model has no conditions, so there is no '{only[0]}' among them")
            return Conditions(None, None, "")
        if all("infer" in column.roles for column in schema.columns if column.roles):
            rows = schema.expand({}, 1, unknown="infer")
        else:
            images = self.visible(self.data())
            rows = schema.expand(images.conditions, len(images), unknown=self.unknown or settings.conditioning.unknown)
        used = [column.name for column in schema.columns if column.width]
        what = used[0] if len(used) == 1 else "condition"
        named = {str(text): i for i, text in reversed(list(enumerate(self._texts(rows, self.detector))))}  # type: ignore[arg-type]
        names = list(only) if only else sorted(named, key=natural)
        for name in names:
            if name not in named:
                raise SettingsError(f"the model has no condition '{name}'" + nearest(name, sorted(named, key=natural)))
        return Conditions(names, rows.c[[named[name] for name in names]], what)

    @torch.no_grad()
    def prior(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the prior under each condition, (K, D) each."""
        model = vae(self.detector)
        c = None if conditions.c is None else _tensor(conditions.c, model)
        like = _tensor(np.zeros((1 if c is None else len(c), model.latent_dim)), model)
        found = model.prior(c, like=like)
        return found.mean.cpu().numpy(), (0.5 * found.log_var).exp().cpu().numpy()

    def _taken(self, images: ImageSet, detector: Detector) -> Expanded:
        """The condition of each image: its own, or the one that explains it best."""
        from knowngood.detector.latents import best_conditions

        return best_conditions(detector.pipeline_, self._seen(images, detector), self.unknown)

    def _rows(self, images: ImageSet, detector: Detector, taken: Expanded | None = None) -> Iterator[Rows]:
        """One row an image, under the condition of `_taken`."""
        from knowngood.detector.scoring import one_row_each

        taken = self._taken(images, detector) if taken is None else taken
        return one_row_each(detector.pipeline_, self._seen(images, detector), taken)

    def _seen(self, images: ImageSet, detector: Detector) -> ImageSet:
        """The images with the columns that the model knows, measured ones too."""
        from knowngood.detector.fit.inputs import measured

        pipeline = detector.pipeline_
        return measured(self.visible(images, detector), pipeline.settings, pipeline.schema)  # type: ignore[return-value]

    def _texts(self, rows: Expanded, detector: Detector) -> np.ndarray | None:
        """The conditions of these rows in words, without the name of a column that is the only one."""
        if not vae(detector).condition_dim:
            return None
        columns = detector.pipeline_.schema.columns
        prefix = f"{columns[0].name}=" if len(columns) == 1 else ""
        return np.array([str(label).removeprefix(prefix) for label in rows.label])


def vae(detector: Detector) -> ConditionalVAE:
    """The VAE of a detector on pixels, ready to evaluate.

    Raises:
        SettingsError: the detector has another model or representation, which make no pictures.
    """
    model, representation = detector.pipeline_.model, detector.pipeline_.representation
    if not makes_images(detector.pipeline_):
        raise SettingsError(
            "this figure shows latent codes and reconstructions of a VAE on pixels; this detector is "
            f"{model.kind} on {type(representation).__name__.lower()}. Train with --representation pixels --model vae; "
            "`knowngood score --explain DIR` shows where and why an image is anomalous under any model"
        )
    return model.eval()  # type: ignore[return-value]


def makes_images(pipeline: Pipeline) -> bool:
    """The model is a VAE on pixels: it has latent codes and reconstructions."""
    from knowngood.representations import Pixels

    return pipeline.model.kind == "vae" and isinstance(pipeline.representation, Pixels)


def channels_last(parts: list[np.ndarray]) -> np.ndarray:
    """Batches (B, C, H, W) as one (N, H, W, C)."""
    return np.moveaxis(np.concatenate(parts), 1, -1)


def spread(n: int, most: int) -> np.ndarray:
    """At most `most` of 0 … n − 1, evenly spaced, the same every time."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _tensor(values: np.ndarray, model: ConditionalVAE) -> torch.Tensor:
    """(..., D) as rows (R, D) of float32 on the model's device."""
    rows = torch.from_numpy(np.array(values, np.float32)).reshape(-1, values.shape[-1])
    return rows.to(next(model.parameters()).device)
