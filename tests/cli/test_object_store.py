"""Images in a bucket: opened, trained on, scored and evaluated as a folder is; results put beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector, open_images
from knowngood.cli import main
from knowngood.cli.destination import Destination
from knowngood.data.stores.address import Address, is_url
from knowngood.data.stores.pace import Pace
from knowngood.errors import DataError, SettingsError, StoreError
from stores import pictures, png, s3_server, upload, write_files, write_parquet, write_tar

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

N = 30


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        upload(f"{url}/train", {f"{i:02d}.png": png(one) for i, one in enumerate(pictures(N))})
        upload(f"{url}/new", new())
        yield url


def new() -> dict[str, bytes]:
    found = {f"good/{i:02d}.png": png(one) for i, one in enumerate(pictures(N, 1))}
    found |= {f"bad/{i:02d}.png": png(255 - one) for i, one in enumerate(pictures(5, 2))}
    return found | {"good/broken.png": b"no image", "good/notes.txt": b"a note", ".hidden/0.png": b""}


@pytest.fixture(scope="module")
def trained(bucket, tmp_path_factory) -> Path:
    """A model trained on the bucket by the command line."""
    out = tmp_path_factory.mktemp("model") / "run"
    assert run("train", f"{bucket}/train", "--representation", "hog", "--model", "memory_bank", "--out", out) == 0
    return out


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_files(tmp_path / "new", new())


def test_a_bucket_is_opened_as_the_folder(bucket, folder):
    here, there = open_images(folder), open_images(f"{bucket}/new")
    assert there.ids.tolist() == here.ids.tolist()
    np.testing.assert_array_equal(there.labels, here.labels)
    assert there.conditions["class"].tolist() == here.conditions["class"].tolist()
    assert [str(one) for one in there.rejected] == [str(one) for one in here.rejected]


def test_a_bucket_is_scored_as_the_folder_and_the_table_is_put_there(
    bucket, folder, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("score", trained, folder, "--output", "here.csv") == 0
    assert run("score", trained, f"{bucket}/new", "--output", f"{bucket}/results/scores.csv") == 0
    said = capsys.readouterr()
    assert f"table   {bucket}/results/scores.csv" in said.out
    assert "limited by" in said.err
    assert Address.of(f"{bucket}/results/scores.csv").read() == Path("here.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.csv", "new"]  # nothing is left of it
    table = pd.read_csv("here.csv")
    assert len(table) == N + 6
    assert table["error"].notna().sum() == 1  # counted and named


def test_a_url_of_a_folder_takes_a_parquet_table(bucket, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("score", trained, f"{bucket}/new", "-o", f"{bucket}/night/") == 0
    assert list(Address.of(f"{bucket}/night").find()) == ["scores.parquet"]


def test_credentials_are_never_printed(bucket, trained, capsys, tmp_path):
    assert run("score", trained, "s3://key:secret-of-the-url@parts/new") == 2
    assert run("score", trained, "s3://parts/new?X-Amz-Signature=secret-of-the-url") == 2
    assert run("score", trained, "s3://elsewhere/new") == 3
    assert run("score", trained, "ftp://parts/new") == 2
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err
    record = (trained / "command.json").read_text()
    assert "secret" not in record


def test_a_bucket_is_evaluated(bucket, trained, capsys):
    assert run("evaluate", trained, f"{bucket}/new") == 0
    assert "AUROC" in capsys.readouterr().out


def test_shards_and_parquet_of_a_bucket(bucket, folder, tmp_path):
    good = {name: content for name, content in new().items() if name.startswith(("good/0", "bad"))}
    path = write_tar(tmp_path / "train-0.tar", good)
    upload(f"{bucket}/shards", {path.name: path.read_bytes()})
    table = write_parquet(tmp_path / "test-0.parquet", good)
    upload(f"{bucket}/tables", {table.name: table.read_bytes()})
    here = open_images(folder)
    for there in (
        open_images(f"{bucket}/shards"), open_images(f"{bucket}/shards/train-0.tar"), open_images(f"{bucket}/tables"),
    ):  # fmt: skip
        at = [here.ids.tolist().index(name) for name in there.ids.tolist()]
        assert sorted(there.ids.tolist()) == sorted(good)
        there.expect(np.arange(len(there)))
        assert all(np.array_equal(there.read(i), here.read(k)) for i, k in enumerate(at))


def test_a_manifest_of_a_bucket_names_what_is_missing(bucket):
    upload(bucket, {"list.csv": b"path,label\nnew/good/00.png,good\nnew/none.png,good\n"})
    images = open_images(f"{bucket}/list.csv")
    assert images.ids.tolist() == ["new/good/00.png", "new/none.png"]
    assert images.read(0).shape == (16, 16, 1)
    with pytest.raises(DataError, match=r"none\.png: does not exist"):
        images.read(1)


def test_a_store_that_does_not_answer_ends_the_run_and_sets_nothing_aside(monkeypatch):
    url = upload("memory://silent/new", {"0.png": png(pictures(1)[0])})
    images = open_images(url)
    monkeypatch.setattr("knowngood.data.stores.blobs.WAITS", ())

    def silent(*_: object, **__: object) -> bytes:
        raise TimeoutError("https://store/?signature=secret")

    monkeypatch.setattr(type(Address.of(url).fs), "cat_file", silent)
    detector = Detector("hog", "memory_bank").fit(pictures(N))
    with pytest.raises(StoreError, match="does not answer") as error:
        detector.detect(images)
    assert "secret" not in str(error.value)


def test_what_is_a_url():
    assert is_url("s3://bucket/x")
    assert not any(map(is_url, ("C:/x", "folder/s3", Path("x"), 3, "mnist")))
    with pytest.raises(SettingsError, match="names no bucket"):
        Address.of("s3:///")


def test_a_destination_is_a_file_or_a_place_in_a_store():
    assert Destination.of("a.csv") == Destination(Path("a.csv"))
    assert Destination.of(None) == Destination(None)
    assert Destination.of("file:///tmp/a.csv").path == Path("/tmp/a.csv")
    there = Destination.of("s3://b/r/a.csv")
    assert str(there) == "s3://b/r/a.csv"
    assert there.path is not None
    assert there.path.suffix == ".csv"
    assert there.path.parent == Path()
    assert Destination.of("s3://b/other/a.csv").path != there.path


@pytest.mark.parametrize(
    ("waiting", "fetching", "decoding", "said"),
    [(1, 5, 1, "the model"), (8, 5, 1, "the network"), (8, 1, 5, "decoding")],
)
def test_the_pace_names_what_limited(waiting, fetching, decoding, said):
    pace = Pace("network")
    pace.loaded(fetching, decoding)
    pace.waiting = waiting
    assert f"limited by {said}" in pace.sentence(10)
