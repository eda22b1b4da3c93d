"""The explanation of one image: plain arrays, numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from knowngood.calibration import Region
    from knowngood.calibration.map_scale import MapScale
    from knowngood.detector.explain.appearance import Difference

Fields = dict[str, Any]  # of an `Explanation`

NOTABLE = 0.03  # change of an image factor that is reported
TOP = 5  # components, latent dimensions, and nearest images


class Component(NamedTuple):
    """A feature, or an orientation of HOG, at the peak of the anomaly map."""

    name: str  # 'block 4, feature 17', 'the gradient to the right'
    deviation: float  # from its expected value, in standard deviations


class Latent(NamedTuple):
    """A dimension of the latent code of a VAE."""

    dimension: int
    nats: float  # KL divergence of the posterior from the prior
    deviation: float | None  # of its mean from that of normal images, in standard deviations; None if not known


class WordCount(NamedTuple):
    """The share of an image that a kind of patch covers, a visual word; that which deviates most."""

    word: int
    share: float  # 0…1, of the locations that count
    normal: float  # mean share of normal images
    deviation: float  # in standard deviations of normal images
    place: tuple[int, int] | None = None  # (row, column) in pixels of the image, of its most typical patch; None: tiles


class ImageFactor(NamedTuple):
    """An image factor, compared with normal images under the same conditions."""

    name: str  # 'brightness' or 'contrast'
    value: float  # of the image as the model sees it
    median: float  # of normal images
    low: float  # 2.5 % and 97.5 % quantiles of normal images
    high: float
    explained_away: bool  # the model accounts for this change: it does not raise the score
    declared_harmless: bool = False  # a factor of dan_vae: its own dimensions do not count, but the residual does

    @property
    def change(self) -> float:
        """As a share of the median, −0.18 for 18 % less."""
        return self.value / self.median - 1 if self.median else 0.0

    @property
    def outside_normal_range(self) -> bool:
        """Outside the range of 95 % of normal images, and at least 3 % from their median."""
        return not self.low <= self.value <= self.high and abs(self.change) >= NOTABLE


class Nearest(NamedTuple):
    """A normal image that the model was fitted to."""

    id: str
    distance: float  # Euclidean, between codes


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation:
    """Why an image has its score. Arrays (h, w, C) are images as the model sees them, scaled to 0…1.

    Attributes:
        id, anomaly_score, p_value, is_anomalous, condition: as in the table of `Detector.detect`.
        image: (H, W, C) the image itself, in its own type.
        model_input: (h, w, C) the image resized, cropped and padded for the model; one seen in tiles is reduced.
        reconstruction: (h, w, C) by a VAE on pixels; None for other models.
        residual: (h, w, C) model_input − reconstruction, for a VAE on pixels. (h, w) on the model's grid for a VAE on
            HOG and for patch_gaussian: the root mean square deviation from the expected value, in standard deviations;
            about 1 or less for a normal image. None for memory_bank.
        mean_image: (h, w, C) mean of normal images under these conditions, reduced; None without a reference index.
        posed: whether parts are turned and cropped to one pose first: the mean image is of parts in that pose, and
            model_input too where a part was found in the image.
        map: (H, W) anomaly map of the image, higher is more anomalous; None where the score has none.
        peak: (row, column) of the largest value of the map, in pixels of the image.
        components: features or orientations that deviate most at the peak of the map on the model's grid (of the
            residual, without a map), by |deviation|; none for a VAE on pixels and for memory_bank.
        compared: how many of how many normal images have at least this score, from the p-value; None if not known.
        differences: how pixels of the most anomalous region differ from normal images at the same place, see
            `Difference`. view_box: (top, left, bottom, right) of that region in `model_input`, as shares of its sides.
        whole: parts of the score that see the image as a whole (`global` or `level`, `counts`) and add to it, in
            standard deviations of normal images.
        count: the kind of patch whose share of the image deviates most, for patch_gaussian.
        latents: dimensions with the largest KL divergence, for a VAE.
        image_factors: brightness and contrast, compared with normal images under these conditions.
        nearest: normal images with the nearest codes; `farther_than`: the share 0…1 of held-out normal images that lie
            closer to their nearest one (None if not known).
        p_condition: as in the table. misfit: "wrong for product: looks like B", if that is the verdict. lookalikes:
            normal images of that condition with the nearest codes; lookalike_image: (h, w, C) the mean of such images.
        scale: how the map is coloured. regions: of the map, above its threshold, with boxes and p-values.
        missing: name of an attribute that is not available → why.
        sentences: all of it in words, the verdict first. summary: one sentence for a table.
    """

    id: str
    anomaly_score: float
    p_value: float
    is_anomalous: bool
    condition: str
    image: np.ndarray
    model_input: np.ndarray
    reconstruction: np.ndarray | None = None
    residual: np.ndarray | None = None
    mean_image: np.ndarray | None = None
    map: np.ndarray | None = None
    scale: MapScale | None = None
    peak: tuple[int, int] | None = None
    components: tuple[Component, ...] = ()
    compared: tuple[int, int] | None = None
    differences: tuple[Difference, ...] = ()
    view_box: tuple[float, float, float, float] | None = None
    whole: dict[str, float] = field(default_factory=dict)
    count: WordCount | None = None
    latents: tuple[Latent, ...] = ()
    image_factors: tuple[ImageFactor, ...] = ()
    nearest: tuple[Nearest, ...] = ()
    farther_than: float | None = None
    p_condition: float | None = None
    misfit: str = ""
    lookalikes: tuple[Nearest, ...] = ()
    lookalike_image: np.ndarray | None = None
    regions: tuple[Region, ...] = ()
    posed: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    summary: str = ""

    def __repr__(self) -> str:
        values = f"id={self.id!r}, anomaly_score={self.anomaly_score:.4g}, p_value={self.p_value:.4g}"
        return f"Explanation({values}, is_anomalous={self.is_anomalous}, summary={self.summary!r})"

    def __deepcopy__(self, memo: Any) -> Explanation:
        return self  # tables copy their attrs with every step; nothing here changes

    def to_record(self) -> dict[str, Any]:
        """All but the arrays, ready for JSON."""
        skipped = ("image", "model_input", "reconstruction", "residual", "mean_image", "lookalike_image", "map")
        record = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in skipped}
        return record | {
            "peak": None if self.peak is None else list(self.peak),
            "scale": None if self.scale is None else self.scale._asdict(),
            "components": [one._asdict() for one in self.components],
            "differences": [one._asdict() for one in self.differences],
            "count": None if self.count is None else self.count._asdict(),
            "latents": [one._asdict() for one in self.latents],
            "image_factors": [
                one._asdict() | {"change": one.change, "outside_normal_range": one.outside_normal_range}
                for one in self.image_factors
            ],
            "nearest": [one._asdict() for one in self.nearest],
            "lookalikes": [one._asdict() for one in self.lookalikes],
            "regions": [
                {"box": list(r.box), "peak": r.peak, "area": r.area, "p_value": r.p_value} for r in self.regions
            ],
            "sentences": list(self.sentences),
        }
