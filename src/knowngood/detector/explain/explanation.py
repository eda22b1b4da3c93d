"""What is said of one image: plain arrays, numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from knowngood.calibration.regions import Region

NOTABLE = 0.03  # change of light that is told


class Component(NamedTuple):
    """A feature, or a direction of edges, at the oddest place."""

    name: str  # 'block 4, feature 17', 'an edge lighter to the right'
    deviation: float  # from what the model expects: in standard deviations of good images there, of edges in its σ


class Latent(NamedTuple):
    """A dimension of the code."""

    dimension: int
    nats: float  # KL of the posterior from the prior
    deviation: float | None  # of its mean from that of good images, in their standard deviations; None if not known


class Nuisance(NamedTuple):
    """How the light of the image compares with that of good images of its condition."""

    name: str  # 'brightness' or 'contrast'
    value: float  # of the image as the nets see it
    usual: float  # median of good images
    low: float  # 2.5 % and 97.5 % quantiles of good images
    high: float
    explained_away: bool  # the model was fitted so that this change does not count

    @property
    def change(self) -> float:
        """As a share of what is usual, −0.18 for 18 % less."""
        return self.value / self.usual - 1 if self.usual else 0.0

    @property
    def unusual(self) -> bool:
        """Outside what 95 % of good images have, and 3 % off at least."""
        return not self.low <= self.value <= self.high and abs(self.change) >= NOTABLE


class Nearest(NamedTuple):
    """A good image that the model was fitted on."""

    id: str
    distance: float  # between codes


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Why an image has the score it has. Arrays of images are (h, w, C) as the nets see them, scaled to 0…1.

    Attributes:
        id, anomaly_score, p_value, is_anomalous, condition: as in the table of `Detector.detect`.
        image: (H, W, C) the image itself, its own type.
        seen: (h, w, C) the image resized, cropped and padded for the nets; of one seen in tiles the tile of the peak,
            to which all but the map, the peak and the regions belong.
        reconstruction: (h, w, C) what the model makes of it; None for a model of features or edges.
        residual: (h, w, C) seen − reconstruction; for a model of features or edges (h, w) on its grid: the root mean
            square of the whitened features, or of the edges in the model's σ, that it does not explain, about 1 or less
            where all is well.
        usual: (h, w, C) the mean of good images of this condition, reduced; None without an index of good images.
        map: (H, W) anomaly map over the image, higher is odder; None where the score has none.
        peak: (row, column) of its largest value, in pixels of the image.
        components: features or directions of edges that deviate most at the peak of the map on its grid (without a map
            of the residual), by |deviation|; none for a model of pixels.
        latents: dimensions with the largest KL; for a model of features those of the place of the peak.
        nuisances: brightness and contrast against good images of this condition.
        nearest: good images with the nearest codes, and `farther`: the share of held-out good images that lie less far
            from their nearest one (None if not known).
        regions: regions of the map where the detector finds them, with boxes and p-values.
        missing: what is left out → why.
        sentences: all of it in plain words, the verdict first.
    """

    id: str
    anomaly_score: float
    p_value: float
    is_anomalous: bool
    condition: str
    image: np.ndarray
    seen: np.ndarray
    reconstruction: np.ndarray | None = None
    residual: np.ndarray | None = None
    usual: np.ndarray | None = None
    map: np.ndarray | None = None
    peak: tuple[int, int] | None = None
    components: tuple[Component, ...] = ()
    latents: tuple[Latent, ...] = ()
    nuisances: tuple[Nuisance, ...] = ()
    nearest: tuple[Nearest, ...] = ()
    farther: float | None = None
    regions: tuple[Region, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    summary: str = ""

    def __deepcopy__(self, memo: Any) -> Explanation:
        return self  # tables copy their attrs with every step; nothing here changes

    def to_record(self) -> dict[str, Any]:
        """All but the arrays, ready for JSON."""
        return {
            "id": self.id,
            "anomaly_score": self.anomaly_score,
            "p_value": self.p_value,
            "is_anomalous": self.is_anomalous,
            "condition": self.condition,
            "peak": None if self.peak is None else list(self.peak),
            "components": [one._asdict() for one in self.components],
            "latents": [one._asdict() for one in self.latents],
            "nuisances": [one._asdict() | {"change": one.change, "unusual": one.unusual} for one in self.nuisances],
            "nearest": [one._asdict() for one in self.nearest],
            "farther": self.farther,
            "regions": [
                {"box": list(r.box), "peak": r.peak, "area": r.area, "p_value": r.p_value} for r in self.regions
            ],
            "missing": dict(self.missing),
            "sentences": list(self.sentences),
        }
