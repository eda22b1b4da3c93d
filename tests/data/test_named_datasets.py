from __future__ import annotations

import gzip
import hashlib
import io
import socket
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knowngood.data import dataset_names, describe_datasets, open_dataset, open_images
from knowngood.data.datasets import downloads
from knowngood.data.datasets import named as datasets
from knowngood.data.datasets.downloads import Remote, fetch
from knowngood.data.datasets.factors import open_factors
from knowngood.data.readers.cifar import CIFAR_NAMES
from knowngood.errors import DataError, SettingsError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder of data sets and an empty cache."""
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def packed_idx(array):
    start = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(start + array.astype(np.uint8).tobytes())


def noise(n, seed, size=28):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def write_mnist(folder, prefixes=("train", "t10k"), n=6, size=28):
    folder.mkdir(parents=True)
    for seed, prefix in enumerate(prefixes):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(packed_idx(noise(n, seed, size)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(packed_idx(np.arange(n) % 10))


def test_digits_need_no_files():
    images = open_dataset("digits")
    assert images.shapes()[0].tolist() == [8, 8, 1]
    assert images.pixels.array.dtype == np.uint8
    assert images.pixels.array.max() == 16
    assert len(images) == 1797
    assert images.variant is None
    assert np.array_equal(images.splits == "test", np.arange(1797) % 4 == 3)
    assert sorted(set(images.conditions["class"])) == list("0123456789")
    assert open_dataset("digits", split="test").fingerprint() == images.split("test").fingerprint()


def test_every_dataset_describes_itself():
    records = describe_datasets()
    assert [record["name"] for record in records] == dataset_names()
    assert {"digits", "mnist", "fashion-mnist", "kmnist", "emnist/byclass", "pneumoniamnist", "cifar10"} <= set(
        dataset_names()
    )
    assert all(isinstance(value, str) and value for record in records for value in record.values())


def test_every_download_has_a_checksum():
    remotes = [remote for entry in datasets._ALL for remote in entry.files]
    assert remotes
    for remote in remotes:
        kind, _, value = remote.checksum.partition(":")
        assert len(value) == {"md5": 32, "sha256": 64}[kind]
        assert all(url.endswith(remote.file) or remote.file in url for url in remote.urls)


def test_local_files_come_first_and_other_counts_are_named(root):
    write_mnist(root / "mnist")
    images = open_dataset("mnist", download=False)
    assert images.variant == "not the official counts: 6 train of 60,000, 6 test of 10,000"
    assert np.array_equal(images.pixels.array[:6, ..., 0], noise(6, 0))
    assert images.splits.tolist() == ["train"] * 6 + ["test"] * 6
    assert images.conditions["class"].tolist() == list("012345") * 2
    assert np.array_equal(open_dataset("mnist", split="test").pixels.array[..., 0], noise(6, 1))
    assert open_images("mnist").fingerprint() == images.fingerprint()


def test_the_cache_is_found_too(root):
    write_mnist(root.parent / "cache" / "mnist")
    assert len(open_dataset("mnist", download=False)) == 12


def test_a_file_of_another_shape_is_refused(root):
    write_mnist(root / "mnist", size=20)
    with pytest.raises(DataError, match=r"mnist: its images have shape \(20, 20, 1\); expected \(28, 28, 1\)"):
        open_dataset("mnist")


def test_a_missing_file_is_named_with_the_folders_searched(root):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz not found in .*data/mnist and .*cache/mnist"):
        open_dataset("mnist", download=False)


@pytest.mark.parametrize("name", ["mnist", "emnist/letters", "cifar10", "pneumoniamnist", "dsprites"])
def test_a_missing_file_comes_with_the_command_that_gets_it(root, name):
    with pytest.raises(DataError, match="knowngood data get ") as refused:
        open_dataset(name, download=False)
    words = str(refused.value).partition("`knowngood data get ")[2].partition("`")[0]
    assert datasets.is_dataset(words)


def test_unknown_names_and_splits(root):
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        open_dataset("fashion_mnist")
    with pytest.raises(DataError, match="its splits are: train, test"):
        open_dataset("mnist", split="val")


def test_generated_sets_take_options_after_their_name():
    images = open_images("factors/number=5,size=16,seed=2")
    assert len(images) == 5
    assert images.shapes()[0].tolist() == [16, 16, 1]
    assert images.fingerprint() == open_factors(5, size=16, seed=2).fingerprint()
    parts = open_dataset("generated-parts/size=32, number=10, products=washer+gear", split="train")
    assert parts.ids.tolist() == [f"train/good/{i:06d}.png" for i in (0, 1, 2, 5, 6, 7)]
    assert set(parts.conditions["product"]) == {"washer", "gear"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("generated-parts/sise=64", "generated-parts has no option 'sise'; did you mean 'size'"),
        ("generated-parts/size", "'size' is no option; expected OPTION=VALUE"),
        ("generated-parts/size=big", "size = 'big'; expected a whole number"),
        ("generated-parts/size=31", "size = 31; expected a whole number, 32 to 1,024"),
        ("generated-parts/number=0", "number = 0; expected a whole number, 1 to"),
        ("generated-parts/products=washer+nut", "products has no 'nut'"),
        ("generated-parts/products=gear+gear", "products = 'gear.gear'; expected each once"),
        ("generated-parts/defects=scratches", "defects has no 'scratches'; did you mean 'scratch'"),
        ("generated-parts/products=gear,defects=wrong_product", "wrong_product needs two products"),
        ("factors/size=48", "size = 48"),
        ("factors/levels=1", "factors has no option 'levels'"),
    ],
)
def test_a_wrong_option_of_a_generated_set_is_named(name, said):
    with pytest.raises(SettingsError, match=said):
        open_images(name)


def test_kmnist_without_training_images_is_split_by_index(root):
    write_mnist(root / "kmnist", prefixes=("t10k",))
    images = open_dataset("kmnist", download=False)
    assert images.splits.tolist() == ["train", "test"] * 3
    assert images.variant.startswith("kmnist-t10k")
    assert open_dataset("kmnist", split="test").conditions["class"].tolist() == ["1", "3", "5"]


def test_kmnist_with_training_images_is_whole(root):
    write_mnist(root / "kmnist")
    assert open_dataset("kmnist", download=False).splits.tolist() == ["train"] * 6 + ["test"] * 6


@pytest.mark.parametrize("name", ["pneumoniamnist.npz", "pneumoniamnist_reassembled_28.npz"])
def test_pneumoniamnist_has_labels_and_words(root, name):
    (root / "pneumoniamnist").mkdir()
    arrays = {}
    for split, n in (("train", 4), ("val", 2), ("test", 3)):
        arrays |= {f"{split}_images": noise(n, n), f"{split}_labels": np.arange(n).reshape(-1, 1) % 2}
    np.savez(root / "pneumoniamnist" / name, **arrays)
    images = open_dataset("pneumoniamnist", download=False)
    assert images.conditions["class"].tolist()[:4] == ["NORMAL", "PNEUMONIA"] * 2
    assert images.labels.tolist()[:4] == [0, 1, 0, 1]
    assert ("reassembled" in images.variant) == ("reassembled" in name)
    assert len(open_dataset("pneumoniamnist", split="val")) == 2


# EMNIST ---------------------------------------------------------------------------------------------------------------

MAPPING = b"0 48\n1 65 97\n2 122\n"


def emnist_files(part="letters"):
    files = {f"emnist-{part}-mapping.txt": MAPPING}
    for seed, (split, labels) in enumerate({"train": [1, 0, 2], "test": [2, 1]}.items()):
        upright = noise(len(labels), seed)
        files[f"emnist-{part}-{split}-images-idx3-ubyte.gz"] = packed_idx(upright.transpose(0, 2, 1))
        files[f"emnist-{part}-{split}-labels-idx1-ubyte.gz"] = packed_idx(np.array(labels))
    return files


def write_emnist_zip(path, files):
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"gzip/{name}", data)


@pytest.mark.parametrize("unpacked", [False, True])
def test_emnist_is_turned_upright_and_mapped_to_characters(root, unpacked):
    if unpacked:
        (root / "emnist" / "gzip").mkdir(parents=True)
        for name, data in emnist_files().items():
            (root / "emnist" / "gzip" / name).write_bytes(data)
    else:
        write_emnist_zip(root / "emnist" / "gzip.zip", emnist_files())
    images = open_dataset("emnist/letters", download=False)
    assert images.conditions["class"].tolist() == ["A", "0", "z", "z", "A"]
    assert images.splits.tolist() == ["train"] * 3 + ["test"] * 2
    assert np.array_equal(images.pixels.array[..., 0], np.concatenate([noise(3, 0), noise(2, 1)]))
    assert open_dataset("emnist/letters", split="test").conditions["class"].tolist() == ["z", "A"]


def test_emnist_alone_means_byclass(root):
    write_emnist_zip(root / "emnist" / "gzip.zip", emnist_files("byclass"))
    assert open_dataset("emnist", download=False).name == "emnist/byclass"


def test_fmnist_is_fashion_mnist(root):
    with pytest.raises(DataError, match="fashion-mnist"):
        open_dataset("fmnist", download=False)
    with pytest.raises(DataError, match="fashion-mnist"):
        open_images("fmnist")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"emnist-letters-mapping.txt": None}, "has no file emnist-letters-mapping.txt"),
        ({"emnist-letters-mapping.txt": b"0 48\n"}, "has label 1, which emnist-letters-mapping.txt does not map"),
        ({"emnist-letters-mapping.txt": b"zero: 0"}, "expected lines of a label and a character code"),
        ({"emnist-letters-train-labels-idx1-ubyte.gz": packed_idx(np.zeros(9))}, r"shape \(9,\); expected \(3,\)"),
    ],
)
def test_a_damaged_emnist_is_refused_by_name(root, change, said):
    files = {name: data for name, data in {**emnist_files(), **change}.items() if data is not None}
    write_emnist_zip(root / "emnist" / "gzip.zip", files)
    with pytest.raises(DataError, match=said):
        open_dataset("emnist/letters", download=False)


def test_a_cut_zip_is_refused(root):
    write_emnist_zip(root / "emnist" / "gzip.zip", emnist_files())
    path = root / "emnist" / "gzip.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged archive"):
        open_dataset("emnist/letters")


# CIFAR-10 -------------------------------------------------------------------------------------------------------------


def cifar_files(n=2):
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    planes = np.random.default_rng(0).integers(0, 256, (6, n, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(6 * n, dtype=np.uint8).reshape(6, n) % 10
    files = {
        name: b"".join(bytes([labels[k, i]]) + planes[k, i].tobytes() for i in range(n)) for k, name in enumerate(names)
    }
    return files, planes.reshape(-1, 3, 32, 32), labels.reshape(-1)


@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar_10_binary(root, unpacked):
    files, planes, labels = cifar_files()
    if unpacked:
        folder = root / "cifar10" / "cifar-10-batches-bin"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    else:
        (root / "cifar10").mkdir()
        with tarfile.open(root / "cifar10" / "cifar-10-binary.tar.gz", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    images = open_dataset("cifar10", download=False)
    assert images.splits.tolist() == ["train"] * 10 + ["test"] * 2
    assert images.conditions["class"].tolist() == [CIFAR_NAMES[label] for label in labels]
    assert np.array_equal(images.pixels.array, planes.transpose(0, 2, 3, 1))
    assert len(open_dataset("cifar10", split="test")) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda files: files.update({"test_batch.bin": files["test_batch.bin"][:-1]}), "a multiple of 3073"),
        (lambda files: files.update({"test_batch.bin": b"\x0b" + files["test_batch.bin"][1:]}), "label 11"),
        (lambda files: files.pop("data_batch_3.bin"), r"no file data_batch_3\.bin"),
    ],
)
def test_damaged_cifar_is_refused(root, damage, said):
    files, *_ = cifar_files()
    damage(files)
    (root / "cifar10").mkdir()
    for name, data in files.items():
        (root / "cifar10" / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        open_dataset("cifar10")


# Downloads, without a network: file:// addresses ----------------------------------------------------------------------


def test_a_download_tries_each_address_and_checks_the_sum(root):
    working = root.parent / "official"
    working.write_bytes(b"data")
    remote = Remote("a.gz", ((root / "dead").as_uri(), working.as_uri()), "md5:" + hashlib.md5(b"data").hexdigest())
    assert fetch("set", remote).read_bytes() == b"data"
    assert fetch("set", remote).parent == downloads.cache_folder() / "set"
    other = replace(remote, checksum="md5:" + "0" * 32)
    with pytest.raises(DataError, match=r"not download a\.gz.*checksum is not md5:0.*put the file into .*cache/set"):
        fetch("set", other)
    assert fetch("set", replace(remote, urls=())).read_bytes() == b"data"  # the right one is still there
    (downloads.cache_folder() / "set" / "a.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="could not download"):
        fetch("set", replace(remote, urls=()))
    assert fetch("set", remote).read_bytes() == b"data"


def test_without_a_network_the_way_out_is_named(root: Path) -> None:
    """Nothing listens at the address: that is no fault of the folder that is written to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        remote = Remote("a.gz", (f"http://127.0.0.1:{taken.getsockname()[1]}/a.gz",), "md5:0")
        with pytest.raises(DataError, match=r"not download a\.gz.*no answer.*Check the network, or put the file into"):
            fetch("set", remote)


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/knowngood"),
        ("linux", {}, "/home/me/.cache/knowngood"),
        ("darwin", {}, "/home/me/Library/Caches/knowngood"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/knowngood/Cache"),
        ("linux", {"KNOWNGOOD_CACHE": "/mine", "XDG_CACHE_HOME": "/x"}, "/mine"),
    ],
)
def test_downloads_lie_where_the_platform_keeps_them(platform, variables, folder, monkeypatch):
    for name in ("KNOWNGOOD_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(downloads.sys, "platform", platform)
    assert downloads.cache_folder() == Path(folder)


def test_a_dataset_that_is_not_here_is_downloaded(root, monkeypatch):
    write_mnist(root.parent / "official")
    entry = datasets._DATASETS["mnist"]
    files = tuple(
        replace(
            remote,
            urls=((root.parent / "official" / remote.file).as_uri(),),
            checksum="md5:" + hashlib.md5((root.parent / "official" / remote.file).read_bytes()).hexdigest(),
        )
        for remote in entry.files
    )
    monkeypatch.setitem(datasets._DATASETS, "mnist", replace(entry, files=files))
    assert len(open_dataset("mnist")) == 12
    assert len(open_dataset("mnist", download=False)) == 12  # from the cache now
