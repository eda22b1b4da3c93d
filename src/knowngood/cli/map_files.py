"""The files that `score --maps` writes: colours over the images, or the values of the maps as 16-bit grey."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from knowngood.files import make_folder, whole, write_json

if TYPE_CHECKING:
    import numpy as np

    from knowngood.calibration.map_scale import MapScale

INDEX, LEGEND = "maps.json", "legend.png"


class OverlayWriter:
    """Maps as colours over their images, PNGs of the same size; maps.json and legend.png say what the colours mean."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.folder = folder
        self.scales: dict[str, MapScale] = {}
        self._names = dict(zip(ids, file_names(ids), strict=True))
        make_folder(folder)

    def add(self, name: str, image: Callable[[], np.ndarray], values: np.ndarray, scale: MapScale) -> None:
        """What reads the next image (H, W, C), and its map (H, W); written at once."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        from knowngood.calibration.map_scale import legend
        from knowngood.evaluation.figures.overlay import overlay

        self.scales[name] = scale
        about = PngInfo()
        about.add_text("Description", legend([scale]))
        with whole(self.folder / self._names[name]) as draft:
            Image.fromarray(overlay(image(), values, scale)).save(draft, pnginfo=about)

    def finish(self) -> str:
        """Write maps.json and legend.png; what the colours mean, in words."""
        from knowngood.calibration.map_scale import legend
        from knowngood.evaluation.figures import style
        from knowngood.evaluation.figures.overlay import colour_bar

        meaning = legend(self.scales.values())
        index = {
            "meaning": meaning,
            "colour_begins": {name: scale.begins for name, scale in self.scales.items()},
            "colour_is_full": {name: scale.full for name, scale in self.scales.items()},
            "maps": {name: self._names[name] for name in self.scales},
        }
        write_json(self.folder / INDEX, index)
        if meaning:
            style.save(colour_bar(meaning), self.folder / LEGEND)
        return meaning


class RawWriter:
    """16-bit grey PNGs of maps on one scale, and the scale itself in maps.json.

    A scale is known when the last map is; until then maps wait in a file beside the images, not in memory.
    """

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.folder = folder
        self._names = dict(zip(ids, file_names(ids), strict=True))
        self._shapes: dict[str, tuple[int, ...]] = {}
        make_folder(folder)
        self._waiting = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._smallest, self._largest = math.inf, -math.inf

    def add(self, name: str, _: Any, values: np.ndarray, __: Any) -> None:
        """The map (H, W) of the next image."""
        import numpy as np

        self._shapes[name] = values.shape
        values = np.asarray(values, np.float32)
        self._smallest = min(self._smallest, float(np.nanmin(values)))
        self._largest = max(self._largest, float(np.nanmax(values)))
        self._waiting.write(values.tobytes())

    def finish(self) -> str:
        """Write the images, one a map; ignored regions, where a map is NaN, get the lowest value."""
        import numpy as np
        from PIL import Image

        from knowngood.deploy.map_png import grey_levels, scale_of

        self._waiting.seek(0)
        offset, scale = self._smallest if self._shapes else 0.0, scale_of(self._smallest, self._largest)
        for name, (height, width) in self._shapes.items():
            values = np.frombuffer(self._waiting.read(4 * height * width), np.float32).reshape(height, width)
            with whole(self.folder / self._names[name]) as draft:
                Image.fromarray(grey_levels(values, offset, scale)).save(draft)
        self._waiting.close()
        index = {
            "offset": offset,
            "scale": scale,
            "meaning": "anomaly = offset + scale * grey level",
            "maps": {name: self._names[name] for name in self._shapes},
        }
        write_json(self.folder / INDEX, index)
        return ""


WRITERS = {"overlay": OverlayWriter, "raw": RawWriter}


def file_names(ids: Sequence[str]) -> list[str]:
    """A PNG path below a folder for each image id: its own path where that is unique and stays inside."""
    names = []
    for i, text in enumerate(ids):
        path = PurePosixPath(text.replace("\\", "/"))
        inside = not path.is_absolute() and ".." not in path.parts and ":" not in text and path.name
        names.append(str(path.with_suffix(".png")) if inside else f"{i:06d}.png")
    seen: dict[str, int] = {LEGEND: 1}
    for name in names:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    return [name if seen[name.lower()] == 1 else f"{i:06d}-{PurePosixPath(name).name}" for i, name in enumerate(names)]
