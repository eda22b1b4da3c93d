"""An exported file in use by a service: judges with ONNX Runtime, and torch is not imported."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowngood.calibration import Calibration, find_regions
from knowngood.calibration.map_scale import own_scale, scale_of
from knowngood.data import ImageSet
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judgement import Asked, Kept, Row
from knowngood.deploy.logs import event
from knowngood.deploy.map_png import map_record
from knowngood.deploy.served_model import ServedModel, described
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.evaluation.drift_reference import Reference, by_scores, group_names
from knowngood.files import plain
from knowngood.runtime import ExportedDetector
from knowngood.runtime.calibration import calibration_arrays
from knowngood.runtime.model import Found

Stamp = tuple[int, int, int]  # of a file: inode, bytes, time of change in ns


@dataclass(frozen=True, eq=False, kw_only=True)
class FileModel(ServedModel):
    """mark: the fingerprint of the version that was exported. stamp: of the file. calibration, maps: as in the file.

    What needs the model itself is refused by name: explanations, normal images to compare with, learning from reviews.
    """

    stamp: Stamp
    detector: ExportedDetector
    calibration: Calibration
    maps: Calibration | None

    explains = learns = False

    @classmethod
    def load(cls, path: Path, name: str | None = None, device: str = "cpu") -> FileModel:
        """The file at `path`.

        Raises:
            ArtifactError: `knowngood export` did not write it. SettingsError: it is of a table, or for another device.
        """
        if device not in ("cpu", "auto"):
            raise SettingsError(f"--device {device}: an exported file is scored on the CPU here; give the model folder")
        stamp = _stamp(path)
        detector = ExportedDetector(path)
        if stamp is None or stamp != _stamp(path):
            raise ArtifactError(f"{path} changed while it was loaded; try again")
        facts, name = detector.facts, name or path.stem
        if "image" not in facts:
            raise SettingsError(f"{path}: this model was fitted to a table; expected a model of images")
        known = _calibration(facts["calibration"])
        if facts["threshold"] is None:
            why = "nothing is flagged: too few calibration images for this alpha"
            event(why, logging.WARNING, model=name, alpha=detector.alpha)
        maps = None if facts["map_calibration"] is None else _calibration(facts["map_calibration"])
        about = {
            **facts["recipe"],
            "calibration_items": len(known),
            "conditions": described(detector.schema.columns),
            "groups": [],
            "maps": detector.has_map,
            "runs_on": "onnxruntime",
        }
        return cls(
            name=name,
            path=path,
            mark=facts["fingerprint"],
            alpha=detector.alpha,
            card=facts["card"],
            columns=detector.schema.names,
            limits=Limits(**facts["limits"]),
            about=about,
            stamp=stamp,
            detector=detector,
            calibration=known,
            maps=maps,
        )

    def judged(self, images: ImageSet, asked: Asked) -> list[Row]:
        if asked.explain:
            raise SettingsError(self.lacks("explain"))
        mapped = asked.maps or (asked.keep and self.detector.has_map)
        rows = []
        for one in self.detector.stream(images, alpha=asked.alpha, unknown=asked.unknown, maps=mapped):
            row = {name: plain(value) for name, value in one.row.items()}
            row["note"] = self.detector.note_on(one)
            row["error"] = row.pop("error", None)  # last, and in every row
            if asked.maps:
                row["map"] = None if one.map is None else map_record(one.map)
            if asked.keep:
                row["kept"] = None if row["error"] is not None else self._kept(one, asked)
            rows.append(row)
        return rows

    def drift_reference(self) -> Reference | None:
        return by_scores(self.calibration, self.detector.facts["calibrated_by"])

    def groups_of(self, conditions: list[str]) -> list[str]:
        return group_names(conditions, self.detector.schema)

    def is_changed(self) -> bool:
        return _stamp(self.path) not in (None, self.stamp)

    def loaded_again(self) -> FileModel:
        return FileModel.load(self.path, self.name)

    def _kept(self, one: Found, asked: Asked) -> Kept:
        alpha = self.alpha if asked.alpha is None else asked.alpha
        if one.map is None:
            return Kept(alpha, None, None, (), None)
        known, stratum = self.maps, one.stratum
        if known is None:
            return Kept(alpha, one.map, own_scale(one.map), (), None)
        found = find_regions(one.map, known.threshold(asked.alpha, stratum))
        scale = scale_of(known, asked.alpha, stratum)
        return Kept(alpha, one.map, scale, tuple(region.box for region in found), None)


def _calibration(facts: Any) -> Calibration:
    try:
        return Calibration.from_tensors(calibration_arrays(facts), facts)
    except (DataError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"the calibration in the file is damaged: {error}; export it again") from None


def _stamp(path: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
