"""What a report is made of. Only `table` and `alpha` are needed; a section without material is omitted or says so."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.evaluation.evaluate import Evaluation, results
from knowngood.evaluation.results import Results
from knowngood.metrics import auroc_interval, roc_auc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from knowngood.calibration.map_scale import MapScale
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector

GALLERY = 12  # most anomalous and as many least anomalous images
CODED, PAIRS, DRAWS, CONDITIONS = 1000, 5, 8, 16  # images in the plane, images of a label, draws a condition
LARGEST = 160  # pixels of a gallery panel's longer side


@dataclass(frozen=True)
class Card:
    """An image of the gallery with its reconstruction, or its anomaly map (H, W) and scale; a gallery has one kind.

    Image and reconstruction are (H, W) or (H, W, C), on one scale of values; with a map the image is in 0…1. `id` names
    the row of the table that the card shows: score, p-value, verdict, label and condition.
    """

    id: str
    image: np.ndarray
    reconstruction: np.ndarray | None = None
    map: np.ndarray | None = None
    scale: MapScale | None = None


@dataclass(kw_only=True)
class ReportInputs(Results):
    """Everything `write_report` draws from, beside the results themselves.

    Args:
        title: the heading, for example "digits, 9 held out".
        command: shell command that makes this report again.
        settings: nested plain values.
        most, least: the gallery, most and least anomalous first.
        model_figures: of the model itself, by the names in `figures.FIGURES`: latent, samples, reconstructions, kl.
        history: rows with `step`, `split` and named losses and terms.
        best_step: the step whose weights were kept.
        audit: findings as records: `path_or_id`, `kind`, `reason`, `severity`.
        suspicious: calibration images with the highest scores as records: `id`, `anomaly_score`.
        links: (words, address) of further files.
        environment: versions, device, seed, fingerprint: name → value.
        metrics: `auroc`, `auroc_interval` (low, high), and any other named floats. If empty, the AUROC and its interval
            are computed if there are labels of both kinds.
    """

    title: str = "Anomaly report"
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    most: Sequence[Card] = ()
    least: Sequence[Card] = ()
    model_figures: Mapping[str, Figure] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    best_step: int | None = None
    audit: Sequence[Mapping[str, Any]] = ()
    suspicious: Sequence[Mapping[str, Any]] = ()
    links: Sequence[tuple[str, str]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics and self.both_labels:
            auroc = roc_auc(self.labels, self.scores)
            self.metrics = {"auroc": auroc, "auroc_interval": auroc_interval(self.labels, self.scores)}


def report_inputs(
    detector: Detector,
    evaluation: Evaluation,
    *,
    title: str,
    command: str,
    normal_name: str = "normal",
    anomalous_name: str = "anomalous",
    classes: np.ndarray | None = None,
    links: Sequence[tuple[str, str]] = (),
) -> ReportInputs:
    """All that a report of this evaluation shows.

    Args:
        classes: (N,) what each image is, for the reader alone: the model need not have seen it.
        links: (words, address) of further files.
    """
    about, table, images = detector.about_, evaluation.table, evaluation.images
    if classes is not None:
        names = [None if value is None or value != value else str(value) for value in classes.tolist()]
        table = table.assign(**{"class": np.array(names + [None] * (len(table) - len(names)), dtype=object)})
    scored = results(detector, table, given=images.conditions, alpha=evaluation.alpha)
    scored = replace(scored, normal_name=normal_name, anomalous_name=anomalous_name)
    most, least = most_and_least(scored.scores[: len(images)], GALLERY)
    return ReportInputs(
        **vars(scored),
        title=title,
        command=command,
        links=links,
        settings=detector.pipeline_.settings.model_dump(mode="json"),
        most=cards(detector, evaluation, most),
        least=cards(detector, evaluation, least),
        model_figures=_model_figures(detector, evaluation, classes, scored.scored),
        history=detector.training_.get("history", ()),
        best_step=about.get("training", {}).get("best_step"),
        audit=detector.training_.get("audit", ()),
        suspicious=detector.training_.get("suspicious", ()),
        environment=_environment(about),
        metrics=evaluation.metrics,
    )


def most_and_least(scores: np.ndarray, count: int = GALLERY) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the `count` highest scores, highest first, and of the `count` lowest, lowest first.

    No position comes twice, and none whose score is NaN.
    """
    scores = np.asarray(scores, float)
    order = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    return order[:count], order[count:][::-1][:count]


def cards(detector: Detector, evaluation: Evaluation, index: np.ndarray) -> list[Card]:
    """The images at these positions with what their model shows of them; none of tables."""
    from knowngood.evaluation.figures.pixels import reduced, reduced_map
    from knowngood.evaluation.figures.subject import Subject
    from knowngood.representations import Table

    if not len(index) or isinstance(detector.pipeline_.representation, Table):
        return []
    images: ImageSet = evaluation.images[index]
    pairs, scales = Subject({"model": detector}, images, unknown=evaluation.unknown).pairs(images)
    named = zip(images.ids.tolist(), pairs, strict=bool(pairs))
    if not scales:
        return [Card(name, image, reconstruction=made) for name, (image, made) in named]
    return [
        Card(name, reduced(image, LARGEST), map=reduced_map(values, LARGEST), scale=scale)
        for (name, (image, values)), scale in zip(named, scales, strict=True)
    ]


def _model_figures(
    detector: Detector, evaluation: Evaluation, classes: np.ndarray | None, read: np.ndarray
) -> dict[str, Figure]:
    """Figures of a model that has latent codes and makes images; none of another."""
    from knowngood.evaluation.figures.decoded import samples
    from knowngood.evaluation.figures.latent import kl, latent
    from knowngood.evaluation.figures.reconstruction import reconstructions
    from knowngood.evaluation.figures.subject import Subject, makes_images, spread

    images = evaluation.images
    readable = np.flatnonzero(read[: len(images)])
    if not makes_images(detector.pipeline_) or len(readable) < 3:
        return {}
    if classes is not None:
        images = images.replace(conditions={**images.conditions, "class": np.asarray(classes)})
    hidden = tuple(name for name in images.conditions if name not in evaluation.images.conditions)
    subject = Subject({"model": detector}, images[readable], hidden, evaluation.unknown)
    known = subject.conditions().names
    some = None if known is None else [known[i] for i in spread(len(known), CONDITIONS)]
    return {
        "latent": latent(subject, most=CODED, narrow=True),
        "samples": samples(subject, conditions=some, most=DRAWS, room=8),
        "reconstructions": reconstructions(subject, most=PAIRS, ids=False),
        "kl": kl(subject),
    }


def _environment(about: Mapping[str, Any]) -> dict[str, Any]:
    data = about["data"]
    parts = [part for part in ("fit", "select", "calibrate") if part in data]
    return {
        **about["versions"],
        "machine": platform.machine(),
        "threads": about["threads"],
        "seed": about["seed"],
        "data": f"{data['name']}{' (' + data['variant'] + ')' if data.get('variant') else ''}",
        "data fingerprint": data["fingerprint"],
        f"normal images: {' / '.join(parts)}": " / ".join(str(data[part]) for part in parts),
        "fit, seconds": about["seconds"],
    }
