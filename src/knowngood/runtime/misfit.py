"""What is said of a batch that is not like the calibration items; it needs SciPy, and the command line has that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knowngood.calibration import minimum_normals, misfit, misfit_words
from knowngood.runtime.model import Found

SHARED, INFERRED = -1, -2  # groups whose calibration items are those of others too


def batch_remark(found: Sequence[Found], labels: np.ndarray, facts: Mapping[str, Any], alpha: float) -> str | None:
    """A sentence, or None if the batch may be like the calibration items; see `detector.batch`.

    Causes are not looked for: the statistics of the calibration images are not in the file.
    """
    p = np.array([one.row["p_value"] for one in found])
    read = ~np.isnan(p)
    labelled = bool((read & (labels == 0)).any())
    counted = np.flatnonzero(read & ((labels == 0) if labelled else (labels != 1)))
    sizes, every = np.array(facts["stratum_items"]), facts["calibration_items"]
    own = sizes >= minimum_normals(alpha)
    smallest = min([every, *sizes[own].tolist()])
    groups, normals = [], []
    for i in counted.tolist():
        alone = found[i].known and found[i].stratum >= 0 and own[found[i].stratum]
        groups.append(found[i].stratum if alone else SHARED if found[i].known else INFERRED)
        normals.append(sizes[found[i].stratum] if alone else every if found[i].known else smallest)
    wrong = misfit(p[counted], normals, alpha, groups) if len(counted) else None
    if wrong is None:
        return None
    what = "images labelled normal" if labelled else "images"
    start = misfit_words(wrong, what, "images", alpha)
    cause = "" if labelled else f"{'most' if 2 * wrong.flagged > wrong.items else 'many'} are anomalous, or "
    return (
        f"{start}: {cause}the images changed. If they are normal, calibrate on images of this kind (knowngood "
        "calibrate MODEL NORMAL_IMAGES), and export again"
    )
