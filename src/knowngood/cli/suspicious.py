"""`knowngood inspect --suspicious`: normal images that a person should check, and what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowngood.cli.console import note, say, table, write_records
from knowngood.cli.outputs import note_unread, unread_in
from knowngood.config import counted
from knowngood.data.findings import UNUSABLE
from knowngood.detector.run_record import command_of, run_of
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector

OUT = ("--out", "-o", "--output", "--outdir")  # options of `train`


def list_suspicious(
    images: ImageSet,
    data: str,
    classes: Sequence[str],
    model: Path | None,
    detector: Detector | None,
    most: int,
    json_file: Path | None,
) -> None:
    """Print the normal images with the highest scores: of the calibration of a model, or of folds of the data.

    `classes` are the options that chose these images.

    Raises:
        DataError: there is no normal image.
    """
    normals = images[images.labels != 1]
    if not len(normals):
        raise DataError(f"{images.name}: no normal image to check; choose the normal classes by --normal")
    if model is None or detector is None:
        records, where = _of_folds(normals), "scored in folds"
    else:
        records, where = _of_model(model, detector, normals)
    if json_file:
        write_records(json_file, records)
    say(f"{images.variant or images.name}: {counted(len(normals), 'normal image')}, {where}")
    rows = [(str(i), one["id"], f"{one['anomaly_score']:.5g}") for i, one in enumerate(records[:most], start=1)]
    table(["rank", "image", "score"], rows)
    say(
        "Look at these images. Move those that are anomalous out of the data; keep the others, however high they score."
    )
    if model is None or detector is None:
        following = shlex.join(["knowngood", "train", data, *classes])
    elif detector.pipeline_.calibrated_by == "set":  # the fit did not see these images
        following = shlex.join(["knowngood", "calibrate", str(model), data, *classes])
    else:
        following = _again(model, data)
    say(f"next    {following}")


def _of_folds(normals: ImageSet) -> list[dict[str, Any]]:
    """Scores of all normal images by models refitted without them; these take seconds to fit."""
    from knowngood.detector.estimator import Detector
    from knowngood.detector.fit.auto import PHOTOGRAPH

    train = normals.split("train") if normals.splits is not None and "train" in normals.splits else normals
    known = train.declared()
    if not len(known):
        raise DataError(f"{train.name}: none of its images can be read; `knowngood inspect` says why")
    photographs = min(int(known.shapes()[:, :2].min()), PHOTOGRAPH) == PHOTOGRAPH
    model = "patch_gaussian" if photographs else "memory_bank"
    detector = Detector("features" if photographs else "auto", model, calibration={"method": "cross"})
    training = detector.fit(train).training_
    note_unread([(one["path_or_id"], one["reason"]) for one in training["audit"] if one["kind"] in UNUSABLE])
    return training["suspicious"]


def _of_model(model: Path, detector: Detector, normals: ImageSet) -> tuple[list[dict[str, Any]], str]:
    """The calibration images of a model if they are among the images; else the images themselves, by their scores."""
    kept, n = detector.training_.get("suspicious", []), len(detector.pipeline_.calibration or ())
    known = set(map(str, normals.ids.tolist()))
    own = [one for one in kept if one["id"] in known]
    if own:
        highest = f"the {len(kept):,} highest of the {n:,}" if len(kept) < n else f"the {n:,}"
        among = "" if len(own) == len(kept) else f"; {len(own):,} of them are among these"
        return own, f"listed are {highest} that calibrate {model}{among}"
    note(f"the calibration images of {model} are not among these, so all of these are scored by it")
    found = detector.detect(normals).sort_values("anomaly_score", ascending=False)
    note_unread(unread_in(found))
    records = found[["id", "anomaly_score", "condition"]].dropna(subset=["anomaly_score"]).to_dict("records")
    return [{str(name): value for name, value in one.items()} for one in records], f"scored by {model}"


def _again(model: Path, data: str) -> str:
    """The command that makes the model again, into a new folder, without the images that were removed."""
    run = run_of(model)
    out = next(free for n in count(2) if not (free := run.with_name(f"{run.name}-{n}")).exists())
    words = shlex.split(str(command_of(model).get("command", ""))) or ["knowngood", "train", data]
    kept, left_out = [], False
    for word in words:
        if not left_out and word not in (*OUT, "--resume") and not word.startswith(tuple(f"{flag}=" for flag in OUT)):
            kept.append(word)
        left_out = word in OUT
    return shlex.join([*kept, "--out", str(out)])
