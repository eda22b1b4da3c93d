"""The conditions benchmark: what is told wrong, who sees which image, the baselines, and what is kept of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import conditions, conditions_data
from benchmarks.conditions import Subject, markdown, summary
from benchmarks.conditions_baselines import BASELINES, CNN, Logistic, Neighbours, Told, odds_against, told_by
from benchmarks.conditions_data import FACTORS, ToldSet, told_set, wrong_values
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.metrics import roc_auc

TRAIN, TEST = 300, 200


def three_classes(name: str = "stand-in", **_: Any) -> ImageSet:
    """No two images are alike; the rows of a class are bright in its third."""
    rng = np.random.default_rng(0)
    kind = np.arange(TRAIN + TEST) % 3
    pixels = rng.integers(0, 99, (TRAIN + TEST, 9, 9), dtype=np.uint8)
    for k in range(3):
        pixels[kind == k, 3 * k : 3 * k + 3] += 150
    images = ImageSet.from_arrays(pixels, conditions={"class": kind}, name=name)
    return images.replace(splits=np.repeat(["train", "test"], [TRAIN, TEST]))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions_data, "open_whole", three_classes)


def told(name: str, **given: Any) -> ToldSet:
    found = told_set(name, **given)
    assert isinstance(found, ToldSet)
    return found


# What is told ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stand_in")
def test_one_in_twenty_is_told_another_class_and_all_others_the_true_one() -> None:
    found, whole = told("stand-in", seed=1), three_classes()
    truth = dict(zip(whole.ids.tolist(), whole.conditions["class"].astype(str), strict=True))
    right = found.test.conditions["class"] == np.array([truth[one] for one in found.test.ids.tolist()])
    np.testing.assert_array_equal(right, ~found.wrong)
    assert found.wrong.sum() == TEST / 20
    assert set(found.test.conditions["class"]) == {"0", "1", "2"}
    assert [truth[one] for one in found.train.ids.tolist()] == found.train.conditions["class"].tolist()


@pytest.mark.usefixtures("stand_in")
def test_the_seed_draws_what_is_told_and_nothing_else() -> None:
    one, again, other = told("stand-in"), told("stand-in"), told("stand-in", seed=1)
    assert one.test.fingerprint() == again.test.fingerprint()
    assert one.test.ids.tolist() == other.test.ids.tolist()
    assert one.train.fingerprint() == other.train.fingerprint()
    assert (one.wrong != other.wrong).any()


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["stand-in", *FACTORS])
def test_the_dev_form_sees_nothing_that_the_test_form_tests(name: str) -> None:
    dev, test = told(name, form="dev"), told(name)
    parts = [set(one.ids.tolist()) for one in (dev.train, dev.test, test.test)]
    assert len(set().union(*parts)) == sum(map(len, parts))
    assert parts[0] | parts[1] == set(test.train.ids.tolist())


@pytest.mark.parametrize(("name", "column"), FACTORS.items())
def test_a_number_is_told_wrong_by_a_fifth_of_its_range_or_more(name: str, column: str) -> None:
    from knowngood.data.datasets.factors import VALUES, factor_codes

    found = told(name, form="dev")
    k = ["shape", "scale", "rotation"].index(column)
    truth = VALUES[column][factor_codes(found.test.ids.astype(int))[:, k]]
    off = np.abs(found.test.conditions[column] - truth)
    assert off[~found.wrong].max() == 0
    assert off[found.wrong].min() >= 0.2 * np.ptp(found.train.conditions[column]) - 1e-9
    if name == "scale":
        shape = VALUES["shape"][factor_codes(found.test.ids.astype(int))[:, 0]]
        assert (found.test.conditions["shape"] == shape).all()


def test_any_far_value_may_be_told() -> None:
    values = np.linspace(0, 1, 6).repeat(200)
    wrong = wrong_values(values, values == 0.2, np.random.default_rng(0))
    np.testing.assert_allclose(np.unique(wrong[values == 0.2]), [0, 0.4, 0.6, 0.8, 1])
    np.testing.assert_array_equal(wrong[values != 0.2], values[values != 0.2])


@pytest.mark.parametrize("name", FACTORS)
def test_groups_of_a_number_are_neighbouring_values_and_none_is_empty(name: str) -> None:
    found = told(name)
    values, groups = found.train.conditions[found.column], found.groups(found.train)
    assert (np.diff(groups[np.argsort(values)]) >= 0).all()
    assert np.bincount(groups).min() > 0
    assert len(np.bincount(groups)) == min(8, len(np.unique(values)))


def test_a_set_that_is_not_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, **_: Any) -> ImageSet:
        raise DataError(f"no folder {name} here")

    monkeypatch.setattr(conditions_data, "open_whole", gone)
    assert told_set("nothing") == "missing: no folder nothing here"


# Baselines ------------------------------------------------------------------------------------------------------------


def test_odds_have_the_order_of_the_probability_and_do_not_end_at_certainty() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 4))
    classes = np.arange(200) % 4
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[np.arange(200), classes]
    np.testing.assert_allclose(odds_against(logits + 7, classes), np.log((1 - own) / own))
    assert np.diff(odds_against(np.array([[100.0, 0], [200, 0]]), np.zeros(2, int))) == -100


def test_neighbours_are_those_of_the_class_told_and_of_the_others() -> None:
    fitted = np.array([[0.0], [1], [10], [30]], np.float32), np.array([0, 0, 1, 2])
    x, said = np.array([[2.0], [2.0], [12.0]], np.float32), np.array([0, 1, 2])
    own, itself = Neighbours().fit(*fitted).score(x, said)
    np.testing.assert_allclose(own, [1, 8, 18])
    np.testing.assert_allclose(itself, [1, 1, 2])
    np.testing.assert_allclose(Neighbours(others=True).fit(*fitted).score(x, said)[0], [1 - 8, 8 - 1, 18 - 2])


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one == "cnn" else ()) for one in BASELINES]
)
@pytest.mark.usefixtures("stand_in")
def test_what_is_told_wrong_is_found_and_alarms_are_as_promised(name: str) -> None:
    parts = told("stand-in")
    pixels = [np.stack([one.read(i)[..., 0] for i in range(len(one))])[:, None] for one in (parts.train, parts.test)]
    train, test = (some.astype(np.float32) / 255 for some in pixels)
    given = (train, parts.groups(parts.train)), (test, parts.groups(parts.test))
    found = told_by(BASELINES[name](seed=0), *given, fraction=0.4, alpha=0.1, seed=0)
    assert roc_auc(parts.wrong, found.mismatch) > 0.95
    assert (found.p_condition[parts.wrong] <= 0.1).all()
    assert (found.p_condition[~parts.wrong] <= 0.1).mean() < 0.25
    assert (found.p_value is None) == (name in ("logistic", "cnn"))


def test_two_classes_have_the_odds_of_both() -> None:
    x = np.random.default_rng(0).normal(0, 1, (80, 1)).astype(np.float32)
    groups = (x[:, 0] > 0).astype(int)
    both = [Logistic().fit(x, groups).score(x, np.full(80, k))[0] for k in (0, 1)]
    np.testing.assert_allclose(both[0], -both[1])
    assert np.corrcoef(both[0], x[:, 0])[0, 1] > 0.99


@pytest.mark.slow
def test_the_network_depends_on_its_seed_alone() -> None:
    x = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    groups = np.arange(40) % 2
    one, again, other = (CNN(seed, epochs=1).fit(x, groups).score(x, groups)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stand_in")
def test_measures_are_of_the_wrong_ones_the_right_ones_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(told("stand-in"), {})
    wrong = subject.parts.wrong
    p = np.where(wrong, 0.01, 0.5)
    p[np.flatnonzero(~wrong)[:19]] = 0.05
    itself = np.linspace(0, 1, TEST)
    monkeypatch.setattr(conditions, "ours", lambda *_: Told(wrong * 2.0, itself, p, np.where(itself < 0.1, 0.02, 0.9)))
    found = conditions.measure(subject, "ours")
    assert (found["auroc"], found["detected"], found["false_alarms"]) == (1.0, 1.0, 0.1)
    assert found["auroc_itself"] == roc_auc(wrong, itself)
    assert found["false_alarms_itself"] == 0.1


@pytest.mark.usefixtures("stand_in")
def test_a_run_goes_on_where_it_stopped_and_tries_again_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def measure(subject: Subject, method: str) -> dict[str, Any]:
        done.append((method, subject.parts.seed))
        if method == "cnn":
            raise DataError("too dark")
        return {**dict.fromkeys(conditions.MEASURES), "auroc": 0.9 + 0.02 * subject.parts.seed, "seconds": 1.0}

    monkeypatch.setattr(conditions, "measure", measure)
    monkeypatch.setattr(conditions, "code_version", lambda: "1")
    given: dict[str, Any] = {"sets": ("a",), "methods": ("ours", "cnn"), "seeds": (0, 1), "out": tmp_path}
    table = conditions.main(**given)
    assert done == [("ours", 0), ("cnn", 0), ("ours", 1), ("cnn", 1)]
    assert [row["auroc"] for row in table] == [pytest.approx(0.91), None]
    assert table[1]["error"] == "too dark"
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    conditions.main(**given)
    assert done[4:] == [("cnn", 0), ("cnn", 1)]
    conditions.main(**given, show=True)
    assert len(done) == 6
    assert "0.9100 ± 0.0141" in capsys.readouterr().out
    config = tmp_path / "other.yaml"
    config.write_text(json.dumps({"alpha": 0.1}))
    conditions.main(**given, config=config, show=True)
    assert "0.91" not in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_the_settings_are_the_recipe_that_the_library_takes_with_conditions_checked() -> None:
    subject = Subject(told("stand-in", seed=2), {"alpha": 0.1})
    ours, apart = subject.settings("ours"), subject.settings("detectors")
    assert (ours.representation.name, ours.model, ours.score) == ("auto", "auto", "auto")
    assert (ours.conditioning.check, apart.conditioning.check) == ("auto", ())
    assert (ours.random_state, ours.alpha) == (2, 0.1)


def test_means_are_over_seeds_and_what_is_not_said_is_a_dash() -> None:
    rows = [{"set": "a", "method": "cnn", **dict.fromkeys(conditions.MEASURES), "auroc": v} for v in (0.9, 0.94)]
    table = summary(rows)
    assert (table[0]["seeds"], table[0]["auroc"]) == (2, pytest.approx(0.92))
    assert markdown(table).splitlines()[-1] == "| a | cnn | 2 | 0.9200 ± 0.0283 | – | – | – | – | – | – |"


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'neighbours'"):
        conditions.main(methods=("neighbors",), out=tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in")
def test_ours_and_a_detector_a_class_run_on_images(tmp_path: Path) -> None:
    table = conditions.main(sets=("a",), methods=("ours", "detectors"), quick=True, out=tmp_path)
    assert [row["error"] for row in table] == [None, None]
    assert table[1]["auroc"] > 0.9
