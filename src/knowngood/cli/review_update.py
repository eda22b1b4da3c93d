"""`knowngood update --reviews`: from what people said of judged images to a new version."""

from __future__ import annotations

import shlex
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

from knowngood.cli.bounds import Bounds
from knowngood.cli.console import emit, note, say, table
from knowngood.cli.inputs import load, open_selected
from knowngood.cli.keep_options import judged_by
from knowngood.cli.outputs import check_out, say_false_alarms, writing
from knowngood.detector.versions import model_at, versions
from knowngood.errors import KnowngoodError


def from_reviews(
    model: Path,
    judged: str | None,
    old: str | None,
    calibrate_on: str | None,
    out: Path | None,
    device: str | None,
    bounds: Bounds,
    chosen: dict[str, Any],
    *,
    dry_run: bool,
) -> None:
    """Learn from the reviews in a folder of judged images, print what came of it, and save a version.

    Raises:
        DataError: there are no reviews. NotEnoughNormals: nothing may calibrate.
    """
    check_out(model, out)
    from knowngood.data.readers.limits import Limits
    from knowngood.deploy.judged_store import JudgedStore
    from knowngood.deploy.reviewed_images import check_reviewed, new_reviews, reviewed_images
    from knowngood.deploy.served_model import name_of
    from knowngood.detector.run_record import training_images

    folder = judged_by(model, judged, "--reviews")
    with writing(folders=[None if dry_run else out or model_at(model)]), closing(JudgedStore(folder)) as store:
        check_reviewed(store, name_of(model))  # before a model is loaded
        from knowngood.deploy.review_update import learn_reviews

        detector = load(model, device, old, calibrate_on)
        options = bounds.over(detector.pipeline_.settings.data)
        limits = Limits.of(options)
        reviewed = reviewed_images(store, name_of(model), limits)
        unchanged = old is None and calibrate_on is None
        if unchanged and not new_reviews(store, name_of(model), detector.about_.get("reviews")):
            _say_unchanged(model, folder)
            return
        if old is not None:
            known = open_selected(old, **chosen, data_options=options)
        else:
            try:
                known = training_images(model, limits)
            except KnowngoodError as error:
                warnings.warn(f"the images that the model was trained on are not there any more: {error}", stacklevel=2)
                known = None
        others = None if calibrate_on is None else open_selected(calibrate_on, data_options=options)
        done = learn_reviews(detector, reviewed, old=known, calibration_set=others, progress=True)
        headings = ["reviewed images", "images", "flagged before", "flagged after", "flagged if held out"]
        table(headings, [["-" if cell is None else cell for cell in row] for row in done.rows])
        for sentence in done.sentences:
            say(sentence)
        say_false_alarms(done.detector)
        if dry_run:
            note("nothing was written (--dry-run)")
            return
        place = done.detector.save(out or model_at(model))
    number = max(one.number for one in versions(place))
    say(f"model   {place}, version {number}")
    emit({"model": place, "version": number, "rows": done.rows, "sentences": done.sentences})
    note(f"`knowngood rollback {shlex.quote(str(place))}` goes back to the former version")


def _say_unchanged(model: Path, folder: Path) -> None:
    """That the version in use knows all reviews, as results where these are for machines."""
    number = next((one.number for one in versions(model) if one.in_use), None)  # a copied version has none
    sentence = f"The version of {model} in use has learned from all reviews in {folder} already; nothing was written."
    say(sentence)
    emit({"model": model_at(model), "version": number, "rows": [], "sentences": [sentence]})
