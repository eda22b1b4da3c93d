"""Outputs that cannot be written are refused before the work; what is counted is in the right number."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.outputs import anomalous_of, write_tables, writing
from knowngood.errors import OutputError
from knowngood.evaluation.score_stream import read_results


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused_and_no_lock_stays(tmp_path: Path) -> None:
    folder, file, new = tmp_path / "folder", tmp_path / "file", tmp_path / "new" / "one"
    folder.mkdir()
    file.touch()
    with pytest.raises(OutputError, match=r"folder cannot be written: .*give the name of a file"), writing(folder):
        pass
    with pytest.raises(OutputError, match=r"file cannot be written: .*a file stands"), writing(folders=[file]):
        pass
    with pytest.raises(OutputError, match="a file stands"), writing(file / "below"):
        pass
    with writing(file, new, None, folders=[folder, new.parent / "two", None]):
        pass
    assert sorted(tmp_path.iterdir()) == [file, folder]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="choose a folder that you may write to"), writing(folders=[folder]):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--explain", "--maps", "--output", "--regions"])
def test_score_refuses_an_output_before_it_reads_an_image(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 99, (30, 8, 8), np.uint8)
    Detector("pixels", "vae", training={"epochs": 1}, alpha=0.3).fit(images).save(tmp_path / "model")
    Image.fromarray(images[0]).save(tmp_path / "1.png")
    place = tmp_path / "place.csv"
    if flag in ("--output", "--regions"):
        place.mkdir()
    else:
        place.touch()
    monkeypatch.setattr("knowngood.cli.score.open_selected", lambda *_, **__: pytest.fail("images are read"))
    assert run("score", tmp_path / "model", tmp_path / "1.png", flag, place) == 4
    assert f"{place} cannot be written" in capsys.readouterr().err


def test_counts_of_one() -> None:
    assert anomalous_of(1, 20) == "1 of 20 images is anomalous"
    assert anomalous_of(0, 20) == "0 of 20 images are anomalous"
    assert anomalous_of(0, 1) == "0 of 1 image is anomalous"


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_table_whose_name_is_no_text_is_written_and_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"table\xff" + suffix.encode())
    table = pd.DataFrame({"id": ["a.png"], "anomaly_score": [0.5]})
    write_tables([table], path)
    found = read_results(path)
    assert found is not None
    assert found.astype({"anomaly_score": float}).to_dict("list") == table.to_dict("list")
