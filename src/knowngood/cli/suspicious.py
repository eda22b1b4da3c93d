"""`knowngood inspect --suspicious`: normal images that a person should check, and what comes next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowngood.cli.console import note, say, table
from knowngood.cli.inputs import load
from knowngood.cli.outputs import write_json
from knowngood.config import counted
from knowngood.detector.versions import model_at
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.data import ImageSet

PHOTOGRAPH = 64  # pixels from which on features are fitted, as by "auto"


def list_suspicious(images: ImageSet, data: str, model: Path | None, most: int, json_file: Path | None) -> None:
    """Print the normal images with the highest scores: of the calibration of a model, or of folds of the data.

    Raises:
        DataError: there is no normal image.
    """
    normals = images[images.labels != 1]
    if not len(normals):
        raise DataError(f"{images.name}: no normal image to check; choose the normal classes by --normal")
    records, where = _of_model(model, normals) if model is not None else (_of_folds(normals), "scored in folds")
    if json_file:
        write_json(json_file, records)
    say(f"{images.variant or images.name}: {counted(len(normals), 'normal image')}, {where}")
    rows = [(str(i), one["id"], f"{one['anomaly_score']:.5g}") for i, one in enumerate(records[:most], start=1)]
    table(["rank", "image", "score"], rows)
    say(
        "Look at these images. Move those that are anomalous out of the data; keep the others, however high they score."
    )
    if model is None:
        say(f"next    knowngood train {shlex.quote(data)}")
        return
    say(f"next    {_again(model, data)}")


def _of_folds(normals: ImageSet) -> list[dict[str, Any]]:
    """Scores of all normal images by models refitted without them; these take seconds to fit."""
    from knowngood.detector.estimator import Detector

    train = normals.split("train") if normals.splits is not None and "train" in normals.splits else normals
    photographs = min(int(train.shapes()[:, :2].min()), PHOTOGRAPH) == PHOTOGRAPH
    model = "patch_gaussian" if photographs else "memory_bank"
    detector = Detector("features" if photographs else "auto", model, calibration={"method": "cross"})
    return detector.fit(train).training_["suspicious"]


def _of_model(model: Path, normals: ImageSet) -> tuple[list[dict[str, Any]], str]:
    """The calibration images of a model if they are among the images; else the images themselves, by their scores."""
    detector = load(model, None)
    kept = detector.training_.get("suspicious", [])
    known = set(map(str, normals.ids.tolist()))
    own = [one for one in kept if one["id"] in known]
    if own:
        return own, f"of which those that calibrate {model} are listed"
    note(f"the calibration images of {model} are not among these, so all of these are scored by it")
    found = detector.detect(normals).sort_values("anomaly_score", ascending=False)
    records = found[["id", "anomaly_score", "condition"]].dropna(subset=["anomaly_score"]).to_dict("records")
    return [{str(name): value for name, value in one.items()} for one in records], f"scored by {model}"


def _again(model: Path, data: str) -> str:
    """The command that makes the model again without the images that were removed."""
    folder = model_at(model)
    recorded = folder.parent / "command.json"
    if recorded.is_file():
        command = str(json.loads(recorded.read_text(encoding="utf-8")).get("command", ""))
        if command:
            return f"{command}   (with another --out)"
    return f"knowngood train {shlex.quote(data)}"
