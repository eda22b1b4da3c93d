"""What a fitted detector answers: how odd, how sure, where and why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from knowngood.calibration import minimum_normals
from knowngood.detector import explain as explaining
from knowngood.detector.condition_posterior import condition_probabilities
from knowngood.detector.explain import Explanation
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.results import Verdicts, region_table, verdict_table
from knowngood.detector.rows import Items, Unknown
from knowngood.detector.watching import Each, Watch
from knowngood.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame

EXPLAINED = 20  # images, unless more are asked for


class Answering:
    """The questions that a `Detector` answers once it is fitted. X and conditions are as for `Detector.fit`."""

    pipeline_: Pipeline
    offset_: float

    # scikit-learn ---------------------------------------------------------------------------------------------------

    def score_samples(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """−anomaly score (N,), higher is more normal, comparable across conditions."""
        return -self._judge(X, conditions, unknown).anomaly_score

    def decision_function(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """`score_samples` − `offset_` (N,); negative for items flagged at `alpha`."""
        return self.score_samples(X, conditions=conditions, unknown=unknown) - self.offset_

    def predict(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """+1 for normal, −1 for anomalous (N,), with the false-alarm rate `alpha` of the fit.

        If the fit left too few calibration normals for that rate it warns and flags nothing.
        """
        decision = self.decision_function(X, conditions=conditions, unknown=unknown)
        self._warn_if_no_promise()
        return np.where(decision < 0, -1, 1)

    # Ours -----------------------------------------------------------------------------------------------------------

    def detect(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        fdr: float | None = None,
        abstain: float | None = None,
        explain: bool = False,
        each: Sequence[Each] = (),
    ) -> DataFrame:
        """One row an item.

        Columns: id; anomaly_score (higher is odder, comparable across conditions); p_value in (0, 1], small is odd;
        is_anomalous (p_value ≤ alpha); condition (as given, or "… (inferred)"); the parts of the score under that
        condition; verdict, with `abstain`; label, if X carries any; error, only if an item could not be read: its
        numbers and its is_anomalous are then missing. Rank by anomaly_score, never by p_value: that floors at
        1/(n+1) and ties.

        Args:
            unknown: "infer" sums out conditions that are missing or new, see `Pipeline.judge`, and warns of new ones;
                "error" refuses them. A model fitted with unknown="infer" averages over conditions where that has a
                meaning; any other takes the best one. Default: as fitted.
            alpha: false-alarm rate; default that of the fit.
            fdr: flag by Benjamini–Hochberg over these items instead: of the flagged ones at most this share is
                expected to be good.
            abstain: a p-value above alpha: items between the two get the verdict "unsure".
            explain: say why of the flagged images, of at most `EXPLAINED` the oddest: a column `explanation`, one
                sentence, and `.attrs["explanations"]`, a list of `Explanation`, the oddest first. Take them out with
                `.attrs.pop` before writing parquet. See `Detector.explain`.
            each: called one after the other with the number of each image that could be read, in order, and with its
                raw score, stratum and `map`, which is that of `anomaly_maps`. Images with known conditions go through
                the nets once for both.

        Raises:
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
        """
        check_is_fitted(self, "pipeline_")
        self._check_alpha(alpha)
        if explain:
            explaining.check_explains(self.pipeline_)
        if each:
            self.pipeline_.check_maps()
        items, watch = self._asked(X, conditions, unknown), Watch(each, EXPLAINED if explain else 0)
        found = self._verdicts(items, unknown, alpha, watch, fdr)
        said = self._explained(items, found, EXPLAINED, watch) if explain else None
        return verdict_table(items, found, abstain=abstain, explanations=said)

    def explain(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        most: int = EXPLAINED,
        others: bool = False,
    ) -> list[Explanation]:
        """Why images are odd: where, against what, and how they compare with the good images fitted on.

        Args:
            alpha: false-alarm rate of the verdicts; default that of the fit.
            most: images to explain, the oddest first.
            others: explain images that are not flagged too.

        Raises:
            SettingsError: the model was fitted on a table.
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
        """
        check_is_fitted(self, "pipeline_")
        explaining.check_explains(self.pipeline_)
        if alpha is not None:
            self._check_alpha(alpha)
        items, watch = self._asked(X, conditions, unknown), Watch(oddest=most)
        return self._explained(items, self._verdicts(items, unknown, alpha, watch), most, watch, others=others)

    def anomaly_maps(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> list[np.ndarray]:
        """Where: for each image a map (H, W) at its own size, higher is odder; NaN where a region is ignored."""
        check_is_fitted(self, "pipeline_")
        return self.pipeline_.maps(self._asked(X, conditions, unknown), unknown=unknown)

    def regions(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        min_area: int = 1,
    ) -> DataFrame:
        """Where, and how sure: one row a region of an image's anomaly map, none for an image without regions.

        A region is connected pixels above what good images under the same condition exceed anywhere at the rate
        `alpha`: so at most that share of good images has any. Columns: id; region, its number in the image in falling
        order of the peaks; area in pixels; peak; p_value, of the peak among the largest values of good images' maps;
        peak_row, peak_column; top, left, bottom, right, half-open; centroid_row, centroid_column; mean.

        The image's verdict in `detect` pools the map in its own way: it may flag an image without a region, and
        the other way round.

        Args:
            alpha: share of good images that may have a region; default that of the fit.
            min_area: regions of fewer pixels are left out.

        Raises:
            SettingsError: the model is not on features.
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
            DataError: an image cannot be read.
        """
        check_is_fitted(self, "pipeline_")
        self.pipeline_.check_regions()
        self._check_alpha(alpha)
        items = self._asked(X, conditions, unknown)
        found = self.pipeline_.regions(items, unknown=unknown, alpha=alpha, min_area=min_area)
        return region_table(items, list(found))

    def reconstruct(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """Why: what the model makes of each item, in raw units: (N, H, W, C), or (N, F) for tables."""
        check_is_fitted(self, "pipeline_")
        _, made = self.pipeline_.reconstruct(self._asked(X, conditions, unknown), unknown=unknown)
        values = self.pipeline_.representation.unscale(torch.from_numpy(made)).numpy()
        return np.moveaxis(values, 1, -1) if values.ndim == 4 else values

    def embed(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """Posterior means (N, D)."""
        check_is_fitted(self, "pipeline_")
        return self.pipeline_.embed(self._asked(X, conditions, unknown), unknown=unknown)

    def condition_probabilities(self, X: Any) -> DataFrame:
        """Which condition each item was made under: a column `id`, and one for each condition of the fit with p(c|x).

        The probabilities of an item add up to 1; of one that cannot be read they are NaN. They say which condition
        fits best, not whether any does: an anomaly may look most like one of them with p near 1. See
        `inferring.condition_probabilities` for what they are made of.

        Raises:
            SettingsError: the model has no conditions to tell apart, or is on features.
        """
        import pandas as pd

        check_is_fitted(self, "pipeline_")
        items = self._items(X, None)
        labels, p = condition_probabilities(self.pipeline_, items)
        return pd.DataFrame({"id": items.ids, **dict(zip(labels, p.T, strict=True))})

    # Inside ---------------------------------------------------------------------------------------------------------

    def _items(self, X: Any, conditions: Any) -> Items:
        """X as items with their conditions."""
        raise NotImplementedError

    def _asked(self, X: Any, conditions: Any, unknown: Unknown | None) -> Items:
        """X as items with their conditions; a warning names values that the fit has not seen and that are inferred."""
        items = self._items(X, conditions)
        if (unknown or self.pipeline_.settings.unknown) == "infer":
            for sentence in self.pipeline_.schema.explain_new(items.conditions, len(items)):
                warnings.warn(sentence, stacklevel=3)
        return items

    def _judge(self, X: Any, conditions: Any, unknown: Unknown | None) -> Any:
        check_is_fitted(self, "pipeline_")
        items = self._asked(X, conditions, unknown)
        judged = self.pipeline_.judge(items, unknown=unknown)
        if judged.errors:
            i, reason = next(iter(judged.errors.items()))
            raise DataError(f"{items.ids[i]}: {reason}. `detect` sets such images aside and scores the others.")
        return judged

    def _verdicts(
        self, items: Items, unknown: Unknown | None, alpha: float | None, watch: Watch, fdr: float | None = None
    ) -> Verdicts:
        judged = self.pipeline_.judge(items, unknown=unknown, alpha=alpha, watch=watch)
        return Verdicts.of(judged, self.pipeline_.settings.alpha if alpha is None else alpha, fdr)

    def _explained(
        self, items: Items, found: Verdicts, most: int, watch: Watch, *, others: bool = False
    ) -> list[Explanation]:
        judged, flagged, names = found.judged, found.flagged, found.conditions
        chosen = explaining.oddest(judged, flagged, most, others=others)
        return explaining.explain(
            self.pipeline_, items, judged, flagged, chosen, alpha=found.level, conditions=names, watch=watch
        )

    def _check_alpha(self, alpha: float | None) -> None:
        """Refuse an α that is asked for and cannot be promised; of the fit's own one only warn."""
        if alpha is None:
            self._warn_if_no_promise(stacklevel=4)
        elif self.pipeline_.calibration is not None:
            self.pipeline_.calibration.refuse(alpha)

    def _warn_if_no_promise(self, stacklevel: int = 3) -> None:
        if math.isinf(self.offset_):
            n, alpha = len(self.pipeline_.calibration or ()), self.pipeline_.settings.alpha
            needed = minimum_normals(alpha)
            warnings.warn(
                f"alpha = {alpha:g} cannot be promised with {n} calibration normals, it needs {needed}: "
                "nothing is flagged. Fit or calibrate on more good items, or rank by the anomaly score.",
                stacklevel=stacklevel,
            )
