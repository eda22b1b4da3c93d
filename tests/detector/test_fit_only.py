"""Items that are learned from and never calibrate: what was chosen by its score."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood import Detector
from knowngood.calibration.splits import folds
from knowngood.data import ImageSet, TableSet
from knowngood.data.joined import joined
from knowngood.detector import estimator
from knowngood.errors import DataError

ALPHA = 0.1


def rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 4))


def bank(method: str, **given: object) -> Detector:
    options = {"model": {"name": "memory_bank", "coreset": None}, "alpha": ALPHA, "calibration": {"method": method}}
    return Detector(**options).fit(rows(60, 0), **given)  # type: ignore[arg-type]


def test_they_are_fitted_to_and_the_same_items_calibrate_as_without_them() -> None:
    plain, found = bank("split"), bank("split", fit_only=rows(10, 1, 3))
    assert len(found.model_.bank) == len(plain.model_.bank) + 10
    np.testing.assert_array_equal(found.split_["calibrate"], plain.split_["calibrate"])
    np.testing.assert_array_equal(found.split_["fit"][-10:], np.arange(60, 70))
    assert len(found.pipeline_.calibration) == len(plain.pipeline_.calibration)  # type: ignore[arg-type]
    assert found.out_of_fold_ == {}


def test_cross_conformal_they_are_in_folds_of_their_own_and_their_p_values_are_held_out() -> None:
    chosen = rows(10, 1, 3)
    found = bank("cross", fit_only=chosen)
    assert len(found.pipeline_.calibration) == 60  # type: ignore[arg-type]
    every = np.concatenate([rows(60, 0), chosen])
    part = next(some for some in folds(70, np.arange(70) >= 60, 5, 0) if 60 in some)
    assert (part >= 60).sum() == 2
    rest = np.setdiff1d(np.arange(70), part)
    others = Detector(**found.get_params()).fit(every[rest])
    raw = -others.score_samples(every[[60]])[0] + others.pipeline_.calibration.offsets[0]  # type: ignore[union-attr]
    p = found.pipeline_.calibration.p_values([raw], [0])[0]  # type: ignore[union-attr]
    assert len(found.out_of_fold_) == 10
    assert found.out_of_fold_["0"] == pytest.approx(p)


def test_what_is_fitted_to_already_is_not_taken_twice() -> None:
    old = rows(60, 0)
    found = bank("split", fit_only=old[:5])
    assert len(found.model_.bank) == len(bank("split").model_.bank)


def views(n: int, seed: int) -> ImageSet:
    """Pictures of n parts, two of each, that differ by little more than nothing."""
    values = np.random.default_rng(0).integers(0, 200, (n, 8, 8))
    seen = values + np.random.default_rng(seed).integers(0, 3, values.shape)
    ids, part = [f"{seed}-{i}" for i in range(n)], [f"part {i}" for i in range(n)]
    return ImageSet.from_arrays(seen.astype(np.uint8), conditions={"group": part}, ids=ids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
def test_no_model_that_judges_a_calibration_item_learned_from_another_of_its_group() -> None:
    """Each picture calibrates by models without the chosen one of the same part: else it scores next to nothing."""
    nearest = {"score": {"name": "neighbours", "k": 1}, "alpha": ALPHA}
    options = {"representation": "pixels", "model": {"name": "memory_bank", "coreset": None}, **nearest}
    for method in ("split", "cross"):
        plain, found = (
            Detector(**options, calibration={"method": method, "fraction": 0.4}).fit(views(40, 1), fit_only=chosen)
            for chosen in (None, views(20, 2))
        )
        assert found.pipeline_.calibration is not None
        assert plain.pipeline_.calibration is not None
        assert found.pipeline_.calibration.scores.min() > 0.5 * plain.pipeline_.calibration.scores.min()
        assert len(found.pipeline_.calibration) == len(plain.pipeline_.calibration)


def test_normal_and_labelled_items_of_both_sets_are_in_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def taken(normals: ImageSet, labelled: ImageSet, *others: object, **options: object) -> None:
        given.extend([normals.groups, labelled.groups])
        raise DataError("enough")

    monkeypatch.setattr(estimator, "fit_pipeline", taken)
    first, second = views(6, 1), views(6, 2)
    first = first.replace(labels=np.array([0, 1, 0, 0, 0, 0.0]), conditions={"group": np.array(list("aabbcd"))})
    second = second.replace(labels=np.array([0, 1, 0, 1, 0, 0.0]), conditions={"group": np.array(list("dabcef"))})
    with pytest.raises(DataError, match="enough"):
        Detector("pixels", "memory_bank").fit(first, fit_only=second)
    (a, b, same, c, d), (also_d, also_b, e, f) = given[0][:5], given[0][5:]
    assert (b, d) == (same, also_d)
    assert (b, len({a, b, c, d, e, f})) == (also_b, 6)
    assert given[1].tolist() == [a, a, c]


def test_what_shares_a_group_with_a_calibration_item_is_left_out_with_a_count() -> None:
    options = {"representation": "pixels", "model": "memory_bank", "alpha": ALPHA, "calibration": {"method": "split"}}
    with pytest.warns(UserWarning, match=r"\d+ of 40 images that are only fitted to \(fit_only\) are left out"):
        found = Detector(**options).fit(views(40, 1), fit_only=views(40, 2))  # type: ignore[arg-type]
    split = found.split_
    assert len(split["calibrate"]) == 8
    assert found.about_["fit_only"] == 32
    assert not np.isin(split["fit"], split["calibrate"] + 40).any()


def test_columns_of_a_table_are_taken_by_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    normal = pandas.DataFrame(rows(60, 0) + np.array([100, 0, 0, 0]), columns=list("abcd"))
    more = pandas.DataFrame(rows(10, 1) + np.array([100, 0, 0, 0]), columns=list("abcd"))
    options = {"model": "memory_bank", "alpha": ALPHA}
    one, other = (Detector(**options).fit(normal, fit_only=some) for some in (more, more[list("dcba")]))
    assert one.pipeline_.representation == other.pipeline_.representation
    assert list(other.feature_names_in_) == list("abcd")
    with pytest.raises(DataError, match="lacks the columns 'd'; "):
        Detector(**options).fit(normal, fit_only=more[list("abc")])
    with pytest.raises(DataError, match="fit_only holds images, X rows"):
        Detector(**options).fit(normal, fit_only=np.zeros((5, 8, 8), np.uint8))


@pytest.mark.slow
def test_calibration_on_what_was_flagged_would_raise_thresholds_and_fit_only_does_not() -> None:
    """False alarms, added as normal items, are most of the upper tail: then the rate of alarms falls far below α."""
    detector = bank("cross")
    stream = rows(3000, 5)
    flagged = stream[detector.predict(stream) < 0][:40]
    new = rows(2000, 6)
    apart = bank("cross", fit_only=flagged).predict(new) < 0
    options = detector.get_params()
    mixed = Detector(**options).fit(np.concatenate([rows(60, 0), flagged])).predict(new) < 0
    assert mixed.mean() < 0.6 * apart.mean()
    assert apart.mean() == pytest.approx(ALPHA, abs=0.05)


def test_no_id_of_joined_images_comes_twice() -> None:
    first, second = (ImageSet.from_arrays(np.zeros((3, 8, 8), np.uint8)) for _ in range(2))
    first = first.replace(ids=np.array(["a", "new/a", "b"]))
    second = second.replace(ids=np.array(["a", "new/b", "b"]))
    assert joined(first, second).ids.tolist() == ["a", "new/a", "b", "new/new/a", "new/b", "new/new/b"]


def test_joined_images_keep_their_masks() -> None:
    images = [ImageSet.from_arrays(np.zeros((n, 8, 8), np.uint8)) for n in (2, 3)]
    mask = np.eye(8, dtype=bool)
    both = joined(images[0], images[1].replace(masks=(None, lambda: mask, None)))
    assert [both.mask(i) is None for i in range(5)] == [True, True, True, False, True]
    assert both.mask(3) is mask
    assert joined(*images).masks is None
    assert len(joined(TableSet.from_array(rows(2, 0)), TableSet.from_array(rows(3, 1)))) == 5


def test_copies_in_joined_images_are_found_by_the_fit() -> None:
    """As where a random sample of reviewed images joins the training images."""
    images = ImageSet.from_arrays(np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8))
    every = joined(images, images)
    assert every.groups is None
    fitted = Detector("pixels", "memory_bank", alpha=ALPHA, calibration={"method": "cross"}).fit(every)
    assert fitted.about_["data"]["groups"] == 30
    assert len(fitted.pipeline_.calibration) == 30  # type: ignore[arg-type]


def test_a_mask_is_refused_with_what_is_meant() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    for mask in (np.arange(60) < 5, [True] * 60):
        with pytest.raises(DataError, match="fit_only is a mask of 60 values"):
            Detector("table", "memory_bank").fit(x, fit_only=mask)
