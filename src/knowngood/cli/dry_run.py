"""`train --dry-run`: what would be read, with which recipe, and about how long it would take; nothing is written."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.config import Conditioning, Settings, VAEOptions, counted
from knowngood.errors import NotEnoughNormals

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector

PROBE, OF_NETWORK = 16, 128  # images that are fitted to for the measurement; of a network
FURTHER = 20  # epochs by which a second fit of a network is longer
READ = 4  # images whose reading and features are timed


def describe(images: ImageSet, normals: ImageSet, unread: int = 0) -> dict[str, Any]:
    """What would be read: counts, sizes, condition columns with how many values each has.

    Args:
        unread: further images, which cannot be read.
    """
    shapes = normals.shapes()
    sizes = np.unique(shapes[:, :2], axis=0)
    columns = {name: len({str(value) for value in values.tolist()}) for name, values in normals.conditions.items()}
    if images.splits is not None and "train" in images.splits:
        images = images.split("train")
    return {
        "normal": len(normals),
        "labelled_anomalous": int((images.labels == 1).sum()),
        "set_aside": len(images.rejected) + unread,
        "sizes": [[int(side) for side in size] for size in sizes[:: max(1, len(sizes) - 1)]],
        "channels": sorted({int(n) for n in shapes[:, 2]}),
        "conditions": columns,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same in words."""
    (height, width), (most_high, most_wide) = found["sizes"][0], found["sizes"][-1]
    size = f"{width} × {height}" + f" to {most_wide} × {most_high}" * ((height, width) != (most_high, most_wide))
    channels = " or ".join(map(str, found["channels"]))
    channels += " channel" + "s" * (found["channels"] != [1])
    read = f"read    {counted(found['normal'], 'normal image')} of {size} px, {channels}"
    others = [(found["labelled_anomalous"], "labelled anomalous"), (found["set_aside"], "set aside or with a remark")]
    read += "".join(f", {n:,} {what}" for n, what in others if n)
    columns = ", ".join(f"{name} ({counted(n, 'value')})" for name, n in found["conditions"].items())
    return [read, f"given   {columns or 'no condition columns'}"]


def as_fitted(normals: ImageSet, settings: Settings) -> ImageSet:
    """The images with the columns that a fit takes as conditions, in the groups that their group column says.

    Copies, which it would find too, are not looked for.
    """
    from knowngood.data.groups import grouped
    from knowngood.detector.fit.inputs import measured, without_identifiers
    from knowngood.detector.fit.plan import factors_of

    roles = settings.conditioning.roles or {}
    apart = grouped(normals.replace(groups=np.arange(len(normals))), settings.conditioning.group)
    apart, _ = without_identifiers(apart, {name for name in roles if roles[name]}, factors_of(settings))
    return measured(apart, settings)  # type: ignore[return-value]


def estimate(settings: Settings, normals: ImageSet, planned: ImageSet) -> float:
    """Seconds that the fit would take, by fits to a few of the images. A network may stop earlier.

    Args:
        settings: resolved. planned: the images `as_fitted`.
    """
    from knowngood.detector.fit.plan import factors_of, make_plan

    network = isinstance(settings.model, VAEOptions)
    some = normals[np.random.default_rng(0).permutation(len(normals))[: OF_NETWORK if network else PROBE]]
    cells = len(make_plan(planned, planned[:0], settings, 0).schema.cells)  # refuses what cannot be fitted to
    changed: dict[str, Any] = {"training": settings.training.model_copy(update={"epochs": 1, "patience": None})}
    if not network:  # a few images of each condition are too few for it
        some, changed["conditioning"] = some.replace(conditions={}), Conditioning()
    try:
        detector, spent = _fitted(settings, changed, some)
    except NotEnoughNormals:  # a few images of each condition, or of few groups, leave none to calibrate
        factors = factors_of(settings)
        some = some.replace(conditions={name: v for name, v in some.conditions.items() if name in factors})
        changed["conditioning"] = settings.conditioning.model_copy(update={"roles": None, "group": None})
        detector, spent = _fitted(settings, changed, some)
    each, n = _seconds_to_read(detector, some), len(normals)
    models = 1 + (settings.calibration.folds if settings.calibration.method == "cross" else 0)
    rest = max(0.0, spent - each * len(some))
    if not network:
        return each * n + models * rest * max(1, cells)
    changed["training"] = changed["training"].model_copy(update={"epochs": 1 + FURTHER})
    longer, more = _fitted(settings, changed, some)
    steps = longer.about_["training"]["steps"] - detector.about_["training"]["steps"]
    return each * n + models * (rest + max(0.0, more - spent) / max(1, steps) * _steps(settings, n))


def _fitted(settings: Settings, changed: dict[str, Any], images: ImageSet) -> tuple[Detector, float]:
    """A detector fitted once to these images, and the seconds that it took."""
    from knowngood.detector.estimator import Detector

    calibration = settings.calibration.model_copy(update={"method": "split"})
    data = settings.data.model_copy(update={"tolerance": 1.0, "strict": False})  # of a few one may be cut off
    changed = {"data": data, "calibration": calibration, "alpha": 0.9, "labels": "ignore", **changed}
    probe = settings.model_copy(update=changed)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Detector.from_settings(probe).fit(images), time.perf_counter() - started


def _seconds_to_read(detector: Detector, images: ImageSet) -> float:
    """Of one image: reading, and its features."""
    representation, some = detector.pipeline_.representation, images[np.arange(min(READ, len(images)))]
    started = time.perf_counter()
    representation.to_tensor(some)
    return (time.perf_counter() - started) / len(some)


def _steps(settings: Settings, n: int) -> int:
    """Steps of the training of a network on n images."""
    from knowngood.detector.fit.learn import training_options
    from knowngood.training.loop import default_epochs

    options = training_options(settings, n)
    an_epoch = max(1, n // options.batch_size)
    return an_epoch * (options.epochs or default_epochs(an_epoch))
