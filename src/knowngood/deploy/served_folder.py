"""A model folder in use by a service: judges and explains with torch, and learns from reviews."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data import ImageSet
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judgement import Asked, Kept, Row
from knowngood.deploy.logs import event
from knowngood.deploy.map_png import map_record
from knowngood.deploy.served_model import ServedModel, described, name_of
from knowngood.detector.estimator import Detector
from knowngood.detector.explain import explain as explanations
from knowngood.detector.explain.reference import group_of, groups_of, scaled_images
from knowngood.detector.latents import code
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.remarks import shape_notes
from knowngood.detector.results import Detected, flagged
from knowngood.detector.versions import fingerprint, in_use
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.evaluation.drift_reference import Reference, group_names
from knowngood.evaluation.figures.subject import makes_images
from knowngood.evaluation.score_stream import reference_of
from knowngood.files import plain
from knowngood.representations import Table


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderModel(ServedModel):
    """folder: of the version. mark: its fingerprint, which tables of `knowngood score` have as `scored_by`."""

    folder: Path
    detector: Detector
    device: str

    @classmethod
    def load(cls, path: Path, name: str | None = None, device: str = "cpu") -> FolderModel:
        """The version in use of the model at `path`.

        Raises:
            ArtifactError: there is none, or it is damaged. SettingsError: it is none of images.
        """
        folder = in_use(path)
        mark = fingerprint(folder)
        detector = Detector.load(folder, device=device)
        if isinstance(detector.pipeline_.representation, Table):
            raise SettingsError(f"{path}: this model was fitted to a table; expected a model of images")
        name = name or name_of(path)
        if math.isinf(detector.offset_):
            why = "nothing is flagged: too few calibration images for this alpha"
            event(why, logging.WARNING, model=name, alpha=detector.alpha)
        pipeline = detector.pipeline_
        return cls(
            name=name,
            path=path,
            mark=mark,
            version=int(folder.name) if folder.name.isdecimal() else None,
            alpha=detector.alpha,
            card=detector.card_,
            columns=pipeline.given_columns,
            limits=Limits.of(pipeline.settings.data),
            about=_about(pipeline),
            learned=detector.about_.get("reviews"),
            reconstructs=makes_images(pipeline),
            folder=folder,
            detector=detector,
            device=device,
        )

    def judged(self, images: ImageSet, asked: Asked) -> list[Row]:
        rows: list[Row] = []
        pipeline = self.detector.pipeline_
        located = asked.keep and pipeline.score.has_map
        options: Any = {"unknown": asked.unknown, "alpha": asked.alpha, "maps": asked.maps or located}
        options["regions"] = located and pipeline.map_calibration is not None
        try:
            for batch in self.detector.stream(images, **options):
                rows += self._records(batch)
                if asked.maps:
                    found = [None if values is None else map_record(values) for values in batch.maps]
                    for row, one in zip(rows[-len(found) :], found, strict=True):
                        row["map"] = one
                if asked.explain:
                    self._explain(batch, asked, rows)
                if asked.keep:
                    for row, one in zip(rows[-len(batch.index) :], self._kept(batch, asked), strict=True):
                        row["kept"] = one
        except DataError:
            if len(rows) < len(images):
                raise
        return rows

    def normal_image(self, reference: int) -> np.ndarray | None:
        index = self.detector.pipeline_.reference
        return None if index is None else np.moveaxis(index.mean_image(reference), 0, -1)

    def compared_image(self, images: ImageSet) -> np.ndarray | None:
        return np.moveaxis(scaled_images(self.detector.pipeline_, images)[0].numpy(), 0, -1)

    def code(self, images: ImageSet, moved: Mapping[int, float]) -> tuple[list[dict[str, float]], np.ndarray]:
        if not self.reconstructs:
            return super().code(images, moved)
        found = code(self.detector.pipeline_, images, moved, "infer")
        dims = [
            {"dim": dim, "z": float(found.z[dim]), "kl": float(found.kl[dim])}
            for dim in np.argsort(-found.kl, kind="stable").tolist()
        ]
        return dims, np.moveaxis(found.made, 0, -1)

    def drift_reference(self) -> Reference | None:
        pipeline = self.detector.pipeline_
        return None if pipeline.calibration is None else reference_of(pipeline, "anomaly_score", np.zeros(0))

    def groups_of(self, conditions: list[str]) -> list[str]:
        pipeline = self.detector.pipeline_
        return group_names(conditions, pipeline.schema, [group.name for group in pipeline.added])

    def is_changed(self) -> bool:
        try:
            folder = in_use(self.path)
            mark = fingerprint(folder)
        except (ArtifactError, OSError):  # half-way through a copy
            return False
        return bool(mark) and (mark, folder) != (self.mark, self.folder)

    def loaded_again(self) -> FolderModel:
        return FolderModel.load(self.path, self.name, self.device)

    def _records(self, batch: Detected) -> list[Row]:
        columns = {str(name): batch.table[name].tolist() for name in batch.table if name != "label"}
        columns["note"] = shape_notes(self.detector.pipeline_, batch.items, batch.decisions)
        columns["error"] = columns.pop("error", [None] * len(batch.table))  # last, and in every row
        return [dict(zip(columns, map(plain, cells), strict=True)) for cells in zip(*columns.values(), strict=True)]

    def _explain(self, batch: Detected, asked: Asked, rows: list[Row]) -> None:
        """Add to the rows of this batch, the last ones, why they have their scores."""
        level = self.alpha if asked.alpha is None else asked.alpha
        flags = flagged(batch.decisions.joint_p_values, level)
        own = {row["id"]: row for row in rows[-len(batch.index) :]}
        about = {"alpha": level, "most": len(own), "others": True}
        for row in own.values():
            row["explanation"] = None
        for one in explanations(self.detector.pipeline_, batch.items, batch.decisions, flags, **about):
            record = one.to_record()
            kept = {name: value for name, value in record.items() if name not in own[one.id] and name != "id"}
            own[one.id]["explanation"] = plain(kept)

    def _kept(self, batch: Detected, asked: Asked) -> Iterator[Kept | None]:
        """What is kept of each image of this batch; None of one that cannot be read."""
        pipeline = self.detector.pipeline_
        groups = None if pipeline.reference is None else groups_of(pipeline)
        for i, values in enumerate(batch.maps):
            stratum = int(batch.decisions.best.stratum[i])
            if i in batch.decisions.errors:
                yield None
                continue
            boxes = tuple(region.box for region in batch.regions[i] or ())
            reference = None if groups is None else int(group_of(groups, np.array([stratum]))[0])
            alpha = self.alpha if asked.alpha is None else asked.alpha
            yield Kept(alpha, values, batch.scales[i], boxes, reference)


def _about(pipeline: Pipeline) -> dict[str, Any]:
    parts: dict[str, Any] = {part: getattr(pipeline.settings, part) for part in ("representation", "model", "score")}
    given = pipeline.given_columns
    return {
        **{part: options.name for part, options in parts.items()},
        "calibration_items": len(pipeline.calibration or ()),
        "conditions": described([one for one in pipeline.schema.columns if one.name in given]),
        "groups": [dict(group.values) for group in pipeline.added],
        "maps": bool(pipeline.score.has_map),
        "runs_on": "torch",
    }
