"""What belongs together stays together in a fit; what conditions teach comes from what is fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from knowngood import Detector
from knowngood.calibration import Calibration
from knowngood.data import ImageSet
from knowngood.detector.added_groups import IS, MAY, NO, AddedGroup
from knowngood.errors import NotEnoughNormals, SettingsError


def bank(method: str = "split", **settings) -> Detector:
    return Detector("table", "memory_bank", calibration={"method": method}, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["split", "cross"])
def test_the_false_alarm_rate_holds_with_every_item_twice(method: str) -> None:
    rates = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        twice, new = np.repeat(rng.normal(size=(60, 6)), 2, axis=0), rng.normal(size=(300, 6))
        fitted = bank(method, alpha=0.1, random_state=seed).fit(twice)
        rates.append((fitted.predict(new) == -1).mean())
        assert fitted.about_["data"]["groups"] == 60
        assert len(fitted.pipeline_.calibration) == (60 if method == "cross" else 12)
    assert np.mean(rates) <= 0.1 + 2 * np.std(rates) / 5**0.5


def test_copies_of_images_are_in_one_part() -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8).repeat(2, axis=0)
    parts = Detector("hog", "memory_bank", calibration={"method": "split"}, alpha=0.2).fit(images).split_
    for part in parts.values():
        assert len(set(part // 2)) * 2 == len(part)


def test_a_group_column_is_no_condition(tmp_path) -> None:
    rng = np.random.default_rng(0)
    table, patient, camera = rng.normal(size=(120, 5)), np.repeat(np.arange(40), 3), np.arange(120) % 2
    conditions = {"patient": patient, "camera": camera}
    fitted = bank(alpha=0.3, conditioning={"group": "patient"}).fit(table, conditions=conditions)
    assert [column.name for column in fitted.pipeline_.schema.columns] == ["camera"]
    held = [set(patient[part]) for part in fitted.split_.values()]
    assert not held[0] & held[2]
    found = fitted.detect(table, conditions=conditions)
    loaded = Detector.load(fitted.save(tmp_path / "model"))
    assert loaded.detect(table, conditions={"camera": camera}).equals(found)
    assert loaded.training_["suspicious"] == fitted.training_["suspicious"]
    loaded.calibrate(rng.normal(size=(60, 5)), conditions={name: values[:60] for name, values in conditions.items()})
    assert len(loaded.pipeline_.calibration) == 40  # 20 patients, each in 2 Mondrian groups


def test_one_group_and_contradictions_are_refused() -> None:
    table = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(NotEnoughNormals, match="30 normal items belong together"):
        bank().fit(table, conditions={"group": np.zeros(30)})
    with pytest.raises(SettingsError, match="'part' is the group column and in roles"):
        bank(conditioning={"group": "part", "roles": {"part": ["model"]}}).fit(table, conditions={"part": range(30)})
    plain = bank(conditioning={"group": None}).fit(table, conditions={"group": np.arange(30) % 2})
    assert [column.name for column in plain.pipeline_.schema.columns] == ["group"]


@pytest.mark.filterwarnings("ignore:Mondrian groups with too few")
def test_bins_and_scales_are_independent_of_the_items_that_calibrate() -> None:
    rng = np.random.default_rng(0)
    table, exposure, camera = rng.normal(size=(200, 3)), rng.uniform(size=200), np.arange(200) % 2
    roles = {"exposure": ["model", "stratify"], "camera": ["model", "stratify"]}

    def fitted(values: np.ndarray) -> Detector:
        made = bank(conditioning={"roles": roles}, alpha=0.3)
        return made.fit(table, conditions={"exposure": values, "camera": camera})

    first = fitted(exposure)
    aside = first.split_["calibrate"]
    changed = exposure.copy()
    changed[aside] = 50 + 100 * rng.uniform(size=len(aside))
    again = fitted(changed)
    assert np.array_equal(again.split_["calibrate"], aside)
    assert first.pipeline_.schema.columns == again.pipeline_.schema.columns


def test_a_value_that_only_calibrates_is_known() -> None:
    """Product B is one part, which is held out as a whole."""
    rng = np.random.default_rng(0)
    part = np.repeat(np.arange(20), 5)
    aside = np.unique(
        part[bank(alpha=0.3).fit(rng.normal(size=(100, 3)), conditions={"group": part}).split_["calibrate"]]
    )
    product = np.where(part == aside[0], "B", "A")
    conditions = {"group": part, "product": product}
    roles = {"product": ["model", "infer"]}
    fitted = bank(alpha=0.3, conditioning={"roles": roles}).fit(rng.normal(size=(100, 3)), conditions=conditions)
    assert set(product[fitted.split_["calibrate"]]) == {"A", "B"}
    assert "B" not in product[fitted.split_["fit"]]
    assert fitted.detect(np.zeros((1, 3)), conditions={"product": ["B"]})["p_value"].notna().all()


def test_the_calibration_item_that_is_anomalous_is_the_most_suspicious() -> None:
    table = np.random.default_rng(0).normal(size=(60, 4))
    table[17] = 9
    fitted = bank("cross").fit(table)
    highest = fitted.training_["suspicious"]
    assert highest[0]["id"] == "17"
    assert len(highest) == 60
    assert (np.diff([one["anomaly_score"] for one in highest]) <= 0).all()
    fitted.calibrate(np.random.default_rng(1).normal(size=(30, 4)))
    assert len(fitted.training_["suspicious"]) == 30


def test_predictions_are_those_of_the_p_values_where_not_all_calibrations_are_large_enough() -> None:
    """Of unknown conditions one item of a group counts, of known ones one a condition; an added group may be larger."""
    rng = np.random.default_rng(0)
    parts = np.repeat(rng.normal(size=(60, 3)), 2, 0) + 0.3 * rng.normal(size=(120, 3))
    given = {"camera": np.tile(["a", "b"], 60), "group": np.repeat(np.arange(60), 2)}
    far, settings = 3 * rng.normal(size=(40, 3)), {"training": {"epochs": 2}, "conditioning": {"unknown": "infer"}}
    detector = Detector("table", "vae", "elbo", alpha=0.03, calibration={"fraction": 0.4}, **settings)
    detector.fit(parts, conditions=given)
    assert len(detector.pipeline_.calibration) == 48
    assert len(detector.pipeline_.marginal_calibration) == 24
    assert (detector.predict(far) == 1).all()
    assert not detector.detect(far)["is_anomalous"].any()
    assert (detector.predict(far, conditions={"camera": ["a"] * 40}) == -1).any()

    detector = Detector("table", "memory_bank").fit(rng.normal(size=(12, 3)))
    detector.calibrate(rng.normal(size=(40, 3)), as_group={"camera": "b"})
    own = {"conditions": {"camera": ["b"] * 40}}
    flagged = detector.detect(far, **own)["is_anomalous"]
    assert flagged.any()
    assert ((detector.predict(far, **own) == -1) == flagged).all()
    assert ((detector.decision_function(far, **own) < 0) == flagged).all()


def test_images_of_a_group_stay_together_in_an_update_and_one_of_them_calibrates() -> None:
    images, part = np.random.default_rng(0).integers(0, 255, (120, 8, 8), np.uint8), np.arange(120) // 3
    fitted = Detector("hog", "memory_bank", calibration={"method": "split"}, alpha=0.2)
    fitted.fit(images[:60], conditions={"group": part[:60]})
    before = fitted.pipeline_.fitted_to
    fitted.update(images[60:], conditions={"group": part[60:]})
    taken = np.isin(ImageSet.from_arrays(images).digests(), np.setdiff1d(fitted.pipeline_.fitted_to, before))
    assert taken.sum() == 30
    assert len(set(part[taken])) == 10  # whole groups
    assert len(fitted.pipeline_.calibration) == 10
    fitted.calibrate(images[60:][~taken[60:]], conditions={"group": part[60:][~taken[60:]]})
    assert len(fitted.pipeline_.calibration) == 10


@pytest.mark.slow
def test_calibration_items_of_a_group_that_was_fitted_to_are_counted(tmp_path) -> None:
    """After a fit, at its end, of a loaded model and after an update; what the fit set aside may calibrate."""
    images, part = np.random.default_rng(0).integers(0, 255, (200, 8, 8), np.uint8), np.arange(200) // 4

    def some(at: np.ndarray) -> ImageSet:
        return ImageSet.from_arrays(images[at], conditions={"group": part[at]})

    def said(act: Callable[..., object], *given: ImageSet, **named: ImageSet) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act(*given, **named)
        return [str(one.message) for one in caught if "that the model was fitted to" in str(one.message)]

    every = np.arange(0, 100, 2)
    fitted = Detector("hog", "memory_bank", calibration={"method": "split"}, alpha=0.2).fit(some(every))
    seen = np.isin(part[:100], np.delete(part[every], fitted.split_["calibrate"]))
    others = np.r_[np.flatnonzero(~seen), 100:140]
    akin = np.flatnonzero(seen)[1::2]
    for one in (fitted, Detector.load(fitted.save(tmp_path / "model"))):
        (text,) = said(one.calibrate, some(np.r_[akin, others]))
        assert text.startswith(f"{len(akin)} of {len(akin) + len(others)} images to calibrate on are of groups (column")
        assert said(one.calibrate, some(others)) == []
    fresh = Detector(**fitted.get_params())
    assert len(said(fresh.fit, some(every), calibration_set=some(np.arange(101, 199, 2)))) == 0
    assert len(said(fresh.fit, some(every), calibration_set=some(every + 1))) == 1
    new = np.arange(140, 200, 2)
    fitted.update(some(new), calibration_set=some(np.arange(100, 140)))
    assert len(said(fitted.calibrate, some(new + 1))) == 1
    assert len(said(fitted.calibrate, some(akin))) == 1
    assert said(fitted.calibrate, some(np.arange(100, 140))) == []


def test_mondrian_groups_of_one_item_each_leave_none_to_calibrate() -> None:
    table = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(NotEnoughNormals, match=r"\(8 Mondrian groups, each of which keeps one .*without 'stratify'"):
        bank().fit(table, conditions={"camera": [f"c{i}" for i in range(8)]})


def test_a_number_that_is_written_otherwise_belongs_to_its_added_group() -> None:
    group = AddedGroup({"lens": "1.50"}, Calibration.fit(np.arange(9.0)))
    values = np.array([1.5, "1.50", "1.5", 2, None, "A"], dtype=object)
    assert group.membership({"lens": values}, 6).tolist() == [IS, IS, IS, NO, MAY, NO]


def test_added_groups_that_a_new_calibration_takes_away_are_said() -> None:
    rng = np.random.default_rng(0)
    detector = Detector("table", "memory_bank", alpha=0.1).fit(rng.normal(size=(60, 3)))
    detector.calibrate(rng.normal(size=(40, 3)), as_group={"camera": "b"})
    with pytest.warns(UserWarning, match="groups added to the calibration are gone, .*: camera=b"):
        detector.calibrate(rng.normal(size=(40, 3)))
    assert not detector.pipeline_.added
