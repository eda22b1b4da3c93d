"""A model for each product: many fits beside each other, by processes of this machine or by Ray."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from knowngood.config import Settings, counted
from knowngood.data.content_digest import data_digest
from knowngood.errors import DataError, KnowngoodError, SettingsError
from knowngood.files import write_json

if TYPE_CHECKING:
    from knowngood.data import ImageSet

DONE = "fitted.json"  # in the folder of a product, once its model is saved
RETRIES = 3  # of a fit whose process dies


class Product(NamedTuple):
    """What is fitted. name: the value of the column. folder: gets `model` and, of a network, `run`."""

    name: str
    images: ImageSet
    folder: Path


class Fitted(NamedTuple):
    """What came of a product.

    images: normal ones it was fitted to. error: why there is no model, else empty. findings: of the audit, but for
    notes, see `Audit.to_records`.
    """

    name: str
    images: int
    alarms: str
    error: str = ""
    findings: Sequence[dict[str, str]] = ()


def products(images: ImageSet, column: str, folder: Path) -> list[Product]:
    """The images of each value of a column, without the column; in the order of the values.

    Raises:
        DataError: there is no such column, images lack a value, or two values would have one folder.
    """
    if column not in images.conditions:
        known = ", ".join(images.conditions) or "none"
        raise DataError(f"--each {column}: the data have no such column; their columns are: {known}")
    texts = np.array([str(value) for value in images.conditions[column]])
    missing = sum(value is None or value != value for value in images.conditions[column])
    if missing:
        raise DataError(
            f"--each {column}: {counted(missing, 'image')} without {column}; give each one, or leave these out"
        )
    names = sorted(set(texts.tolist()))
    folders = {name: re.sub(r"[^\w.-]", "_", name).strip(".") or "_" for name in names}
    if len({one.lower() for one in folders.values()}) < len(names):
        raise DataError(f"--each {column}: two values would have one folder; rename one of: {', '.join(names[:10])}")
    others = {name: values for name, values in images.conditions.items() if name != column}
    rest = images.replace(conditions=others)
    return [
        Product(name, rest[texts == name].replace(name=f"{images.name}, {name}"), folder / folders[name])
        for name in names
    ]


def fit_each(
    some: Iterable[Product], settings: Settings, *, workers: int, address: str | None = None
) -> Iterator[Fitted]:
    """Fit a model to each product that has none yet; yields what came of each, in any order.

    A product whose data are refused is named, and the others go on. One that was fitted before, in the same folder, is
    not fitted again.

    A product that fails, for whatever reason, is named too.

    Args:
        workers: fits beside each other, each with one thread. address: of a Ray cluster, or "local"; None:
            processes of this machine.

    Raises:
        SettingsError: Ray is not there; a folder has the model of other images or settings.
    """
    some = list(some)
    before = [fitted_before(one.folder, _digest(one, settings)) for one in some]
    waiting = [one for one, found in zip(some, before, strict=True) if found is None]
    yield from (found for found in before if found is not None)
    if address is not None:
        yield from _by_ray(waiting, settings, workers, address)
        return
    others, size = set(multiprocessing.active_children()), min(workers, max(1, len(waiting)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, mp_context=context, initializer=_end_by_ctrl_c) as pool:
        futures = {pool.submit(fit_one, one, settings): one for one in waiting}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield Fitted(futures[future].name, 0, "", "its process was killed; the same command goes on")
        except BaseException:  # asked to end: the fits in hand would take as long as they take
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _end_by_ctrl_c() -> None:
    """Ctrl-C, which reaches all processes, ends a worker in silence; else it would go on with the next product."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def fit_one(product: Product, settings: Settings) -> Fitted:
    """Fit and save the model of a product. An error is in the result: one product must not end the fits of others."""
    import torch

    from knowngood.detector.card import false_alarms
    from knowngood.detector.estimator import Detector

    torch.set_num_threads(1)
    run = product.folder / "run"
    try:
        detector = Detector.from_settings(settings).fit(product.images, run_dir=run, resume=True)
        detector.save(product.folder / "model")
        normals, findings = int(detector.about_["data"]["normals"]), detector.training_["audit"]
        serious = [one for one in findings if one["severity"] != "note"]
        found = Fitted(product.name, normals, false_alarms(detector.pipeline_), findings=serious)
        write_json(product.folder / DONE, found._asdict() | {"of": _digest(product, settings)})
    except KnowngoodError as error:
        return Fitted(product.name, 0, "", str(error))
    except Exception as error:
        traceback.print_exc()
        return Fitted(product.name, 0, "", f"{type(error).__name__}: {error}")
    return found


def fitted_before(folder: Path, of: str | None = None) -> Fitted | None:
    """What came of a product that was fitted by an earlier run; None if it was not.

    Raises:
        SettingsError: it was fitted to other images or with other settings than `of` stands for.
    """
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
        fitted_to = record.pop("of")
        found = Fitted(**record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if of is not None and fitted_to != of:
        raise SettingsError(
            f"{folder} holds the model of other images or settings; give another --out, or remove the folder to fit "
            "it again"
        )
    return found


def _digest(product: Product, settings: Settings) -> str:
    """Of the images and the settings of a fit, but for the device."""
    chosen = settings.model_dump_json(exclude={"device"})
    return hashlib.sha256(f"{data_digest(product.images)} {chosen}".encode()).hexdigest()


def _by_ray(some: list[Product], settings: Settings, workers: int, address: str) -> Iterator[Fitted]:
    from knowngood.deploy.ray_data import cluster

    with cluster(address, workers) as ray:
        fit = ray.remote(num_cpus=1, max_retries=RETRIES)(fit_one)
        asked = {fit.remote(one, settings): one.name for one in some}
        waiting = list(asked)
        while waiting:
            (done,), waiting = ray.wait(waiting)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:  # its worker died too often
                yield Fitted(asked[done], 0, "", f"{type(error).__name__}; the same command goes on")
