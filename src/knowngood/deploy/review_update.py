"""From reviews to a new version of a model: which images join the fit, which may calibrate, and what came of it.

People review mostly what was flagged. Images that were chosen by their score are no random sample of normal ones: a
model that calibrates on false alarms has far too high thresholds, and one that calibrates on images that were not
flagged has too low ones. So what a reviewed image does depends on how it came to be reviewed:

- Good images that were chosen join the fit and never calibrate. The images that calibrate are those drawn before,
  scored by models that have the chosen images too, fold by fold. The chosen images follow from the former model, which
  saw the calibration images and no new one: they are what is unlike those. So they should lower the scores of
  calibration images no more than those of new ones, and p-values err on the large side. This is an argument on the
  direction of the error, no proof; the benchmark `reviews` measures it.
- Good images of the random sample (`JudgedStore.sampled`) were drawn whatever their score. They join the fit and
  calibrate like any normal image, or calibrate alone where the training images are not at hand.
- Defects are known defects, in every fold.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from knowngood.calibration import minimum_normals
from knowngood.config import counted
from knowngood.config.words import for_caller
from knowngood.data import ImageSet
from knowngood.data.joined import joined
from knowngood.deploy.reviewed_images import Reviewed
from knowngood.detector.added_groups import explain_gone
from knowngood.detector.decide import calibrated
from knowngood.detector.estimator import Detector
from knowngood.detector.fit import happened
from knowngood.detector.fit.inputs import measured, only
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.results import decided, flagged
from knowngood.detector.update import check_old, check_updatable
from knowngood.errors import DataError, NotEnoughNormals
from knowngood.scores.known_defects import without

FALSE_ALARMS, MISSED = "false alarms: good, flagged", "missed: defects, not flagged"


class Row(NamedTuple):
    """How many of some images are flagged, by the former version and by the new one.

    after: optimistic, since the new version learned from these images. held_out: by models that did not learn from the
    image; None where there are none.
    """

    what: str
    images: int
    before: int
    after: int
    held_out: int | None


class ReviewUpdate(NamedTuple):
    """A detector that learned from reviews, not saved yet; what came of it, as rows and as sentences."""

    detector: Detector
    rows: list[Row]
    sentences: list[str]


def learn_reviews(
    detector: Detector,
    reviewed: Reviewed,
    *,
    old: ImageSet | None = None,
    calibration_set: ImageSet | None = None,
    progress: bool = False,
) -> ReviewUpdate:
    """A detector that learned from reviewed images; the given one stays as it is.

    With the images that it was fitted to it is fitted anew, as before, to those and the reviewed ones. Without them it
    is updated (see `Detector.update`), and other images have to calibrate: `calibration_set`, or the random sample.

    Args:
        old: the images that the detector was fitted to.
        calibration_set: normal images that calibrate, and that nobody chose by their score.

    Raises:
        DataError: no image can be learned from; `old` is other data.
        NotEnoughNormals: no images, or too few, may calibrate. SettingsError: the model takes no new images.
    """
    pipeline = detector.pipeline_
    images = _as_fitted(pipeline, reviewed.images)
    good = (images.labels == 0) & _conditions_known(pipeline, images)
    defects, drawn = images.labels == 1, good & reviewed.sampled
    chosen, sample = good & ~drawn, images[drawn]
    counts = {"chosen": int(chosen.sum()), "sampled": len(sample), "defects": int(defects.sum())}
    counts["left_out"] = len(images) - sum(counts.values())
    apart = calibration_set is None and (old is None or pipeline.calibrated_by == "set")
    if apart:
        calibration_set = _calibrating(pipeline, sample, old is not None)
    if old is None:
        fit = images[chosen | defects] if apart else images[good | defects]
        new = _updated(detector, fit, calibration_set, progress)
    else:
        joining = sample[:0] if apart else sample
        new = _refitted(detector, old, joining, images[chosen | defects], calibration_set, progress)
    before, after, held_out = _flags(pipeline, images), _flags(new.pipeline_, images), _held_out(new, images)
    groups = {
        FALSE_ALARMS: chosen & before,
        "good, not flagged": chosen & ~before,
        MISSED: defects & ~before,
        "found: defects, flagged": defects & before,
        "good, of the random sample": drawn,
    }
    rows = []
    for what, some in groups.items():
        known = [held_out[name] for name in images.ids[some] if name in held_out]
        apart_rate = sum(known) if len(known) == some.sum() else None
        if some.any():
            rows.append(Row(what, int(some.sum()), int(before[some].sum()), int(after[some].sum()), apart_rate))
    learned = {*detector.about_.get("reviews", {}).get("learned", ()), *new.about_.get("labels", {}).get("learned", ())}
    about = {**counts, "latest": reviewed.latest, "learned": sorted(learned), "labels_before": _labels_before(detector)}
    entry = happened("reviews", len(images) - counts["left_out"])
    sentences = [*sentences_of(detector, new, counts), *unchanged(rows)]
    about |= {"rows": [row._asdict() for row in rows], "sentences": sentences}
    new.about_ = {**new.about_, "reviews": about, "history": [*detector.about_["history"], entry]}
    return ReviewUpdate(new, rows, sentences)


def _calibrating(pipeline: Pipeline, sample: ImageSet, refits: bool) -> ImageSet:
    """The random sample, where no other images may calibrate.

    Raises:
        NotEnoughNormals: it is too small.
    """
    needed = minimum_normals(pipeline.level())
    if len(sample) >= needed:
        return sample
    old = for_caller("old=…", "--with DATA")
    why = f"the images that the model was trained on are not at hand ({old})"
    if refits:
        why = "the model was calibrated on images that were given apart, which are not at hand"
    given = for_caller("calibration_set=…", "--calibrate-on DATA")
    raise NotEnoughNormals(
        f"no images may calibrate: {why}, and images that people chose to review are no sample of normal ones. Give "
        f"normal images that nobody chose by their score ({given}), or review a random sample: "
        f"{counted(len(sample), 'good image')} of it reviewed, alpha = {pipeline.settings.alpha:g} needs "
        f"{needed}",
        missing=needed - len(sample),
    )


def _refitted(
    detector: Detector,
    old: ImageSet,
    sample: ImageSet,
    chosen: ImageSet,
    calibration_set: ImageSet | None,
    progress: bool,
) -> Detector:
    """A detector fitted as the given one was, to its images, the sample, and those that never calibrate."""
    pipeline, settings = detector.pipeline_, detector.pipeline_.settings
    if old.splits is not None and "train" in old.splits:
        old = old[old.splits == "train"]
    if pipeline.fitted_to is not None:
        new = np.concatenate([sample.digests(), chosen.digests()])
        fitted_to = np.setdiff1d(pipeline.fitted_to, new)
        check_old(replace(pipeline, fitted_to=fitted_to), old)
        if pipeline.calibrated_by == "cross":  # it was fitted to all that it was given
            old = old[np.isin(old.digests(), fitted_to) | (old.labels == 1)]
    if _labels_before(detector) == "ignore":
        old, settings = old[old.labels != 1], settings.model_copy(update={"labels": "auto"})
    factors = getattr(getattr(settings.model, "objective", None), "factors", ())
    group = settings.conditioning.group or ""
    old = _columns(old, pipeline, {*factors, group})
    seed = settings.model_copy(update={"random_state": detector.about_["seed"]})
    every = joined(old, _columns(sample, pipeline, {group})) if len(sample) else old
    new = Detector.from_settings(seed)
    return new.fit(every, fit_only=chosen if len(chosen) else None, calibration_set=calibration_set, progress=progress)


def _updated(detector: Detector, images: ImageSet, calibration_set: ImageSet | None, progress: bool) -> Detector:
    """A detector that took the reviewed images, without those that it was fitted to."""
    check_updatable(detector.pipeline_, old=False)
    known = detector.about_.get("reviews", {}).get("learned", ())
    fitted_to = detector.pipeline_.fitted_to
    seen = np.isin(images.ids, list(known))
    seen |= np.zeros(len(images), bool) if fitted_to is None else np.isin(images.digests(), fitted_to)
    images = images[~seen]
    if not (images.labels == 0).any():
        raise DataError(
            f"{images.name}: no good image that is new to the model and may join its fit; review more, or give the "
            "images that it was trained on by --with DATA (old=…)"
        )
    new = Detector.from_settings(detector.pipeline_.settings)
    new.__dict__.update(detector.__dict__)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "groups added to the calibration are gone")  # the sentences say it
        return new.update(images, calibration_set=calibration_set, progress=progress)


def _labels_before(detector: Detector) -> str:
    """What labels of the training images are used for; after reviews were learned from, as before them."""
    labels = detector.pipeline_.settings.labels
    before = detector.about_.get("reviews", {}).get("labels_before", labels)
    return before if isinstance(before, str) else "auto"


def _items(pipeline: Pipeline, images: ImageSet) -> Items:
    """The images with the columns that the model knows, measured ones too."""
    further = {column for group in pipeline.added for column in group.values}
    return measured(only(images, pipeline.schema, further), pipeline.settings, pipeline.schema)


def _columns(images: ImageSet, pipeline: Pipeline, further: Collection[str] = ()) -> ImageSet:
    """The images with the columns of the schema, and further ones."""
    kept = only(images, pipeline.schema, further)
    assert isinstance(kept, ImageSet)
    return kept


def _as_fitted(pipeline: Pipeline, images: ImageSet) -> ImageSet:
    """The images with the conditions of the model in its own terms: they were judged with texts where the fit had
    numbers, and a column of both would be one of texts."""
    conditions = dict(images.conditions)
    for column in pipeline.schema.columns:
        if column.name in conditions and column.roles:
            given = np.asarray(conditions[column.name], dtype=object)
            codes, numbers, _ = column.read(given, len(images))
            if column.kind == "categorical":
                known = [column.values[code] if code >= 0 else raw for code, raw in zip(codes, given, strict=True)]
                numbers = np.array(known, dtype=object)
            conditions[column.name] = numbers
    return images.replace(conditions=conditions)


def _conditions_known(pipeline: Pipeline, images: ImageSet) -> np.ndarray:
    """(N,) whether all conditions of an image are known, and occurred together among those fitted to."""
    schema, items = pipeline.schema, _items(pipeline, images)
    if not schema.columns:
        return np.ones(len(images), dtype=bool)
    if any(column.name not in items.conditions for column in schema.columns):
        return np.zeros(len(images), dtype=bool)
    known = np.asarray(~np.isnan(schema.encode_or_nan(items.conditions, len(items))).any(axis=1))
    some = items[known]
    known[known] = schema.expand(some.conditions, len(some)).stratum >= 0
    return known


def _flags(pipeline: Pipeline, images: ImageSet) -> np.ndarray:
    """(N,) bool."""
    return flagged(decided(pipeline, _items(pipeline, images), "infer").joint_p_values, pipeline.settings.alpha)


def _held_out(detector: Detector, images: ImageSet) -> dict[str, bool]:
    """Whether an image is flagged by models that did not learn from it, by id; not of all images it is known.

    A good one by the models without its fold. A defect by the model that has all others, which is exact: what is
    learned of one does not depend on the others. One that could not be learned from by the model as it is.
    """
    pipeline = detector.pipeline_
    found = {name: p <= pipeline.level() for name, p in getattr(detector, "out_of_fold_", {}).items()}
    report = detector.about_.get("labels", {})
    if "learned" not in report and "left_out" not in report:
        return found
    learned: list[str] = report.get("learned", [])
    first = len(pipeline.state["defect_directions"]) - len(learned) if learned else 0
    for i in np.flatnonzero(images.labels == 1).tolist():
        name, state = str(images.ids[i]), pipeline.state
        if name in learned:
            state = without(state, first + learned.index(name))
        elif name not in report["left_out"]:
            continue
        found[name] = bool(_flags(replace(pipeline, state=state), images[[i]])[0])
    return found


def unchanged(rows: list[Row]) -> list[str]:
    """What is judged by the new version as by the former one though people marked it, and what to do then."""
    sentences = []
    for row in rows:
        left = {FALSE_ALARMS: row.after, MISSED: row.images - row.after}.get(row.what, 0)
        verb = "is" if left == 1 else "are"
        if left and row.what == FALSE_ALARMS:
            sentences.append(
                f"{left:,} of {counted(row.images, 'marked false alarm')} {verb} flagged still: a few images change a "
                "fit little, and they do not calibrate. Mark more of their kind as good; or calibrate on images that "
                "nobody chose by their score (`knowngood calibrate MODEL DATA`). With a smaller "
                "--alpha less is flagged."
            )
        elif left:
            sentences.append(
                f"{left:,} of {counted(row.images, 'missed defect')} {verb} not flagged yet. Mark more of their kind, "
                "with the region of the defect drawn. With a larger --alpha more is flagged."
            )
    return sentences


def sentences_of(before: Detector, after: Detector, counts: dict[str, int]) -> list[str]:
    """What was learned from, what calibrates, and what the numbers mean."""
    sentences = []
    if n := counts["chosen"]:
        verb = "was" if n == 1 else "were"
        join = "it joins the fit and never calibrates" if n == 1 else "they join the fit and never calibrate"
        sentences.append(
            f"{counted(n, 'good image')} {verb} reviewed by choice: {join}, since images that people choose by their "
            "verdict are no random sample of normal ones."
        )
    if n := counts["sampled"]:
        sentences.append(f"{counted(n, 'good image')} of the random sample calibrate{'s' * (n == 1)}.")
    if n := counts["left_out"]:
        verb = "is" if n == 1 else "are"
        sentences.append(f"{counted(n, 'good image')} {verb} left out, with a condition that is unknown or new.")
    if "labels" in after.about_ and counts["defects"]:
        report = after.about_["labels"]
        sentences.append(report["sentence"])
        reasons = Counter(report.get("left_out", {}).values())
        if not report.get("learned") and counts["chosen"]:
            sentences.append("What is judged otherwise now is so by the good images alone.")
        sentences += [f"{counted(n, 'labelled image')} not learned from: {why}." for why, n in reasons.items()]
    shares = []
    for pipeline in (before.pipeline_, after.pipeline_):
        calibration = calibrated(pipeline)
        p_values = calibration.p_values(calibration.scores, calibration.strata)
        shares.append(f"{int((p_values <= pipeline.level()).sum()):,} of {len(calibration):,}")
    sentences.append(
        f"Of the images that calibrate {shares[0]} were flagged before and {shares[1]} are now; alpha fixes this share."
    )
    if added := before.pipeline_.added:
        sentences.append(f"G{explain_gone(added)[1:]}.")
    sentences.append(
        "'Flagged after' counts images that the new version learned from, and is optimistic. 'Flagged if held out' "
        "counts those that are flagged by models that did not learn from the image (- where there are none)."
    )
    return sentences
