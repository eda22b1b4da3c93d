"""Scoring on a cluster, by Ray Data: actors that hold the model, parts of the table out, exactly once for each item.

An actor scores the batches that one machine would make, so the scores are the same to the last bit on the same kind of
CPU with the same number of threads. A part is written whole, under a name that its first item gives: one that is scored
twice, because a worker died, is one part.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowngood.deploy.scored_parts import ScoredParts
from knowngood.detector.versions import in_use
from knowngood.errors import KnowngoodError, SettingsError

if TYPE_CHECKING:
    from knowngood.data import ImageSet

PART = 2048  # rows of a part where there are very many images, at least
PARTS = 64  # for workers to share, at least, unless a batch alone is more
RETRIES = 3  # of a part whose worker dies: an image that kills each of them must not go on for ever


class Asked(NamedTuple):
    """How the images are scored. mark: fingerprint of the model, a column of the table. threads: of each worker."""

    alpha: float | None
    unknown: Any
    mark: str
    threads: int = 1
    device: str = "cpu"


class ScoredPart(NamedTuple):
    """What a worker tells of a part: its items and what `remarks_on` needs of them; (n,) each."""

    first: int
    p_values: np.ndarray
    stratum: np.ndarray
    known: np.ndarray
    group: np.ndarray
    flagged: int
    errors: int


class Scorer:
    """Holds the model in a worker, and scores parts. Its arguments come from the object store of the cluster.

    files: of the model folder, by name. images: all of them; a worker reads those of its parts.
    """

    def __init__(self, files: dict[str, bytes], images: ImageSet, parts: ScoredParts, asked: Asked, size: int) -> None:
        import torch

        from knowngood.detector.estimator import Detector

        torch.set_num_threads(asked.threads)
        with tempfile.TemporaryDirectory(prefix="knowngood-") as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.detector = Detector.load(folder, device=asked.device)
        self.images, self.parts, self.asked, self.size = images, parts, asked, size

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found = [self.score(int(first)) for first in batch["first"]]
        return {name: [getattr(one, name) for one in found] for name in ScoredPart._fields}

    def score(self, first: int) -> ScoredPart:
        """Score one part and write it."""
        import pandas as pd

        items, asked = self.images[first : first + self.size], self.asked
        tables, decided = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # given once, where the run was started
            for one in self.detector.stream(items, unknown=asked.unknown, alpha=asked.alpha, refuse=False):
                rows = one.table.drop(columns=["error", "label"], errors="ignore")
                rows["error"] = [one.decisions.errors.get(i) for i in range(len(one.items))]
                tables.append(rows)
                decided.append(one.decisions)
        table = pd.concat(tables, ignore_index=True)
        table["is_anomalous"] = table["is_anomalous"].astype("boolean").mask(table["error"].notna())
        if not np.isnan(self.images.labels).all():
            table["label"] = items.labels
        self.parts.write_part(first, table.assign(scored_by=asked.mark))
        return ScoredPart(
            first,
            np.concatenate([one.p_values for one in decided]),
            np.concatenate([one.strata for one in decided]),
            np.concatenate([one.best.known for one in decided]),
            np.concatenate([one.group for one in decided]),
            int(table["is_anomalous"].fillna(False).sum()),
            int(table["error"].notna().sum()),
        )


def part_size(batch: int, items: int) -> int:
    """Items of a part: whole batches of one machine, so many that there are some 64 parts to share, or more."""
    return batch * max(1, min(math.ceil(PART / batch), items // (PARTS * batch)))


def score_parts(
    model: Path,
    images: ImageSet,
    parts: ScoredParts,
    asked: Asked,
    *,
    size: int,
    there: set[int],
    address: str,
    workers: int | None = None,
    scorer: type[Scorer] = Scorer,
) -> Iterator[ScoredPart]:
    """Score the images on a cluster; yields parts as they are done, in any order, without those that are there.

    Args:
        model: the model folder; it is sent to the workers.
        size: items of a part, of `part_size`. there: first items of parts that are not scored again.
        address: of the head of a Ray cluster, "auto", or "local": started here, and ended with the run.
        workers: actors of one model each; default one for each CPU that the cluster has, by `asked.threads`.

    Raises:
        SettingsError: Ray is not installed, or no cluster is at the address.
    """
    firsts = [first for first in range(0, len(images), size) if first not in there]
    with cluster(address, None if workers is None else workers * asked.threads) as ray:
        if not firsts:
            return
        folder = in_use(model)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        shared = tuple(map(ray.put, (files, images)))
        free = max(1, int(ray.cluster_resources().get("CPU", 1)) // asked.threads)
        workers = min(workers or free, len(firsts))
        data = ray.data.from_items([{"first": first} for first in firsts], override_num_blocks=len(firsts))
        done = data.map_batches(
            _Worker,
            fn_constructor_args=(scorer, *shared, parts, asked, size),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=asked.threads,
            num_gpus=1 if asked.device != "cpu" else None,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
        for row in done.iter_rows():
            yield ScoredPart(**{name: row[name] for name in ScoredPart._fields})


class _Worker:
    """A scorer of any class, with its large arguments taken from the object store."""

    def __init__(self, scorer: type[Scorer], files: Any, images: Any, *rest: Any) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        given = [ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in (files, images)]
        self.scorer = scorer(*given, *rest)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return self.scorer(batch)


def _start(ray: Any, **options: Any) -> None:
    """A local cluster; on a busy machine the first try may take longer than Ray waits."""
    for more in (2, 1, 0):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:
            ray.shutdown()
            if not more or "timed out" not in str(error):
                raise


@contextmanager
def cluster(address: str, cpus: int | None = None) -> Iterator[Any]:
    """Within, Ray is connected to the cluster, without its usage statistics and progress bars.

    Args:
        cpus: of a local one; default those of this machine.

    Raises:
        SettingsError: Ray is not installed, or no cluster is at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayTaskError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SettingsError("--cluster needs Ray: pip install 'knowngood[cluster]'") from None
    quiet = {"logging_level": "error", "log_to_driver": False}
    if address == "local":
        _start(ray, num_cpus=cpus, **quiet)
    else:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise SettingsError(
                f"--cluster {address}: no Ray cluster answers ({error}); start one by `ray start --head`, or give local"
            ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    except RayTaskError as error:
        cause = error.cause
        while cause is not None and not isinstance(cause, KnowngoodError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise (cause if isinstance(cause, KnowngoodError) else error) from error
    finally:
        ray.shutdown()
