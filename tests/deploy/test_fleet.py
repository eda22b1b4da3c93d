"""A model for each product: the same as fitted alone, errors by name, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from knowngood import Detector
from knowngood.cli import main
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.deploy.fleet import Fitted, fit_each, fit_one, fitted_before, products
from knowngood.errors import DataError, SettingsError
from stores import pictures, png, ray_answers, write_files

SETTINGS = {"representation": "hog", "model": "memory_bank"}
N = 24


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def images(*names: object) -> ImageSet:
    x = np.concatenate([pictures(N, k) for k in range(len(names))])
    columns = {
        "product": np.repeat(np.array(names, dtype=object), N),
        "camera": np.tile(["A", "B"], N * len(names) // 2),
    }
    return ImageSet.from_arrays(x, conditions=columns)


def test_products_have_their_images_and_folders_of_their_own(tmp_path):
    found = products(images("nut/M4", "bolt"), "product", tmp_path)
    assert [one.name for one in found] == ["bolt", "nut/M4"]
    assert [one.folder.name for one in found] == ["bolt", "nut_M4"]
    assert [len(one.images) for one in found] == [N, N]
    assert all(list(one.images.conditions) == ["camera"] for one in found)


@pytest.mark.parametrize(
    ("names", "column", "said"),
    [
        (("a", "b"), "kind", "no such column; their columns are: product, camera"),
        (("a", None), "product", "24 images without product"),
        (("a/b", "a:b"), "product", "one folder"),
    ],
)
def test_what_cannot_be_split_is_refused(names, column, said, tmp_path):
    with pytest.raises(DataError, match=said):
        products(images(*names), column, tmp_path)


@pytest.mark.slow
def test_the_fit_of_a_product_is_that_of_its_images_alone(tmp_path):
    one, _ = products(images("a", "b"), "product", tmp_path)
    found = fit_one(one, parse_settings(SETTINGS))
    alone = Detector("hog", "memory_bank").fit(one.images)
    new = one.images.replace(conditions=one.images.conditions)
    np.testing.assert_array_equal(Detector.load(one.folder / "model").score_samples(new), alone.score_samples(new))
    assert found == fitted_before(one.folder)
    assert found.images == N


def test_a_product_that_is_refused_is_named_and_one_that_is_there_stays(tmp_path, monkeypatch):
    some = products(images("a", "b"), "product", tmp_path)
    few = some[1]._replace(images=some[1].images[:1])
    assert "at least" in fit_one(few, parse_settings(SETTINGS)).error
    assert fitted_before(few.folder) is None
    assert not fit_one(some[0], parse_settings(SETTINGS)).error

    def never(*_: object) -> Fitted:
        raise AssertionError

    monkeypatch.setattr("knowngood.deploy.fleet.fit_one", never)
    assert [one.name for one in fit_each(some[:1], parse_settings(SETTINGS), workers=1)] == ["a"]


@pytest.mark.slow
def test_who_asks_to_end_does_not_wait_for_the_fits_in_hand(tmp_path):
    a, b = products(images("a", "b"), "product", tmp_path)
    long = parse_settings({"representation": "pixels", "model": "vae", "training": {"epochs": 2000}})
    fits = fit_each([a._replace(images=a.images[:1]), b], long, workers=2)
    assert next(fits).name == "a"  # refused at once
    fits.close()
    assert fitted_before(b.folder) is None
    assert not (b.folder / "model").exists()


def test_the_model_of_other_images_or_settings_is_not_taken_for_this_one(tmp_path):
    one, _ = products(images("a", "b"), "product", tmp_path)
    settings = parse_settings(SETTINGS)
    assert not fit_one(one, settings).error
    fewer, other = one._replace(images=one.images[1:]), settings.model_copy(update={"alpha": 0.2})
    for product, chosen in ((fewer, settings), (one, other)):
        with pytest.raises(SettingsError, match="other images or settings"):
            list(fit_each([product], chosen, workers=1))


def test_an_error_of_any_kind_ends_the_fit_of_its_product_alone(tmp_path, monkeypatch, capsys):
    one, _ = products(images("a", "b"), "product", tmp_path)

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("of a library")

    monkeypatch.setattr(Detector, "fit", failing)
    assert fit_one(one, parse_settings(SETTINGS)).error == "RuntimeError: of a library"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [(), ("--cluster", "local")], ids=["processes", "ray"])
def test_the_command_fits_each_product(cluster, tmp_path, capsys):
    if cluster:
        pytest.importorskip("ray")
    files = {f"{name}/train/good/{i}.png": png(one) for name in "ab" for i, one in enumerate(pictures(N))}
    files |= {f"{name}/test/good/0.png": png(pictures(1)[0]) for name in "abc"}
    for i in range(18, N):
        del files[f"b/train/good/{i}.png"]
    files["c/train/good/0.png"] = png(pictures(1)[0])
    data, out = write_files(tmp_path / "data", files), tmp_path / "out"
    words = ["train", data, "--each", "product", "--fits", "1", "--out", out, *cluster]
    code, said = run(*words, "--representation", "hog", "--model", "memory_bank", "--json"), capsys.readouterr()
    ray_answers(said.err)
    assert code == 3, said.err
    assert f"1 of 3 products have no model; the same command with --out {out} fits them" in said.err
    records = {one["name"]: one for one in json.loads(said.out)}
    assert [(name, bool(one["error"])) for name, one in records.items()] == [("a", False), ("b", False), ("c", True)]
    assert records["a"]["folder"] == str(out / "a")
    assert [one["kind"] for one in records["b"]["findings"]] == ["too-few"]
    assert "b: warning: " in said.err
    assert "a: warning: " not in said.err
    for name in "ab":
        assert run("score", out / name, data / name / "test", "-o", tmp_path / f"{name}.csv") == 0


def test_options_of_one_fit_are_refused(tmp_path, capsys):
    assert run("train", tmp_path, "--fits", "2") == 2
    assert "--each" in capsys.readouterr().err
    assert run("train", tmp_path, "--each", "product", "--dry-run") == 2
    assert "--each product takes no " in capsys.readouterr().err
