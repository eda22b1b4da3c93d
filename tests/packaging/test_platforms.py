"""What other systems do differently, simulated: processes that spawn, backslashes, names that ignore case."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood import open_images
from knowngood.data.readers.manifest import read_manifest

SPAWNED = """
import multiprocessing

from knowngood import open_images


def sizes(folder):
    return len(open_images(folder))


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(sizes, [{folder!r}]))
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts" / "train" / "good"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.PNG")
    return tmp_path / "parts"


@pytest.mark.slow
def test_a_spawned_process_opens_images(parts: Path, tmp_path: Path) -> None:
    """On Windows and macOS a process begins without what its parent imported."""
    program = tmp_path / "program.py"
    program.write_text(SPAWNED.replace("{folder!r}", repr(str(parts))), encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[4]", done.stderr


@pytest.mark.slow
def test_a_fitted_detector_goes_to_a_spawned_process_and_back() -> None:
    from knowngood import Detector

    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    detector = Detector("hog", "memory_bank").fit(images)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        scores = pool.apply(detector.score_samples, (images[:3],))
    np.testing.assert_array_equal(scores, detector.score_samples(images[:3]))


def test_backslashes_in_a_manifest_are_folders(parts: Path) -> None:
    rows = [f"train\\good\\{i}.PNG,good,train" for i in range(4)]
    manifest = parts / "windows.csv"
    manifest.write_text("\r\n".join(["path,label,split", *rows]), encoding="utf-8-sig")
    images = read_manifest(manifest)
    assert len(images) == 4
    assert images.read(3).max() == 120


def test_endings_and_splits_in_capitals_are_the_same(parts: Path) -> None:
    (parts / "train").rename(parts / "Train")
    images = open_images(parts)
    assert len(images) == 4
    assert images.splits is not None
    assert set(images.splits) == {"train"}
