"""The estimator from the outside: what goes in, what comes out, and what is promised about it."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from knowngood import Detector, ImageSet
from knowngood.calibration import benjamini_hochberg
from knowngood.config import DataOptions
from knowngood.detector.card import model_card
from knowngood.errors import ArtifactError, DataError, NotEnoughNormals, SettingsError
from knowngood.evaluation.evaluate import evaluate

SIDE = 8


def squares(n: int, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8×8 images (N, 8, 8) uint8 of one bright 3×3 square: top left for class "0", bottom right for "1"."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (n, SIDE, SIDE))
    which = rng.integers(0, classes, n)
    for image, k in zip(images, which, strict=True):
        at = 1 if k == 0 else 4
        image[at : at + 3, at : at + 3] += rng.integers(120, 200)
    return images.astype(np.uint8), which.astype(str)


def quick(
    epochs: int = 30, *, objective: object = "cvae", vae: dict | None = None, pixels: dict | None = None, **settings
):
    """A small VAE on pixels; `vae` and `pixels` are further options of these."""
    model = {"name": "vae", "objective": objective, "net": {"name": "mlp", "hidden": (32,)}, "latent_dim": 4}
    training = {"epochs": epochs, **settings.pop("training", {})}
    given = {"representation": {"name": "pixels", **(pixels or {})}, "model": {**model, **(vae or {})}, "device": "cpu"}
    return Detector(**{**given, "training": training, **settings})


@pytest.fixture(scope="module")
def fitted() -> Detector:
    images, kind = squares(600)
    return quick().fit(images, conditions={"kind": kind})


@pytest.fixture(scope="module")
def inferring() -> Detector:
    images, kind = squares(600)
    return quick(conditioning={"unknown": "infer"}, score="elbo").fit(images, conditions={"kind": kind})


@pytest.mark.slow
def test_detect_gives_score_certainty_and_under_which_condition(fitted):
    images, kind = squares(100, seed=1)
    table = fitted.detect(images, conditions={"kind": kind})
    assert list(table.columns) == [
        *("id", "anomaly_score", "p_value", "is_anomalous", "condition"),
        *("elbo", "elbo_surprise", "elbo_reconstruction", "elbo_kl", "neighbours", "neighbours_surprise"),
    ]
    np.testing.assert_allclose(table["elbo"], table["elbo_reconstruction"] + table["elbo_kl"], rtol=1e-5)
    assert table["condition"].tolist() == [f"kind={k}" for k in kind]
    assert table["p_value"].between(0, 1, inclusive="right").all()
    assert (table["is_anomalous"] == (table["p_value"] <= 0.05)).all()


@pytest.mark.slow
def test_an_anomalous_image_is_flagged_and_a_normal_one_is_not(fitted):
    images, kind = squares(200, seed=1)
    noise = np.random.default_rng(2).integers(0, 255, (50, SIDE, SIDE)).astype(np.uint8)
    assert fitted.detect(noise, conditions={"kind": np.full(50, "0")})["is_anomalous"].all()
    assert fitted.detect(images, conditions={"kind": kind})["is_anomalous"].mean() < 0.15


@pytest.mark.slow
def test_the_wrong_condition_makes_a_normal_image_anomalous(fitted):
    images, kind = squares(100, seed=1)
    wrong = np.where(kind == "0", "1", "0")
    right_scores = fitted.score_samples(images, conditions={"kind": kind})
    wrong_scores = fitted.score_samples(images, conditions={"kind": wrong})
    assert (wrong_scores < right_scores).mean() > 0.95


def test_flags_are_the_same_by_p_value_and_by_decision_function(fitted):
    images, kind = squares(300, seed=3)
    table = fitted.detect(images, conditions={"kind": kind})
    decision = fitted.decision_function(images, conditions={"kind": kind})
    assert ((decision < 0) == table["is_anomalous"]).all()
    assert (fitted.predict(images, conditions={"kind": kind}) == np.where(table["is_anomalous"], -1, 1)).all()
    assert table["is_anomalous"].any()


def test_calibration_items_themselves_agree_at_the_threshold(fitted):
    # Their scores sit exactly on thresholds, where rounding could part verdict and p-value.
    images, kind = squares(600)
    part = fitted.split_["calibrate"]
    table = fitted.detect(images[part], conditions={"kind": kind[part]})
    decision = fitted.decision_function(images[part], conditions={"kind": kind[part]})
    assert ((decision < 0) == table["is_anomalous"]).all()


@pytest.mark.slow
def test_unknown_condition_is_refused_or_inferred(fitted, inferring):
    images, kind = squares(200, seed=1)
    with pytest.raises(DataError, match=r"the model has no condition 'kid'; did you mean 'kind'.*'kind' is not given$"):
        fitted.detect(images, conditions={"kid": kind})
    with pytest.raises(DataError, match="condition 'kind' is not given; known: 0, 1"):
        fitted.detect(images)
    with pytest.raises(DataError, match="condition 'kind' has no value '7'; known: 0, 1"):
        fitted.detect(images, conditions={"kind": np.full(200, "7")})
    soft = inferring.detect(images)
    hard = fitted.detect(images, unknown="infer")
    for table in (soft, hard):
        assert (table["condition"] == [f"kind={k} (inferred)" for k in kind]).mean() > 0.95
        assert table["is_anomalous"].mean() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["detect", "predict", "anomaly_maps", "transform"])
def test_values_never_seen_are_inferred_with_one_warning_a_call(inferring, monkeypatch, ask):
    images, kind = squares(12, seed=4)
    monkeypatch.setattr("knowngood.detector.scoring.MOST_EXPANDED", 8)  # several portions
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = getattr(inferring, ask)(images, conditions={"kind": ["Z", *"6789AB", *kind[7:]]})
    assert [str(one.message) for one in caught] == [
        "condition 'kind' has no value '6', '7', '8', '9', 'A' … and 2 more (known: 0, 1); these items were treated as "
        "unknown and their condition inferred"
    ]
    if ask == "detect":
        assert found["condition"].str.endswith("(inferred)").tolist() == [True] * 7 + [False] * 5


@pytest.mark.slow
def test_values_that_are_missing_or_hidden_are_inferred_silently(inferring, fitted):
    images, kind = squares(6, seed=4)
    labelled = ImageSet.from_arrays(images, labels=np.arange(6) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferring.detect(images)
        inferring.detect(images, conditions={"kind": [None, *kind[1:]]})
        evaluate(inferring, labelled)
        evaluate(fitted, labelled, unknown="infer")
        with pytest.raises(DataError, match="has no value 'Z'"):
            fitted.detect(images, conditions={"kind": ["Z", *kind[1:]]})


def test_hard_inference_is_the_best_condition(fitted):
    images, _ = squares(50, seed=4)
    tables = [fitted.detect(images, conditions={"kind": np.full(50, k)}) for k in "01"]
    inferred = fitted.detect(images, unknown="infer")
    assert np.array_equal(inferred["p_value"], np.maximum(tables[0]["p_value"], tables[1]["p_value"]))
    best = np.minimum(tables[0]["anomaly_score"], tables[1]["anomaly_score"])
    assert np.allclose(inferred["anomaly_score"], best, rtol=1e-5)


def test_soft_inference_marginalises_conditions(inferring):
    images, _ = squares(50, seed=4)
    pipeline = inferring.pipeline_
    pairs = [inferring.detect(images, conditions={"kind": np.full(50, k)}) for k in "01"]
    elbo = [-(t["elbo_reconstruction"] + t["elbo_kl"]).to_numpy() for t in pairs]
    weights = np.array(pipeline.schema.counts) / sum(pipeline.schema.counts)
    summed = -np.logaddexp(np.log(weights[0]) + elbo[0], np.log(weights[1]) + elbo[1])
    expected = summed - (pipeline.marginal_calibration.pooled_threshold + inferring.offset_)
    assert np.allclose(inferring.detect(images)["anomaly_score"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_scoring_twice_and_in_any_batch_gives_the_same(fitted):
    images, kind = squares(700, seed=5)
    whole = fitted.score_samples(images, conditions={"kind": kind})
    assert np.array_equal(whole, fitted.score_samples(images, conditions={"kind": kind}))
    order = np.random.default_rng(0).permutation(700)
    cuts = np.split(order, [1, 8, 300])
    pieces = np.concatenate([fitted.score_samples(images[i], conditions={"kind": kind[i]}) for i in cuts])
    assert np.allclose(pieces, whole[order], rtol=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    images, kind = squares(120)
    first, second, other = (
        quick(epochs=3, random_state=seed).fit(images, conditions={"kind": kind}) for seed in (1, 1, 2)
    )
    for name, tensor in first.model_.state_dict().items():
        assert torch.equal(tensor, second.model_.state_dict()[name]), name
    scores = [d.score_samples(images, conditions={"kind": kind}) for d in (first, second, other)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_no_global_random_state_is_touched():
    images, _ = squares(60)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    quick(epochs=2).fit(images).detect(images)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_saved_and_loaded_it_scores_the_same_bits(inferring, tmp_path):
    images, kind = squares(80, seed=6)
    folder = inferring.save(tmp_path / "model")
    loaded = Detector.load(folder)
    for conditions in (None, {"kind": kind}):
        before, after = (d.detect(images, conditions=conditions) for d in (inferring, loaded))
        assert before.equals(after)
    assert loaded.offset_ == inferring.offset_
    assert loaded.get_params()["model"].latent_dim == 4
    assert json.loads((folder / "current.json").read_text()) == {"version": 1}
    folder = folder / "versions" / "0001"
    assert sorted(p.name for p in folder.iterdir()) == [
        *("calibration.safetensors", "card.md", "config.json"),
        *("scores.safetensors", "training.json", "weights.safetensors"),
    ]
    card = (folder / "card.md").read_text()
    assert "600 normal items" in card
    assert "kind (categorical, 2 values)" in card


def test_copies_travel_without_pickled_networks(fitted):
    images, kind = squares(20, seed=7)
    state = fitted.__getstate__()
    assert all(isinstance(data, bytes) for data in state["files_"].values())
    assert not any(isinstance(value, torch.nn.Module) for value in state.values())
    copied = copy.deepcopy(fitted)
    expected = fitted.score_samples(images, conditions={"kind": kind})
    assert np.array_equal(copied.score_samples(images, conditions={"kind": kind}), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "weights.safetensors").write_bytes(b"nonsense"), "weights.safetensors is damaged"),
        (lambda f: (f / "calibration.safetensors").unlink(), "calibration.safetensors is missing"),
        (lambda f: (f / "config.json").unlink(), "is no saved model"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{}"), "is not a knowngood-detector file"),
        (lambda f: _edit(f, format_version=99), "upgrade knowngood"),
        (lambda f: _edit(f, settings={"bogus": 1}), "was changed after the model was saved"),
        (lambda f: _edit(f, reference=[1]), r"reference\.0: Input should be a valid string"),
    ],
)
def test_a_damaged_foreign_or_newer_model_is_refused(fitted, tmp_path, change, message):
    folder = fitted.save(tmp_path / "model") / "versions" / "0001"
    change(folder)
    with pytest.raises(ArtifactError, match=message):
        Detector.load(folder)


def _edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_saving_adds_a_version_to_a_model_and_to_nothing_else(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    assert fitted.save(folder) == folder
    assert sorted(p.name for p in (folder / "versions").iterdir()) == ["0001", "0002"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="no saved model"):
        fitted.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"


def test_too_few_normals_for_alpha_warn_in_predict_and_refuse_in_detect():
    images, _ = squares(30)
    detector = quick(epochs=2, alpha=0.01).fit(images)
    assert math.isinf(detector.offset_)
    for ask in (detector.predict, detector.detect):
        with pytest.warns(UserWarning, match="cannot be guaranteed with 6 calibration items, it needs 99"):
            ask(images)
    with pytest.warns(UserWarning, match="nothing is flagged"):
        assert (detector.predict(images) == 1).all()
    assert "(93 missing)" in detector.card_
    with pytest.raises(NotEnoughNormals) as refused:
        detector.detect(images, alpha=0.01)
    assert refused.value.missing == 99 - 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(detector.score_samples(images)).all()


def uneven(*few: str) -> tuple[np.ndarray, np.ndarray]:
    """Squares of which 120 each are of the kinds A and B, and 3 of each other."""
    images, _ = squares(240 + 3 * len(few))
    return images, np.array([*"A" * 120, *"B" * 120, *(name for name in few for _ in range(3))])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("few", "said"),
    [
        ("C", r"calibration items: kind=C \([01]\); each needs 19 at alpha = 0\.05"),
        ("CDEFGHI", r"kind=C \([01]\), .*kind=G \([01]\) and 2 more; each needs 19"),
    ],
)
def test_conditions_too_small_to_be_calibrated_by_themselves_are_named(few, said):
    images, kind = uneven(*few)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = quick(epochs=2).fit(images, conditions={"kind": kind})
    (told,) = [str(one.message) for one in caught]
    assert re.search(said, told)
    assert "compared with all groups together, without a guarantee of their own" in told
    assert "conditioning={'roles': {'kind': ('model', 'infer')}}." in told
    own = detector.pipeline_.calibration.own()
    assert own.tolist() == [True, True, *[False] * len(few)]
    with pytest.warns(UserWarning, match=r"kind=C \(3\)"):
        copy.deepcopy(detector).calibrate(squares(len(images), seed=1)[0], conditions={"kind": kind})
    with warnings.catch_warnings():  # the way out that is named
        warnings.simplefilter("error")
        quick(epochs=2, conditioning={"roles": {"kind": ("model", "infer")}}).fit(images, conditions={"kind": kind})


@pytest.mark.slow
def test_where_every_condition_is_large_enough_or_none_no_warning_names_them():
    images, kind = uneven()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(epochs=2).fit(images, conditions={"kind": kind})
        quick(epochs=2, alpha=0.01).fit(images, conditions={"kind": kind})


@pytest.mark.slow
def test_known_anomalies_stay_out_of_training_and_calibration():
    images, _ = squares(200)
    anomalies = np.full(200, np.nan)
    anomalies[:20] = 1
    detector = quick(epochs=2).fit(images, anomalies=anomalies)
    assert detector.about_["data"]["known_anomalies"] == 20
    assert sum(len(part) for part in detector.split_.values()) == 180
    without = quick(epochs=2).fit(images[20:])
    assert np.array_equal(detector.score_samples(images), without.score_samples(images))


def test_splits_are_disjoint_and_complete(fitted):
    parts = fitted.split_
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(600))
    assert {name: len(index) for name, index in parts.items()} == {"fit": 420, "select": 60, "calibrate": 120}


@pytest.mark.slow
def test_false_alarms_stay_at_the_requested_rate():
    # Over many calibration sets, new normals are flagged at a mean rate of k/(n+1) ≤ α.
    images, _ = squares(4000, seed=8, classes=1)
    detector = quick(epochs=3, alpha=0.1).fit(images[:1000])
    scores = -detector.score_samples(images[1000:])
    rates = []
    for start in range(0, 3000, 300):
        block = scores[start : start + 300]
        limit = np.sort(block[:99])[-10]  # k = ⌊.1 · 100⌋
        rates.append((block[99:] > limit).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)
    flagged = detector.detect(images[1000:])["is_anomalous"].mean()
    assert 0.05 < flagged < 0.17  # 200 calibration normals: 95 % of Beta(20, 181) lies within .06 and .145


def test_p_values_feed_false_discovery_control(fitted):
    images, kind = squares(100, seed=9)
    p = fitted.detect(images, conditions={"kind": kind})["p_value"].to_numpy()
    assert not benjamini_hochberg(p, 0.01).any()


def test_reconstruct_transform_and_maps_have_the_shapes_they_say(fitted):
    images, kind = squares(5, seed=10)
    conditions = {"kind": kind}
    assert fitted.reconstruct(images, conditions=conditions).shape == (5, SIDE, SIDE, 1)
    assert fitted.transform(images, conditions=conditions).shape == (5, 4)
    maps = fitted.anomaly_maps(images, conditions=conditions)
    assert [m.shape for m in maps] == [(SIDE, SIDE)] * 5
    table = fitted.detect(images, conditions=conditions)
    assert np.allclose([m.sum() for m in maps], table["elbo_reconstruction"], rtol=1e-4)


def test_samples_follow_their_condition(fitted):
    zero, one = (fitted.sample(200, conditions={"kind": kind}, seed=3) for kind in "01")
    assert one.shape == (200, SIDE, SIDE, 1)
    brighter = one.mean(0)[..., 0] - zero.mean(0)[..., 0]  # a square at the bottom right, and none at the top left
    assert brighter[5, 5] > 30
    assert brighter[2, 2] < -30
    each = fitted.sample(200, conditions={"kind": ["0", "1"] * 100}, seed=3)
    np.testing.assert_allclose(each[1::2], one[1::2], atol=1e-3)  # the same codes
    np.testing.assert_allclose(each[::2], zero[::2], atol=1e-3)


def test_samples_without_conditions_draw_these_as_often_as_they_occur(fitted):
    zero, one = (fitted.sample(400, conditions={"kind": kind}) for kind in "01")
    drawn = fitted.sample(400)
    of_zero, of_one = (np.isclose(drawn, made, atol=1e-3).all((1, 2, 3)) for made in (zero, one))
    assert (of_zero ^ of_one).all()
    assert 0.4 < of_one.mean() < 0.6  # half of 600 images; four standard deviations are .1
    assert not np.allclose(fitted.sample(400, seed=1), drawn)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conditions": {"kind": "7"}}, "no value '7'.*known: 0, 1"),
        ({"conditions": {"knd": "0"}}, "no condition 'knd'; did you mean 'kind'"),
        ({"conditions": {"kind": ["0", "1"]}}, "kind.*2"),
        ({"n_samples": 0}, "n_samples = 0; expected 1 or more"),
    ],
)
def test_samples_of_what_the_fit_has_not_seen_are_refused(fitted, given, message):
    with pytest.raises((DataError, SettingsError), match=message):
        fitted.sample(**{"n_samples": 3, **given})


def test_maps_return_to_the_size_of_the_original_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 20, 30, 3)).astype(np.uint8)
    detector = quick(epochs=2, pixels={"image_size": (10, 16), "pad": 16}).fit(images)
    assert detector.pipeline_.representation.shape == (3, 16, 16)
    assert detector.anomaly_maps(images[:2])[0].shape == (20, 30)


def test_where_the_anomaly_is_the_map_is_bright(fitted):
    images, kind = squares(20, seed=11)
    images[:, 6:, :2] = 255  # a corner that is always dark
    for one in fitted.anomaly_maps(images, conditions={"kind": kind}):
        assert one[6:, :2].mean() > 5 * one[:, 3:].mean()


@pytest.mark.slow
def test_tables_work_with_conditions_too():
    rng = np.random.default_rng(0)
    shift = rng.integers(0, 2, 400)
    rows = rng.normal(size=(400, 4)) + 6 * shift[:, None]
    detector = quick(epochs=60, representation="table").fit(rows, conditions=shift)
    inside = np.zeros((1, 4)) + 6.0
    right = detector.score_samples(inside, conditions=np.array([1]))
    wrong = detector.score_samples(inside, conditions=np.array([0]))
    assert detector.n_features_in_ == 4
    assert right[0] > wrong[0] + 3


def test_a_fit_on_other_data_forgets_the_columns_of_the_one_before():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    detector = Detector(representation="table", model="memory_bank").fit(pd.DataFrame(rows, columns=list("abc")))
    assert list(detector.feature_names_in_) == ["a", "b", "c"]
    detector.fit(rows[:, :2])
    assert detector.n_features_in_ == 2
    assert not hasattr(detector, "feature_names_in_")
    detector.set_params(representation="hog").fit(squares(60)[0])
    assert not hasattr(detector, "n_features_in_")


def test_images_and_tables_are_not_mixed_up(fitted):
    with pytest.raises(
        ValueError,
        match=r"a table given.* fitted to images.* one picture X as X\[None\]",
    ):
        fitted.score_samples(np.zeros((3, 64)), conditions={"kind": ["0", "0", "1"]})
    rows = np.random.default_rng(0).normal(size=(60, 3))
    with pytest.raises(DataError, match="images given; this model was fitted to a table of 3 features; give a table"):
        quick(epochs=2, representation="table").fit(rows).score_samples(np.zeros((3, 8, 8), np.uint8))


def frame(n: int = 80) -> pd.DataFrame:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(n, 3)), columns=list("abc"))
    return table.assign(camera=np.where(np.arange(n) % 2, "A", "B"))


@pytest.mark.parametrize("named", ["camera", ["camera"]])
def test_columns_of_a_frame_are_conditions_by_their_names(named):
    table, bank = frame(), {"representation": "table", "model": "memory_bank"}
    by_name = Detector(**bank).fit(table, conditions=named)
    apart = Detector(**bank).fit(table[list("abc")], conditions=table[["camera"]])
    assert list(by_name.feature_names_in_) == ["a", "b", "c"]
    found = by_name.detect(table, conditions=named)
    pd.testing.assert_frame_equal(found, apart.detect(table[list("abc")], conditions=table[["camera"]]))
    assert set(found["condition"]) == {"camera=A", "camera=B"}


def test_a_fitted_detector_takes_the_condition_columns_of_a_frame_by_itself():
    table = frame().assign(part=np.arange(80) // 4)
    bank = Detector(representation="table", model="memory_bank", conditioning={"group": "part"})
    bank.fit(table, conditions=["camera", "part"])
    pd.testing.assert_frame_equal(bank.detect(table), bank.detect(table, conditions=["camera", "part"]))
    pd.testing.assert_frame_equal(bank.detect(table), bank.detect(table.drop(columns="part")))
    pipeline = make_pipeline(Detector(representation="table", model="memory_bank"))
    pipeline.fit(table.drop(columns="part"), detector__conditions="camera")
    assert pipeline.predict(table.drop(columns="part")).shape == (80,)
    new = table.assign(a=table["a"] + 0.01, part=table["part"] + 1000)
    assert len(bank.calibrate(new).pipeline_.calibration) == 40  # one row of each part and camera
    with pytest.raises(DataError, match="the table has the unknown ones 'd'; the model was fitted on 3 columns"):
        bank.detect(table.assign(d=1.0))


def test_a_column_of_text_is_named_and_a_column_that_is_not_there():
    bank = Detector(representation="table", model="memory_bank")
    with pytest.raises(
        DataError, match=r"column 'camera' holds 'B', .*: name the column as a condition, conditions='cam"
    ):
        bank.fit(frame())
    with pytest.raises(DataError, match=r"the table has no column 'camrea'; did you mean 'camera'\?"):
        bank.fit(frame(), conditions="camrea")
    with pytest.raises(DataError, match="conditions = 'camera' names a column, and X is a frame of images"):
        bank.fit(frame().assign(path="a.png"), conditions="camera")


def test_the_rows_of_a_frame_are_called_by_its_index():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    detector = Detector("table", "memory_bank").fit(pd.DataFrame(rows, columns=list("abc")))
    new = pd.DataFrame(rows[:3] + 0.1, columns=list("abc"), index=["pump 7", "pump 2", "pump 9"])
    table = detector.detect(new)
    assert table["id"].tolist() == table.index.tolist() == ["pump 7", "pump 2", "pump 9"]
    assert detector.detect(new.set_axis([5, 6, 7]))["id"].tolist() == ["5", "6", "7"]
    for index in (["a", "a", "b"], range(3)):  # not unique, or a count
        assert detector.detect(new.set_axis(list(index)))["id"].tolist() == ["0", "1", "2"]


@pytest.mark.slow
def test_columns_of_a_frame_of_images_are_conditions_as_they_are(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    listed = pd.DataFrame({"path": [str(tmp_path / f"{i}.png") for i in range(20)], "camera": ["A", "B"] * 10})
    detector = Detector("hog", "memory_bank", alpha=0.2)
    for named in ("camera", ["camera"], ["camera", "line"]):
        with pytest.raises(DataError, match="names a column, and X is a frame of images, whose columns are conditions"):
            detector.fit(listed, conditions=named)
    with pytest.raises(DataError, match="the frame of images has no column 'camra'; did you mean 'camera'"):
        detector.fit(listed, conditions="camra")
    given = {"line": ["x", "y"] * 10}
    columns = [column.name for column in detector.fit(listed, conditions=given).pipeline_.schema.columns]
    assert columns == ["camera", "line"]


def test_values_outside_the_recorded_range_warn_and_are_not_clipped():
    images, _ = squares(60)
    dim = (images // 4).astype(np.uint16)
    detector = quick(epochs=2).fit(dim)
    bright = np.full((2, SIDE, SIDE), 60000, np.uint16)
    with pytest.warns(UserWarning, match="2 of 2 images have values outside the recorded range"):
        first = detector.score_samples(bright)
    with pytest.warns(UserWarning, match="outside"):
        second = detector.score_samples(bright // 2)
    assert first[0] < second[0]


def test_constant_columns_and_unconditional_methods_need_no_conditions():
    images, kind = squares(80)
    bag = ImageSet.from_arrays(images, conditions={"line": np.full(80, "A")})
    assert quick(epochs=2).fit(bag).pipeline_.schema.columns == ()
    plain = quick(epochs=2, objective="vae").fit(images, conditions={"kind": kind})
    assert plain.pipeline_.schema.columns == ()
    assert plain.detect(images)["condition"].eq("").all()


def test_roles_choose_what_a_condition_is_for():
    images, kind = squares(300)
    detector = quick(epochs=2, objective="vae", conditioning={"roles": {"kind": ("stratify",)}}).fit(
        images, conditions={"kind": kind}
    )
    assert detector.model_.condition_dim == 0
    assert detector.pipeline_.calibration.stratum_names == ("kind=0", "kind=1")
    with pytest.raises(DataError, match="roles name the condition 'kin'"):
        quick(conditioning={"roles": {"kin": ("model",)}}).fit(images, conditions={"kind": kind})


OBJECTIVES = [
    *("vae", "beta_vae", "cvae", "dcvae", {"name": "dcvae", "tc": "bound"}, "tc_vae", "dip_vae", "info_vae", "corex"),
    *({"name": name, "discriminator_width": 16} for name in ("factor_vae", "rf_vae")),
    {"name": "dan_vae", "nuisance_dim": 1},
]


@pytest.mark.parametrize(
    ("objective", "scoring"),
    [
        *((objective, "elbo") for objective in OBJECTIVES),
        *(
            (one, score)
            for one in ("vae", "dcvae")
            for score in ("reconstruction", "kl", "mahalanobis", "prior_distance")
        ),
    ],
    ids=str,
)
def test_every_objective_and_every_score_survives_the_round_trip(objective, scoring, tmp_path):
    images, kind = squares(120)
    detector = quick(objective=objective, score=scoring, epochs=2, conditioning={"unknown": "infer"})
    detector.fit(images, conditions={"kind": kind})
    before = detector.detect(images)
    assert before["anomaly_score"].notna().all()
    assert Detector.load(detector.save(tmp_path / "m")).detect(images).equals(before)


@pytest.mark.slow
def test_a_conditional_objective_without_conditions_says_what_it_is_then() -> None:
    images, kind = squares(60)
    said = "without conditions the total correlation of dcvae is over all images together"
    alone = quick(objective="dcvae", epochs=1).fit(images)
    assert said in alone.about_["recipe"]
    given = quick(objective="dcvae", epochs=1).fit(images, conditions={"kind": kind})
    assert said not in given.about_["recipe"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"vae": {"prior": "separated", "separation": 12.0, "class_aware": 5.0}, "score": "prior_distance"},
        {"pixels": {"illumination": 0.3}},
        {"objective": {"name": "dan_vae", "nuisance_dim": 1}, "pixels": {"illumination": 0.2}},
        {"conditioning": {"measure": ("contrast",), "unknown": "infer"}},
    ],
    ids=str,
)
def test_what_is_built_on_top_survives_the_round_trip(settings, tmp_path):
    images, kind = squares(120)
    detector = quick(**{"conditioning": {"unknown": "infer"}, **settings}, epochs=2).fit(
        images, conditions={"kind": kind}
    )
    before = detector.detect(images)
    assert before["anomaly_score"].notna().all()
    loaded = Detector.load(detector.save(tmp_path / "m"))
    assert loaded.detect(images).equals(before)
    kept, found = detector.pipeline_.objective_state, loaded.pipeline_.objective_state
    assert kept.keys() == found.keys()
    assert all(kept[name].equal(found[name]) for name in kept)


def test_wrong_settings_are_refused_when_fitting():
    images, _ = squares(40)
    with pytest.raises(SettingsError, match="unknown objective 'dcave'; did you mean 'dcvae'"):
        Detector(model={"name": "vae", "objective": "dcave"}).fit(images)
    with pytest.raises(SettingsError, match="leaves nothing"):
        Detector(calibration={"select_fraction": 0.5, "fraction": 0.5}).fit(images)


def test_clone_keeps_parameters_and_drops_the_fit(fitted):
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    assert not hasattr(fresh, "pipeline_")


def write_pngs(folder, images) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")


@pytest.mark.slow
def test_columns_a_source_brings_beyond_the_schema_are_left_out(tmp_path):
    images, kind = squares(60)
    write_pngs(tmp_path / "parts" / "good", images)
    detector = quick(epochs=2).fit(tmp_path / "parts", conditions={"kind": kind})
    assert [column.name for column in detector.pipeline_.schema.columns] == ["kind"]
    assert len(detector.detect(tmp_path / "parts", conditions={"kind": kind})) == 60


def test_unreadable_files_are_set_aside_in_tables_and_named_elsewhere(fitted, tmp_path):
    images, kind = squares(6, seed=12)
    write_pngs(tmp_path / "new", images)
    whole = (tmp_path / "new" / "002.png").read_bytes()
    (tmp_path / "new" / "002.png").write_bytes(whole[:40])
    (tmp_path / "new" / "photo.heic").write_bytes(b"\x00" * 50)
    conditions = {"kind": kind}
    table = fitted.detect(tmp_path / "new", conditions=conditions)
    bad = table[table["error"].notna()]
    assert sorted(bad["id"]) == ["002.png", "photo.heic"]
    assert bad["p_value"].isna().all()
    assert bad["condition"].isna().all()
    assert bad["is_anomalous"].isna().all()
    assert len(table[table["is_anomalous"]]) <= 5
    for ask in (fitted.score_samples, fitted.anomaly_maps, fitted.reconstruct, fitted.transform):
        with pytest.raises(DataError, match=r"002\.png"):
            ask(tmp_path / "new", conditions=conditions)


@pytest.mark.slow
def test_the_guarantee_holds_where_features_are_as_many_as_items():
    # Standardising with the calibration rows too would shrink those; new rows would score higher: .15 instead of .09.
    rates = []
    for seed in range(25):
        rows = np.random.default_rng(seed).normal(size=(250, 30))
        detector = quick(epochs=5, representation="table", alpha=0.1, random_state=seed).fit(rows[:50])
        assert len(detector.split_["calibrate"]) == 10
        rates.append((detector.predict(rows[50:]) == -1).mean())
    assert np.mean(rates) < 1 / 11 + 2 * np.std(rates) / np.sqrt(len(rates))


def test_what_cannot_be_is_refused_before_training(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(import_module("knowngood.detector.fit.learn"), "train", never)
    images, kind = squares(60)
    with pytest.raises(SettingsError, match="marginalise = 'soft' averages likelihoods"):
        quick(conditioning={"marginalise": "soft", "unknown": "infer"}, score="kl").fit(
            images, conditions={"kind": kind}
        )
    with pytest.raises(SettingsError, match="needs images"):
        quick(representation="table", score={"name": "reconstruction", "distance": "ssim"}).fit(
            np.random.default_rng(0).normal(size=(60, 3))
        )
    with pytest.raises(NotEnoughNormals, match="leave none to calibrate with"):
        quick(calibration={"fraction": 1e-6, "select_fraction": 1e-6}).fit(images)
    with pytest.raises(SettingsError, match="resume=True needs the run_dir"):
        quick().fit(images, resume=True)


def test_many_items_are_scored_in_portions_with_the_same_result(inferring, monkeypatch):
    images, kind = squares(50, seed=13)
    mixed = np.array([k if i % 3 else None for i, k in enumerate(kind)], dtype=object)
    whole = inferring.detect(images, conditions={"kind": mixed})
    monkeypatch.setattr("knowngood.detector.scoring.MOST_EXPANDED", 14)  # seven items at a time
    parts = inferring.detect(images, conditions={"kind": mixed})
    assert parts["condition"].tolist() == whole["condition"].tolist()
    assert np.allclose(parts["anomaly_score"], whole["anomaly_score"], rtol=1e-5)
    assert np.array_equal(parts["p_value"], whole["p_value"])


def test_devices_have_the_names_the_settings_have(fitted, tmp_path):
    folder = fitted.save(tmp_path / "m")
    assert Detector.load(folder, device="auto").pipeline_.device.type in ("cpu", "cuda", "mps")
    with pytest.raises(SettingsError, match="unknown device 'tpu'; known: auto, cpu, gpu, cuda, mps"):
        Detector.load(folder, device="tpu")


def test_false_discovery_rate_and_abstention_on_request(fitted):
    images, kind = squares(100, seed=14)
    images[:30] = np.random.default_rng(0).integers(0, 255, (30, SIDE, SIDE))
    table = fitted.detect(images, conditions={"kind": kind}, fdr=0.2, abstain=0.3)
    p = table["p_value"].to_numpy()
    assert np.array_equal(table["is_anomalous"], benjamini_hochberg(p, 0.2))
    assert table["is_anomalous"][:30].all()
    expected = np.where(table["is_anomalous"], "anomalous", np.where(p <= 0.3, "unsure", "normal"))
    assert table["verdict"].tolist() == expected.tolist()
    few = fitted.detect(images[30:], conditions={"kind": kind[30:]}, fdr=1e-4, abstain=0.3)
    assert few["p_value"].min() <= 0.05
    assert set(few["verdict"]) == {"unsure", "normal"}


def test_a_list_of_images_is_images():
    images, _ = squares(60)
    detector = quick(epochs=2).fit(list(images))
    assert np.array_equal(detector.score_samples(list(images)), detector.score_samples(images))
    with pytest.raises(DataError, match="is not a set of images"):
        detector.score_samples(np.zeros((2, 3, 8, 8, 1)))


@pytest.mark.slow
def test_large_sets_stream_with_the_same_result(tmp_path):
    images, _ = squares(64)
    write_pngs(tmp_path / "good", images)
    in_memory, streamed = (
        quick(epochs=2, training={"memory_gb": gb, "workers": 0}).fit(tmp_path / "good") for gb in (1.0, 1e-9)
    )
    for name, tensor in in_memory.model_.state_dict().items():
        assert torch.equal(tensor, streamed.model_.state_dict()[name]), name


@pytest.mark.slow
def test_other_normal_items_may_calibrate():
    images, _ = squares(400)
    detector = quick(epochs=2).fit(images[:100], calibration_set=images[100:300])
    assert {name: len(index) for name, index in detector.split_.items()} == {"fit": 90, "select": 10, "calibrate": 0}
    assert len(detector.pipeline_.calibration) == 200
    before = detector.score_samples(images)
    assert detector.calibrate(images[300:] // 2) is detector
    assert len(detector.pipeline_.calibration) == 100
    assert np.array_equal(detector.score_samples(images), before)  # one condition: the score is the score
    assert detector.predict(images[300:] // 2).mean() > 0.85


def test_a_preset_is_where_settings_start() -> None:
    assert Detector.from_preset("shapes", alpha=0.01).alpha == 0.01
    with pytest.raises(SettingsError, match="did you mean 'shapes'"):
        Detector.from_preset("shape")
    with pytest.raises(SettingsError, match="unknown setting 'alfa'; did you mean 'alpha'"):
        Detector.from_preset("shapes", alfa=0.2)


def test_an_unreadable_image_is_not_outside_the_recorded_range(tmp_path):
    images, _ = squares(60)
    detector = quick(epochs=2, pixels={"scaling": (0.1, 255)}).fit(images + np.uint8(1))
    write_pngs(tmp_path / "new", images[:4] + np.uint8(1))
    (tmp_path / "new" / "002.png").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*outside the recorded range")
        assert detector.detect(tmp_path / "new")["error"].notna().sum() == 1


@pytest.mark.parametrize("ignored", [{"note": ()}, {}])
def test_a_column_without_roles_changes_nothing(ignored):
    images, kind = squares(120)
    given = {"kind": kind, "note": np.array(["x", "y", "z"])[np.arange(120) % 3]}
    roles = {"kind": ("model", "stratify", "infer"), **ignored}
    detector = quick(epochs=1, score="elbo", conditioning={"roles": roles, "unknown": "infer"})
    detector.fit(images, conditions=given)
    assert detector.pipeline_.marginal_calibration is not None
    assert list(detector.condition_probabilities(images[:2]))[1:] == ["kind=0", "kind=1"]


def test_small_pictures_whose_only_condition_has_no_role_are_fitted_without():
    images, kind = squares(60)
    detector = Detector(training={"epochs": 1}, conditioning={"roles": {"kind": ()}}, device="cpu")
    assert detector.fit(images, conditions={"kind": kind}).pipeline_.model.condition_dim == 0


@pytest.mark.slow
def test_networks_of_folds_draw_the_same_numbers_whatever_the_threads():
    rows = np.random.default_rng(0).normal(size=(60, 4))
    net, scores = {"name": "mlp", "hidden": (8,), "noise": 0.5}, []
    threads = torch.get_num_threads()
    try:
        for n in (1, 4):
            torch.set_num_threads(n)
            before = torch.get_rng_state()
            made = Detector(model={"name": "vae", "net": net}, training={"epochs": 20}, calibration={"method": "cross"})
            scores.append(made.fit(rows).pipeline_.calibration.scores)
            assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(*scores, rtol=1e-3)


@pytest.mark.slow
def test_a_detector_whose_calibration_items_were_refused_can_be_calibrated(tmp_path):
    images, _ = squares(120)
    detector = Detector("pixels", "memory_bank", device="cpu")
    with pytest.raises(DataError, match="an image is 9 × 9 px"):
        detector.fit(images[:60], calibration_set=np.zeros((30, 9, 9), np.uint8))
    with pytest.raises(DataError, match="this model is not calibrated; call calibrate"):
        detector.detect(images)
    detector = Detector.load(detector.save(tmp_path / "m"))
    detector.calibrate(images[60:])
    other = Detector("pixels", "memory_bank", device="cpu").fit(images[:60], calibration_set=images[60:])
    np.testing.assert_array_equal(detector.score_samples(images), other.score_samples(images))


def test_a_condition_of_another_name_is_not_passed_over_in_silence(inferring):
    images, kind = squares(4)
    with pytest.warns(UserWarning, match="the model has no condition 'kid'; did you mean 'kind'.*'kind' is not given"):
        inferring.detect(images, conditions={"kid": kind})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferring.detect(images, conditions={"kind": kind, "shift": ["early"] * 4})


def test_the_card_lists_settings_of_choices_within_choices_and_of_groups():
    fitted = Detector(
        "pixels",
        {"name": "vae", "net": {"name": "mlp", "hidden": [8]}, "objective": {"name": "beta_vae", "beta": 3.0}},
        conditioning={"unknown": "infer"},
        calibration={"method": "split", "fraction": 0.4},
        data={"tolerance": 0.1},
        training={"epochs": 2},
        labels="ignore",
    ).fit(np.random.default_rng(0).random((40, 8, 8), dtype=np.float32))
    card = fitted.card_
    assert "net = mlp (hidden = [8])" in card
    assert "objective = beta_vae (beta = 3)" in card
    assert "- conditioning: unknown = infer\n" in card
    assert "- calibration: method = split, fraction = 0.4\n" in card
    assert any(line.startswith("- data: ") and "tolerance = 0.1" in line for line in card.splitlines())
    assert "- training: epochs = 2" in card
    assert "- labels: ignore\n" in card


@pytest.mark.parametrize(
    ("ignore", "shown"),
    [
        ([[(0, 0), (9, 0), (9, 9)]], "ignore = [[[0, 0], [9, 0], [9, 9]]]"),
        (Path("/somewhere/mask.png"), "ignore = mask.png"),
    ],
)
def test_the_card_names_ignored_regions(ignore, shown):
    fitted = Detector("table", "memory_bank").fit(np.random.default_rng(0).normal(size=(40, 3)))
    data = DataOptions(ignore=ignore)
    pipeline = replace(fitted.pipeline_, settings=fitted.pipeline_.settings.model_copy(update={"data": data}))
    card = model_card(pipeline, fitted.about_)
    assert f"- data: {shown}\n" in card
    assert "/somewhere" not in card


def test_the_card_counts_the_items_of_a_later_calibration():
    rows = np.random.default_rng(0).normal(size=(260, 3))
    detector = Detector("table", "memory_bank", calibration={"method": "split"}).fit(rows[:200])
    assert "160 items fitted to, 40 for calibration" in detector.card_
    detector.calibrate(rows[200:])
    assert "160 items fitted to, 60 for calibration" in detector.card_


def test_where_an_added_group_alone_is_large_enough_it_is_said_to_be_flagged():
    rows = np.random.default_rng(0).normal(size=(80, 3))
    detector = Detector("table", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(rows[:20])
    detector.calibrate(rows[20:], as_group={"camera": "B"})
    with pytest.warns(
        UserWarning, match=r"4 calibration items, it needs 9: nothing is flagged but items of camera=B\."
    ):
        assert detector.predict(rows[:2] + 20, conditions={"camera": ["A", "B"]}).tolist() == [1, -1]
    assert "Nothing is flagged but items of camera=B;" in detector.card_
    assert "\n- camera=B: 3.8% to 18.4% of normal items are flagged" in detector.card_
