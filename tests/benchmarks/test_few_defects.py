"""The benchmark of known defects: its shortened scores are the product's, and what its measures mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.few_defects import Seen, Subject, compared, markdown
from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.detector.fit.known_defects import learn_defects
from knowngood.detector.scoring import score_batches
from knowngood.scores.known_defects import likeness
from patch_models import TinyBackbone, holed, parts


@pytest.mark.slow
def test_scores_from_kept_likenesses_are_those_of_the_product() -> None:
    normals = ImageSet.from_arrays(parts(30))
    options = {"name": "features", "backbone": {"name": "own"}, "stride": 4, "average": 1, "image_size": 32}
    made = Detector(options, "patch_gaussian", labels="ignore").fit(normals, backbone=TinyBackbone())
    grids = made.pipeline_.representation.read(normals)[0]  # type: ignore[union-attr]
    holes = [holed(parts(1, seed=2), 4, 4), holed(parts(1, seed=3), 20, 12)]
    defects = ImageSet.from_arrays(np.concatenate(holes), np.ones(2), ids=["a", "b"])
    images = ImageSet.from_arrays(np.concatenate([parts(5, seed=4), holed(parts(5, seed=5), 4, 6)]))
    x = torch.from_numpy(made.pipeline_.representation.read(images)[0]).float()  # type: ignore[union-attr]
    both = learn_defects(made.pipeline_, normals, defects, grids, 0)[0]
    model: Any = both.model
    cell = model.cell(None, len(x))
    like = likeness(model.whiten(x, cell), both.state)
    seen = Seen(both, model.distances(x, cell), model.image_distances(x, cell), like, np.arange(2))
    for some in ([], [0], [0, 1]):
        pipeline = (
            learn_defects(made.pipeline_, normals, defects[np.array(some)], grids, 0)[0] if some else made.pipeline_
        )
        expected = np.concatenate([batch.values for batch in score_batches(pipeline, images)])
        np.testing.assert_allclose(seen.scores(np.array(some, dtype=int)), expected, rtol=1e-4)


def test_a_draw_judges_other_defects_of_the_kind_and_the_other_kinds() -> None:
    def judged(labelled: np.ndarray) -> np.ndarray:
        scores = np.array([0.0, 1, 2, 3, 1.5, 1.5, 2.5, 2.5])
        return scores + np.isin(np.arange(8), [4, 5]) * 10 * len(labelled)

    calibrating: Any = [SimpleNamespace(scores=lambda _: np.arange(19.0) / 8)]
    subject = Subject(
        SimpleNamespace(scores=judged),  # type: ignore[arg-type]
        calibrating,
        np.arange(4, 8),
        np.array(["a", "a", "b", "b"]),
        np.arange(4),
    )
    row = compared(subject, subject.decisions(np.zeros(0, int), 0.05), "a", 1, 0, 0.05)
    assert row["auroc"] == (0.5, 1.0)
    assert row["detected"] == (0.0, 1.0)
    assert row["others"] == (0.75, 0.75)
    assert row["others_worst"] == 0
    assert row["false_alarms"] == (0.25, 0.25)
    assert "| tile | 0.500 → 1.000 | 0.000 → 1.000 | 0.750 → 0.750 | +0.000 |" in markdown(
        [{"set": "tile", **row}], ("set",)
    )
