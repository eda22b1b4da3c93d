"""Video files as images: every n-th frame, read when asked for. `clip.mp4/step=25` takes every 25th."""

from __future__ import annotations

import copy
import re
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from knowngood.data.findings import Finding, Unreadable, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.readers.limits import Limits
from knowngood.errors import DataError, SettingsError

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
NEAR = 64  # frames that are read on rather than looked for


class VideoPixels:
    """Frames of a video by their numbers. Reading may raise `Unreadable`, which names the frame and why."""

    def __init__(self, path: Path, frames: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.path, self.frames, self.shape = path, np.asarray(frames, np.int64), shape
        self._open = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoPixels, (self.path, self.frames, self.shape)

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, i: int) -> np.ndarray:
        frame, reader = int(self.frames[i]), getattr(self._open, "reader", None)
        if reader is None:
            self._open.reader, self._open.at = reader, _ = _opened(self.path), 0
        if not self._open.at <= frame <= self._open.at + NEAR:
            reader.set(_cv2().CAP_PROP_POS_FRAMES, frame)
            self._open.at = frame
        while self._open.at < frame:
            reader.grab()
            self._open.at += 1
        found, picture = reader.read()
        self._open.at += 1
        if not found or picture.shape != self.shape:
            raise Unreadable(
                self.path, "truncated", f"frame {frame} cannot be decoded: the video is cut off or damaged"
            )
        return picture[..., ::-1]  # OpenCV has blue first

    def take(self, indices: np.ndarray) -> Self:
        taken = copy.copy(self)
        taken.frames, taken._open = self.frames[np.asarray(indices, np.int64)], threading.local()
        return taken

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image."""
        return [(self.shape[2], "uint8")] * len(self)

    def shapes(self) -> np.ndarray:
        return np.tile(np.array(self.shape, np.int64), (len(self), 1))

    def stamps(self) -> list[str]:
        """A text for each frame that changes when its file does; nothing is decoded."""
        found = self.path.stat()
        return [f"{found.st_size} {found.st_mtime_ns} {frame}" for frame in self.frames.tolist()]

    def update(self, digest: Any) -> None:
        for i in range(len(self)):
            digest.update(np.ascontiguousarray(self.read(i)).data)


def video_of(source: str) -> tuple[Path, int | None] | None:
    """The file and the step of `clip.mp4` or `clip.mp4/step=25`; None if the name is of something else.

    Raises:
        SettingsError: what follows the file is no step.
    """
    name, _, options = source.replace("\\", "/").rpartition("/")
    if "=" not in options:
        return (Path(source), None) if source.lower().endswith(SUFFIXES) else None
    if not name.lower().endswith(SUFFIXES):
        return None
    found = re.fullmatch(r"step=([1-9]\d*)", options)
    if found is None:
        raise SettingsError(
            f"{source}: a video takes step=N, every N-th frame, such as {name}/step=25; got '{options}'"
        )
    return Path(name), int(found[1])


def read_video(path: Path, step: int | None = None, limits: Limits | None = None) -> ImageSet:
    """Every n-th frame of a video; by default about one a second. Ids are `clip.mp4/000025`, by the frame.

    Raises:
        DataError: OpenCV is not installed, the file is no video, or a frame is too large.
    """
    cv2, reader = _cv2(), _opened(path)
    count, rate = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), float(reader.get(cv2.CAP_PROP_FPS))
    found, first = reader.read()
    reader.release()
    if not found or first.ndim != 3 or count < 1:
        raise DataError(f"{path}: no frame of it can be decoded; it may be damaged, or of a codec that OpenCV lacks")
    (limits or Limits()).check_picture(path, *first.shape)
    chosen = step or max(1, round(rate) if np.isfinite(rate) else 1)
    frames = np.arange(0, count, chosen)
    name = printable(path.name)
    ids = np.array([f"{name}/{frame:06d}" for frame in frames])
    what = f"every {chosen}th frame" if chosen > 1 else "every frame"
    reason = f"{what} is read, {len(frames):,} of {count:,}; {name}/step=N takes every N-th"
    images = ImageSet(VideoPixels(path, frames, first.shape), ids, np.full(len(ids), np.nan), {}, name=name)  # type: ignore[arg-type]
    return images.replace(rejected=(Finding(name, "frames", reason, "note"),))


def _opened(path: Path) -> Any:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # OpenCV ends the process
        raise DataError(
            f"{printable(str(path))}: a path that is no text cannot be opened as a video; rename it"
        ) from None
    reader = _cv2().VideoCapture(str(path))
    if not reader.isOpened():
        raise DataError(f"{path}: cannot be opened as a video; it may be damaged, or of a codec that OpenCV lacks")
    return reader


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise DataError(
            "a video file needs OpenCV: pip install 'knowngood[align]'; or give its frames as image files, for example "
            "of ffmpeg -i clip.mp4 -vf fps=1 frames/%06d.png"
        ) from None
    return cv2
