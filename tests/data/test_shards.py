"""Images in tar shards and parquet files: the same pixels and labels as from a folder; what cannot be read is named."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from knowngood import Detector, open_images
from knowngood.data.audit import audit
from knowngood.data.findings import Unreadable
from knowngood.data.stores.ahead import Ahead
from knowngood.data.stores.fetched_pixels import FetchedPixels, kept_local
from knowngood.errors import DataError
from stores import pictures, png, upload, write_files, write_parquet, write_tar


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    found = {f"good/{i:03d}.png": png(one) for i, one in enumerate(pictures(24))}
    return found | {f"scratch/{i:03d}.png": png(255 - one) for i, one in enumerate(pictures(4, 1))}


def test_shards_are_read_as_the_folder_they_were_packed_from(tmp_path, files):
    folder = open_images(write_files(tmp_path / "folder", files))
    names = list(files)
    for k, part in enumerate((names[:10], names[10:])):
        write_tar(tmp_path / "shards" / f"train-{k:04d}.tar", {name: files[name] for name in part})
    shards = open_images(tmp_path / "shards")
    assert shards.ids.tolist() == folder.ids.tolist()
    assert shards.conditions["class"].tolist() == folder.conditions["class"].tolist()
    np.testing.assert_array_equal(shards.labels, folder.labels)
    assert set(shards.splits) == {"train"}
    assert all(np.array_equal(shards.read(i), folder.read(i)) for i in range(len(folder)))
    np.testing.assert_array_equal(shards.shapes(), folder.shapes())


def test_samples_of_a_shard_have_classes_and_conditions_beside_them(tmp_path, files):
    contents = [content for name, content in files.items() if name < "h"][:4]
    members: dict[str, bytes] = {}
    for i, content in enumerate(contents):
        members |= {
            f"{i}.png": content,
            f"{i}.cls": b"ok" if i else b"dent",
            f"{i}.json": b'{"camera": "A", "box": [1]}',
        }
    images = open_images(write_tar(tmp_path / "shards" / "0.tar", members).parent)
    assert images.labels.tolist() == [1, 0, 0, 0]
    assert images.conditions["camera"].tolist() == ["A"] * 4
    assert list(images.conditions) == ["camera", "class"]


@pytest.mark.parametrize("place", ["folder", "store"])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_what_lies_beside_shards_is_reported(tmp_path, files, place, kind):
    folder, some = tmp_path / "set", {name: files[name] for name in list(files)[:4]}
    (write_tar if kind == "tar" else write_parquet)(folder / "data" / f"train-0.{kind}", some)
    write_files(folder, {"README.md": b"about", ".cache/a.lock": b"", "data/sizes.json": b"{}"})
    source = folder
    if place == "store":
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        source = upload(f"memory://{tmp_path.name}/set", {name: path.read_bytes() for name, path in found.items()})
    images = open_images(source)
    assert len(images) == 4
    assert [str(one) for one in images.rejected] == [
        "README.md: is not an image by its name",
        "data/sizes.json: is not an image by its name",
    ]


def test_shards_beside_images_are_none(tmp_path, files):
    write_tar(tmp_path / "backup.tar", files)
    write_files(tmp_path, {"0.png": files["good/000.png"]})
    assert open_images(tmp_path).ids.tolist() == ["0.png"]


def test_members_of_one_name_in_two_shards_are_told_apart(tmp_path, files):
    content = files["good/000.png"]
    for k in "ab":
        write_tar(tmp_path / f"{k}.tar", {"0.png": content})
    assert open_images(tmp_path).ids.tolist() == ["a.tar/0.png", "b.tar/0.png"]


def test_masks_in_shards_mark_as_in_a_folder(tmp_path, files):
    mask = np.zeros((16, 16), np.uint8)
    mask[2:5, 3:9] = 255
    content = files["good/000.png"]
    layout = {"train/good/0.png": content, "test/good/1.png": content, "test/scratch/2.png": content}
    write_tar(tmp_path / "s" / "0.tar", {**layout, "ground_truth/scratch/2_mask.png": png(mask)})
    images = open_images(tmp_path / "s")
    at = images.ids.tolist().index("test/scratch/2.png")
    np.testing.assert_array_equal(images.mask(at), mask > 0)
    assert images.labels[at] == 1
    assert len(images) == 3


@pytest.mark.parametrize("damage", ["compressed", "cut"])
def test_a_shard_that_cannot_be_read_is_named(tmp_path, files, damage):
    path = write_tar(tmp_path / "bad.tar", {"0.png": files["good/000.png"]})
    if damage == "compressed":
        path.unlink()
        with tarfile.open(path, "w:gz"):
            pass
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"bad\.tar"):
        open_images(tmp_path)


def test_a_member_that_is_cut_off_is_set_aside_by_name(tmp_path, files):
    contents = {f"{i}.png": content for i, content in enumerate(list(files.values())[:3])}
    images = open_images(write_tar(tmp_path / "s" / "0.tar", {**contents, "bad.png": b"no image"}).parent)
    detector = Detector("hog", "memory_bank").fit(pictures(24))
    found = detector.detect(images).set_index("id")
    assert found["error"].notna().tolist() == [False, False, False, True]
    assert found.loc["bad.png", "error"]


def test_parquet_of_hugging_face_has_classes_paths_and_pixels(tmp_path, files):
    folder = open_images(write_files(tmp_path / "folder", files))
    labels = [int(name.startswith("scratch")) for name in files]
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", files, labels, ("good", "scratch"))
    for source in (tmp_path / "data", tmp_path / "data" / "train-00000-of-00001.parquet"):
        images = open_images(source)
        assert images.ids.tolist() == folder.ids.tolist()
        assert images.conditions["class"].tolist() == folder.conditions["class"].tolist()
        np.testing.assert_array_equal(images.labels, folder.labels)
        assert set(images.splits) == {"train"}
        order = np.random.default_rng(0).permutation(len(images))  # across row groups
        assert all(np.array_equal(images.read(i), folder.read(i)) for i in order)


def test_parquet_files_that_number_their_classes_otherwise_are_refused(tmp_path, files):
    some = dict(list(files.items())[:4])
    write_parquet(tmp_path / "p" / "a.parquet", some, [0, 0, 0, 1], ("good", "scratch"))
    write_parquet(tmp_path / "p" / "b.parquet", some, [1, 1, 1, 0], ("scratch", "good"))
    with pytest.raises(DataError, match=r"b\.parquet: its classes are .*'scratch', 'good'.*expected the same"):
        open_images(tmp_path / "p")


def test_parquet_of_bytes_alone_is_numbered(tmp_path, files):
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = list(files.values())[:3]
    table = pa.table({"picture": [*contents, None], "camera": ["A", "B", "A", "A"], "label": ["good", "bad", "", ""]})
    pq.write_table(table, tmp_path / "a.parquet")
    images = open_images(tmp_path / "a.parquet")
    assert images.ids.tolist() == ["0", "1", "2", "3"]
    assert images.conditions["camera"].tolist() == ["A", "B", "A", "A"]
    assert images.labels[:2].tolist() == [0, 1]
    with pytest.raises(DataError, match="has no bytes"):
        images.read(3)


def test_a_parquet_manifest_is_still_a_manifest(tmp_path, files):
    import pandas as pd

    write_files(tmp_path, {"0.png": files["good/000.png"]})
    pd.DataFrame({"path": ["0.png"]}).to_parquet(tmp_path / "m.parquet")
    assert open_images(tmp_path / "m.parquet").ids.tolist() == ["0.png"]


@pytest.mark.slow
def test_a_model_fitted_to_shards_is_the_one_fitted_to_files(tmp_path, files):
    good = {name: content for name, content in files.items() if name.startswith("good")}
    folder, shards = write_files(tmp_path / "f", good), write_tar(tmp_path / "s" / "0.tar", good).parent
    write_parquet(tmp_path / "p" / "0.parquet", good)
    new = pictures(9, 3)
    one, *others = (Detector("hog", "memory_bank").fit(place) for place in (folder, shards, tmp_path / "p"))
    for other in others:
        np.testing.assert_array_equal(one.score_samples(new), other.score_samples(new))


def test_what_is_expected_is_loaded_ahead_in_order_and_within_memory():
    loaded: list[int] = []
    ahead = Ahead(lambda k: loaded.append(k) or np.zeros(k, np.uint8), lambda found: 10, threads=1, memory=50)
    ahead.expect(range(100))
    assert [len(ahead.take(k)) for k in range(3)] == [0, 1, 2]
    ahead.take(3)
    assert loaded == sorted(loaded)
    assert len(loaded) <= 3 + 1 + 5 + 1
    assert len(ahead.take(77)) == 77  # not in turn: loaded at once


def test_an_error_of_loading_is_raised_where_it_is_taken():
    def load(k: int) -> int:
        if k == 1:
            raise DataError("one")
        return k

    ahead = Ahead(load, lambda found: 1, threads=2, memory=10)
    ahead.expect([0, 1, 2])
    assert ahead.take(0) == 0
    with pytest.raises(DataError, match="one"):
        ahead.take(1)
    assert ahead.take(2) == 2


class Counted:
    """Blobs that count how often each is fetched."""

    remote, root = True, "counted"

    def __init__(self, contents: list[bytes]) -> None:
        self.contents, self.fetched = contents, [0] * len(contents)

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, k: int) -> str:
        return f"{k}.png"

    def stamp(self, k: int) -> str:
        return str(k)

    def fetch(self, k: int) -> bytes:
        self.fetched[k] += 1
        return self.contents[k]


def test_local_copies_are_bounded_and_gone_at_the_end(files):
    contents = list(files.values())[:10]
    size = sum(map(len, contents[:5]))
    from knowngood.data import ImageSet

    blobs = Counted(contents)
    images = ImageSet(FetchedPixels(blobs), np.arange(10).astype(str), np.zeros(10), {})
    kept = kept_local(images, size / 1e9)
    for _ in range(3):
        for i in range(10):
            kept.read(i)
    assert blobs.fetched[:5] == [1] * 5
    assert blobs.fetched.count(3) >= 4  # one small image more may fit
    copies = kept.pixels.copies
    assert sum(file.stat().st_size for file in copies.folder.iterdir()) <= size
    folder = copies.folder
    del kept, copies
    assert not folder.exists()


def test_fetched_pixels_can_be_sent_to_other_processes(files):
    pixels = FetchedPixels(Counted(list(files.values())[:4])).take(np.array([2, 0]))
    pixels.expect(np.arange(2))
    sent = pickle.loads(pickle.dumps(pixels))
    assert np.array_equal(sent.read(0), pixels.read(0))
    assert len(sent) == 2


def test_json_beside_an_image_must_be_an_object(tmp_path, files):
    write_tar(tmp_path / "0.tar", {"0.png": files["good/000.png"], "0.json": json.dumps([1]).encode()})
    with pytest.raises(DataError, match=r"0\.json: holds a list"):
        open_images(tmp_path)


def test_a_shard_that_is_cut_or_damaged_at_a_header_says_so(tmp_path, files):
    whole = write_tar(tmp_path / "a.tar", files).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        start = tar.getmembers()[2].offset
    for content in (whole[:start], whole[: start + 100], whole[:start] + b"\xff" * 512 + whole[start + 512 :]):
        (tmp_path / "a.tar").write_bytes(content)
        images = open_images(tmp_path)
        assert len(images) == 2
        assert [(one.kind, one.severity) for one in images.rejected] == [("truncated", "error")]
        assert "after 2 images" in images.rejected[0].reason


def test_a_damaged_row_group_sets_its_images_aside_by_name(tmp_path, files):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": pa.array(list(files.values()), pa.binary())})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2, compression="none")
    found = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = found.dictionary_page_offset or found.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    images = open_images(tmp_path)
    assert images.read(0).ndim == 3
    with pytest.raises(Unreadable, match="row group 1 is damaged"):
        images.read(2)


def test_shards_that_number_their_members_alike_say_no_class_and_keep_their_layout(tmp_path, files):
    content = files["good/000.png"]
    mask = np.zeros((16, 16), np.uint8)
    mask[2:5, 3:9] = 255
    for k in "ab":
        write_tar(tmp_path / "plain" / k / "0.tar", {"0.png": content, "1.png": content})
        layout = {"train/good/0.png": content, "test/scratch/0.png": content, "test/good/1.png": content}
        write_tar(tmp_path / "split" / f"{k}.tar", {**layout, "ground_truth/scratch/0_mask.png": png(mask)})
    plain = open_images(tmp_path / "plain")
    assert plain.ids.tolist() == ["a/0.tar/0.png", "a/0.tar/1.png", "b/0.tar/0.png", "b/0.tar/1.png"]
    assert plain.conditions == {}
    split = open_images(tmp_path / "split")
    assert sorted(split.splits) == ["test"] * 4 + ["train"] * 2
    assert set(split.conditions) == {"class"}
    assert np.nansum(split.labels) == 2
    assert [split.mask(i) is not None for i in range(6)] == [name == "scratch" for name in split.conditions["class"]]


def test_a_member_that_comes_twice_counts_as_where_it_is_unpacked(tmp_path, files):
    first, second = files["good/000.png"], files["good/001.png"]
    write_tar(tmp_path / "0.tar", {"0.png": first, "1.png": first})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        info = tarfile.TarInfo("0.png")
        info.size = len(second)
        tar.addfile(info, io.BytesIO(second))
    images = open_images(tmp_path)
    assert images.ids.tolist() == ["0.png", "1.png"]
    assert [(one.path_or_id, one.kind) for one in images.rejected] == [("0.png", "repeated")]
    with tarfile.open(tmp_path / "0.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert np.array_equal(images.read(0), open_images(tmp_path / "out").read(0))


def test_a_link_in_a_shard_is_named(tmp_path, files):
    write_tar(tmp_path / "0.tar", {"0.png": files["good/000.png"]})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.LNKTYPE, "0.png"
        tar.addfile(info)
    images = open_images(tmp_path)
    assert images.ids.tolist() == ["0.png"]
    assert [(one.path_or_id, one.kind) for one in images.rejected] == [("1.png", "unsupported")]


def test_an_empty_member_counts_as_unreadable(tmp_path, files):
    write_tar(tmp_path / "0.tar", {"0.png": b"", "1.png": files["good/000.png"]})
    with pytest.raises(DataError, match=r"above the tolerance.*\n.*0\.png: is empty"):
        audit(open_images(tmp_path)).check()


def test_a_damaged_parquet_file_among_others_is_named(tmp_path, files):
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "b.parquet", files)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        open_images(tmp_path)


@pytest.mark.parametrize("place", ["shards", "store"])
def test_masks_that_cannot_be_used_are_set_aside_as_those_of_a_folder(tmp_path, files, place):
    content, full = files["good/000.png"], np.full((16, 16), 255, np.uint8)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16) // 4 + 60  # neither dark nor bright, and nothing is 0
    masks = {"0": png(full), "1": png(full[:9]), "2": png(grey), "3": b"", "4": png(0 * full)}
    layout = {f"test/bad/{k}.png": content for k in masks} | {"test/good/9.png": content}
    layout |= {f"ground_truth/bad/{k}_mask.png": mask for k, mask in masks.items()}
    expected = audit(open_images(write_files(tmp_path / "folder", layout)))
    if place == "shards":
        write_tar(tmp_path / "s" / "0.tar", layout)
        images = open_images(tmp_path / "s")
    else:
        images = open_images(upload("memory://masks", layout))
    found = audit(images)
    kinds = [sorted((one.path_or_id, one.kind) for one in a.findings if "mask" in one.kind) for a in (found, expected)]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) == 4
    assert [found.images.mask(i) is None for i in range(6)] == [expected.images.mask(i) is None for i in range(6)]


def test_a_folder_label_is_read_in_shards_as_in_a_folder(tmp_path, files):
    names = list(files)
    mask = np.zeros((16, 16), np.uint8)
    mask[3:5] = 255
    layout = {f"Train/{k}.png": files[name] for k, name in enumerate(names[:4])}
    layout |= {f"Train/Label/{k}_label.png": png(mask) for k in range(2)}
    folder = open_images(write_files(tmp_path / "folder", layout))
    write_tar(tmp_path / "s" / "0.tar", layout)
    shards = open_images(tmp_path / "s")
    assert shards.ids.tolist() == folder.ids.tolist() == ["Train/0.png", "Train/1.png", "Train/2.png", "Train/3.png"]
    np.testing.assert_array_equal(shards.labels, folder.labels)
    write_tar(tmp_path / "t" / "0.tar", layout | {"Train/Label/1_label.png": b""})
    assert len(open_images(tmp_path / "t")) == 6  # a damaged one opens all the same
