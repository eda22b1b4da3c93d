"""Video files as sources: frames by step, in any order; what cannot be read is refused by name."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from knowngood.data import open_images
from knowngood.data.content_digest import data_digest
from knowngood.data.findings import Unreadable
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.video import VideoPixels
from knowngood.errors import DataError, SettingsError

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of 48 × 32 pixels at 10 a second; frame i has red i · 4, without loss."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10, (48, 32))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no lossless video")
    for i in range(60):
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[..., 2] = 4 * i
        writer.write(frame)
    writer.release()
    return path


def reds(images: object) -> list[int]:
    return [round(float(images.read(i)[..., 0].mean()) / 4) for i in range(len(images))]  # type: ignore[attr-defined,arg-type]


def test_about_one_frame_a_second_by_default(clip: Path) -> None:
    images = open_images(clip)
    assert reds(images) == [0, 10, 20, 30, 40, 50]
    assert images.ids[1] == "clip.avi/000010"
    assert images.shapes().tolist() == [[32, 48, 3]] * 6
    assert "every 10th frame is read, 6 of 60" in images.rejected[0].reason


def test_frames_by_step_and_in_any_order(clip: Path) -> None:
    images = open_images(f"{clip}/step=7")
    assert reds(images) == [0, 7, 14, 21, 28, 35, 42, 49, 56]
    assert reds(images[np.array([8, 0, 5])]) == [56, 0, 35]
    assert reds(open_images(f"{clip}/step=1")) == list(range(60))
    again = pickle.loads(pickle.dumps(images.pixels))
    np.testing.assert_array_equal(again.read(3), images.read(3))


def test_the_content_decides_the_fingerprint(clip: Path) -> None:
    assert open_images(f"{clip}/step=7").fingerprint() != open_images(f"{clip}/step=8").fingerprint()
    assert open_images(f"{clip}/step=7").fingerprint() == open_images(f"{clip}/step=7").fingerprint()


def test_a_damaged_frame_is_no_reason_to_refuse_the_others(clip: Path) -> None:
    images = open_images(f"{clip}/step=30")
    cut = images.replace(pixels=VideoPixels(clip, np.array([0, 900]), (32, 48, 3)))
    assert data_digest(cut) == data_digest(cut) != data_digest(images)


def test_what_is_no_step_or_no_video_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a video takes step=N, every N-th frame.*clip\.avi/step=25"):
        open_images(f"{clip}/stpe=5")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match=r"a\.mp4: cannot be opened as a video"):
        open_images(tmp_path / "a.mp4")
    with pytest.raises(Unreadable, match="above the limit of 100"):
        open_images(clip, limits=Limits(pixels=100))
    broken = VideoPixels(clip, np.array([0, 900]), (32, 48, 3))
    with pytest.raises(Unreadable, match="frame 900 cannot be decoded"):
        broken.read(1)


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_a_name_that_is_no_text_is_refused(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.avi")
    try:
        shutil.copy(clip, path)
    except OSError:
        pytest.skip("this file system takes only text as names")
    with pytest.raises(DataError, match=r"udcff\.avi: a path that is no text cannot be opened as a video; rename it"):
        open_images(path)


def test_without_opencv_the_way_out_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"pip install 'knowngood\[align\]'"):
        open_images(clip)
