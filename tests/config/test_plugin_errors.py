"""An error inside a plug-in names the plug-in, and keeps its own traceback as the cause."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from knowngood import Detector, open_images
from knowngood.cli import main
from knowngood.config.installed import plugins
from knowngood.errors import DataError, PluginError

PACKAGE = """
from knowngood.data import ImageSet
from knowngood.data.open import Reader
from knowngood.errors import DataError

def broken(path):
    raise KeyError("exposure")

def broken_score(self, *given, **named):
    raise ZeroDivisionError("no exposure")

def refusing(path):
    raise DataError("no exposure in it")

RAW = Reader("raw", (".raw",), broken)
OTHER = Reader("other", (".other",), refusing)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with readers, as it lies among installed ones."""
    site = tmp_path / "site"
    (site / "camera_files").mkdir(parents=True)
    (site / "camera_files" / "__init__.py").write_text(PACKAGE)
    (site / "camera_files-1.2.dist-info").mkdir()
    (site / "camera_files-1.2.dist-info" / "METADATA").write_text("Name: camera-files\nVersion: 1.2\n")
    points = "[knowngood.readers]\nraw = camera_files:RAW\nother = camera_files:OTHER\n"
    (site / "camera_files-1.2.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    plugins.cache_clear()
    yield
    plugins.cache_clear()
    sys.modules.pop("camera_files", None)


@pytest.mark.slow
@pytest.mark.usefixtures("package")
def test_an_error_in_a_reader_names_it_and_keeps_its_own_as_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.raw").write_bytes(b"x")
    said = "plug-in 'raw' of the distribution camera-files 1.2 failed: KeyError: 'exposure'"
    with pytest.raises(PluginError, match=re.escape(said)) as failed:
        open_images(tmp_path / "a.raw")
    assert isinstance(failed.value.__cause__, KeyError)
    assert "camera_files" in "".join(traceback.format_exception(failed.value.__cause__))
    with pytest.raises(SystemExit) as left:
        main(["train", str(tmp_path / "a.raw"), "--out", str(tmp_path / "run")])
    assert left.value.code == 4
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("package")
def test_what_a_reader_refuses_is_said_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "a.other").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^no exposure in it$"):
        open_images(tmp_path / "a.other")


@pytest.mark.slow
@pytest.mark.usefixtures("package")
def test_an_error_in_a_score_names_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    detector = Detector("hog", "memory_bank", alpha=0.2).fit(images)
    broken = importlib.import_module("camera_files").broken_score
    monkeypatch.setattr(type(detector.pipeline_.score), "score", broken)
    for work in (detector.detect, detector.score_samples, Detector("hog", "memory_bank", alpha=0.2).fit):
        with pytest.raises(
            PluginError, match=r"of the distribution camera-files 1\.2 failed: ZeroDivisionError"
        ) as failed:
            work(images)
        assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_an_error_that_lies_in_no_plug_in_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    detector = Detector("hog", "memory_bank", alpha=0.2).fit(images)

    def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr(type(detector.pipeline_.score), "score", broken)
    with pytest.raises(ZeroDivisionError):
        detector.detect(images)
