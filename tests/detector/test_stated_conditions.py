"""Items that are good by themselves and wrong for what they are said to be: found, named, at the promised rates."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from feature_cells import Cells, kinds, noise
from feature_cells import detector as features
from knowngood import Detector
from knowngood.calibration import Calibration
from knowngood.detector.batch import references_of
from knowngood.detector.calibrate import NormalScores, mismatch_calibrations, with_calibration
from knowngood.detector.items import items_to_score
from knowngood.detector.results import decided
from knowngood.detector.stated_conditions import Stated
from knowngood.errors import BatchWarning, DataError, NotEnoughNormals, SettingsError
from knowngood.scores.mismatch import mismatch

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

PRODUCTS = np.array(["A", "B", "C"])
CENTRES = 4 * np.random.default_rng(0).normal(size=(3, 4))
BANK = {"representation": "table", "model": "memory_bank"}


def rows(n: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of three products on two lines, which moves the last column; all six in turn."""
    rng, product, line = np.random.default_rng(seed), np.arange(n) % 3, np.arange(n) // 3 % 2
    x = np.column_stack([CENTRES[product], 6.0 * line]) + rng.normal(size=(n, 5))
    return x, {"product": PRODUCTS[product], "line": np.array(["old", "new"])[line]}


def swapped(conditions: dict[str, np.ndarray], column: str, at: np.ndarray) -> dict[str, np.ndarray]:
    """Another value of a column for some items: the next in the alphabet, the first after the last."""
    values = np.unique(conditions[column])
    other = conditions[column].copy()
    other[at] = values[(np.searchsorted(values, other[at]) + 1) % len(values)]
    return {**conditions, column: other}


@pytest.fixture(scope="module")
def bank() -> Detector:
    """Fitted to products on one line."""
    x, conditions = rows(300, 1)
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "split", "fraction": 0.5})
    return made.fit(x[:, :4], conditions={"product": conditions["product"]})


@pytest.fixture(scope="module")
def both() -> Detector:
    """Fitted to products and lines."""
    x, conditions = rows(600, 1)
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "split", "fraction": 0.5})
    return made.fit(x, conditions=conditions)


def one_line(n: int = 300, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, conditions = rows(n, seed)
    return x[:, :4], conditions["product"]


def test_swapped_labels_are_found_and_named_though_the_items_are_good(bank: Detector) -> None:
    x, product = one_line()
    wrong = swapped({"product": product}, "product", np.arange(60))["product"]
    table = bank.detect(x, conditions={"product": wrong})
    assert table["is_anomalous"][:60].mean() > 0.95
    named = [f"wrong for product: looks like {right}" for right in product[:60]]
    found = table["verdict"][:60].str.startswith("wrong")
    assert found.mean() > 0.9
    assert (table["verdict"][:60] == named)[found].all()
    assert (table["looks_like"] == product).mean() > 0.95
    assert (table["p_value"][:60] <= 0.025).mean() < 0.1
    assert table["is_anomalous"][60:].mean() < 0.1


def test_what_nothing_known_looks_like_is_anomalous_whatever_is_stated(bank: Detector) -> None:
    table = bank.detect(np.full((3, 4), 50.0), conditions={"product": PRODUCTS})
    assert (table["verdict"] == "anomalous").all()
    assert (bank.detect(np.full((3, 4), 50.0), unknown="infer")["verdict"] == "anomalous").all()


def test_the_score_by_itself_does_not_depend_on_what_is_stated(bank: Detector) -> None:
    x, product = one_line(30)
    wrong = swapped({"product": product}, "product", np.arange(30))["product"]
    one, other = (bank.detect(x, conditions={"product": stated}) for stated in (product, wrong))
    for name in ("anomaly_score", "p_value"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-6)


def test_the_column_that_is_wrong_is_named(both: Detector) -> None:
    x, conditions = rows(300, 3)
    for column, value in (("line", "old"), ("product", "A")):
        at = np.flatnonzero(conditions[column] == value)
        table = both.detect(x, conditions=swapped(conditions, column, np.arange(300)))
        words = table["verdict"][at]
        assert (words == f"wrong for {column}: looks like {value}").mean() > 0.6
        assert words.str.startswith("wrong").mean() > 0.7
        right = "product" if column == "line" else "line"
        assert (table[f"p_condition_{right}"] <= 0.025).mean() < 0.1
        assert set(table["looks_like"]) <= {f"product={p}, line={s}" for p in PRODUCTS for s in ("old", "new")}


def test_both_wrong_columns_are_named(both: Detector) -> None:
    x, conditions = rows(300, 3)
    wrong = swapped(swapped(conditions, "line", np.arange(300)), "product", np.arange(300))
    words = both.detect(x, conditions=wrong)["verdict"]
    right = [f"{p}, {s}" for p, s in zip(conditions["product"], conditions["line"], strict=True)]
    assert (words == [f"wrong for product, line: looks like {values}" for values in right]).mean() > 0.6


def test_a_part_in_the_wrong_pose_is_found() -> None:
    """A number: the alternatives are the medians of its bins among the items fitted to."""
    rng = np.random.default_rng(0)

    def posed(n: int) -> tuple[np.ndarray, np.ndarray]:
        angle = rng.uniform(0, 180, n)
        turned = np.column_stack([np.cos(np.radians(2 * angle)), np.sin(np.radians(2 * angle))])
        return turned + rng.normal(0, 0.1, (n, 2)), angle

    x, angle = posed(800)
    made = Detector(**BANK, conditioning={"check": "angle"}, calibration={"method": "split", "fraction": 0.5})
    made.fit(x, conditions={"angle": angle})
    y, right = posed(200)
    table = made.detect(y, conditions={"angle": np.r_[(right[:100] + 90) % 180, right[100:]]})
    assert table["verdict"][:100].str.startswith("wrong for angle: looks like ").mean() > 0.95
    assert table["is_anomalous"][100:].mean() < 0.12
    edges = made.pipeline_.schema.columns[0].edges
    middle = np.flatnonzero((edges[3] <= right[:100]) & (right[:100] < edges[4]))
    assert (table["looks_like"][middle] == f"{edges[3]:.4g} to {edges[4]:.4g}").mean() > 0.6


@pytest.mark.parametrize("dims", [2, 8])
def test_both_rates_are_alpha_and_their_union_is_at_most_alpha(dims: int) -> None:
    """Energies of Gaussians, 200 divisions: 199 of each condition calibrate, so that P(p ≤ .05) = 10/200 exactly."""
    rng, alpha, names = np.random.default_rng(dims), 0.05, ("c=0", "c=1", "c=2")
    means, weight = rng.normal(size=(3, dims)), np.log([0.5, 0.3, 0.2])
    stated = np.repeat(np.arange(3), 399)
    x = means[stated] + rng.normal(size=(len(stated), dims)) * (1 + stated[:, None] / 2)
    spread = 1 + np.arange(3) / 2
    energy = np.stack([-multivariate_normal.logpdf(x, m, s**2) for m, s in zip(means, spread, strict=True)], axis=1)
    odds = mismatch(energy, stated, weight).log_odds
    whole = -np.logaddexp.reduce(weight - energy, axis=1)
    rates = []
    for _ in range(200):
        new = np.concatenate([k * 399 + rng.permutation(399)[:200] for k in range(3)])
        old = np.setdiff1d(np.arange(len(x)), new)
        (fits,) = mismatch_calibrations(odds[old, None], stated[old], names, alpha=alpha / 2)
        itself = Calibration.fit(whole[old], stated[old], names, alpha=alpha / 2)
        p = np.stack([itself.p_values(whole[new], stated[new]), fits.p_values(odds[new], stated[new])])
        flags = [*(p <= alpha), 2 * p.min(axis=0) <= alpha]
        rates.append([[flag[stated[new] == k].mean() for k in range(3)] for flag in flags])
    p_value, p_condition, union = np.mean(rates, axis=0)
    np.testing.assert_allclose(p_value, alpha, atol=0.01)
    np.testing.assert_allclose(p_condition, alpha, atol=0.01)
    assert (union <= alpha + 0.005).all()
    assert (union > alpha / 2).all()


def test_verdicts_are_those_of_twice_the_smaller_p_value(bank: Detector) -> None:
    x, product = one_line()
    wrong = {"product": swapped({"product": product}, "product", np.arange(30))["product"]}
    for alpha in (0.05, 0.2):
        table = bank.detect(x, conditions=wrong, alpha=alpha)
        joint = 2 * np.minimum(table["p_value"], table["p_condition"])
        np.testing.assert_array_equal(table["is_anomalous"], joint <= alpha)
        np.testing.assert_array_equal(table["verdict"] != "normal", joint <= alpha)
        np.testing.assert_array_equal(table["verdict"] == "anomalous", table["p_value"] <= alpha / 2)
    many = {"product": swapped({"product": product}, "product", np.arange(200))["product"]}
    few = bank.detect(x, conditions=many, fdr=0.1)
    assert few["is_anomalous"][:200].mean() > 0.9
    np.testing.assert_array_equal(few["verdict"] != "normal", few["is_anomalous"])
    unsure = bank.detect(x, conditions=wrong, abstain=0.3)["verdict"]
    assert set(unsure) >= {"normal", "unsure"}


def test_scikit_learn_s_verdict_is_the_same(bank: Detector) -> None:
    x, product = one_line()
    wrong = {"product": swapped({"product": product}, "product", np.arange(30))["product"]}
    flags = bank.detect(x, conditions=wrong)["is_anomalous"].to_numpy()
    assert flags[:30].mean() > 0.9
    np.testing.assert_array_equal(bank.decision_function(x, conditions=wrong) < 0, flags)
    np.testing.assert_array_equal(bank.predict(x, conditions=wrong) == -1, flags)
    np.testing.assert_array_equal(
        np.concatenate([b.table["is_anomalous"] for b in bank.stream(x, conditions=wrong)]), flags
    )


def test_maps_are_compared_within_the_stated_condition_and_one_of_a_group_counts_there(bank: Detector) -> None:
    """Of 60 images stated B, two of a part, all but one look like A or C."""
    stated, looks = np.repeat([0, 1, 2], [60, 60, 60]), np.repeat([0, 1, 2], [119, 1, 60])
    values, mismatches = np.linspace(1, 2, 180), np.linspace(0, 1, 180)[:, None]
    scores = NormalScores(np.arange(180), values, looks, None, 10.0 * stated, np.arange(180) // 2, mismatches, stated)
    found = with_calibration(bank.pipeline_, scores, "set")
    assert found.calibration is not None
    assert found.map_calibration is not None
    assert found.map_calibration.counts.tolist() == [30, 30, 30]
    assert [found.map_calibration.reference(0.1, k).max() for k in range(3)] == [0, 10, 20]
    assert found.mismatch_calibrations[0].counts.tolist() == [30, 30, 30]
    assert found.calibration.counts.tolist() == [60, 1, 30]


def test_an_item_without_a_stated_value_is_judged_by_itself(bank: Detector) -> None:
    x, product = one_line(60)
    some = product.astype(object)
    some[:20] = None
    with pytest.raises(DataError, match="missing"):
        bank.detect(x, conditions={"product": some})
    table = bank.detect(x, conditions={"product": some}, unknown="infer")
    assert table["p_condition"].isna().tolist() == [True] * 20 + [False] * 40
    assert set(table["verdict"][:20]) <= {"normal", "anomalous"}
    assert (table["looks_like"][:20] == product[:20]).mean() > 0.9
    known = bank.detect(x, conditions={"product": product})
    np.testing.assert_array_equal(table["p_value"][20:], known["p_value"][20:])
    assert (table["p_value"][:20] >= known["p_value"][:20]).all()  # the largest of those of all products


def test_a_value_that_was_never_seen_is_refused_or_inferred_as_before(bank: Detector) -> None:
    x, _ = one_line(3)
    with pytest.raises(DataError, match="has no value 'Z'"):
        bank.detect(x, conditions={"product": ["Z"] * 3})
    with pytest.warns(UserWarning, match="'Z'"):
        table = bank.detect(x, conditions={"product": ["Z"] * 3}, unknown="infer")
    assert table["p_condition"].isna().all()


def test_combinations_that_never_occurred_are_compared_with_all() -> None:
    x, conditions = rows(600, 1)
    kept = ~((conditions["product"] == "C") & (conditions["line"] == "new"))
    made = Detector(**BANK, conditioning={"check": ("product", "line")}, calibration={"method": "split"}, alpha=0.1)
    made.fit(x[kept], conditions={name: values[kept] for name, values in conditions.items()})
    table = made.detect(x[~kept], conditions={name: values[~kept] for name, values in conditions.items()})
    assert table["p_condition"].notna().all()


def test_a_saved_or_copied_model_says_the_same(both: Detector, tmp_path: Path) -> None:
    x, conditions = rows(60, 3)
    wrong = swapped(conditions, "line", np.arange(20))
    table = both.detect(x, conditions=wrong)
    both.save(tmp_path / "model")
    for other in (Detector.load(tmp_path / "model"), pickle.loads(pickle.dumps(both))):
        assert other.detect(x, conditions=wrong).equals(table)


def test_the_card_and_the_recipe_say_what_is_checked_and_promised(both: Detector) -> None:
    assert "stated conditions that are checked: product, line" in both.about_["recipe"]
    assert "stated conditions are checked: product, line" in both.card_
    assert "at most 0.025" in both.card_
    assert "both together at most 0.05 of all" in both.card_
    assert "\n- looks like product=A, line=new: " in both.card_


def test_new_calibration_items_calibrate_both(bank: Detector) -> None:
    """Another camera halves the scale: before it all p-values are large, after it they are uniform again."""
    copy = pickle.loads(pickle.dumps(bank))
    x, product = one_line(600, 5)
    copy.calibrate(x[:300] + 0.7, conditions={"product": product[:300]})
    assert len(copy.pipeline_.calibration) == len(copy.pipeline_.mismatch_calibrations[0]) == 300
    table = copy.detect(x[300:] + 0.7, conditions={"product": product[300:]})
    assert abs(table["p_value"].mean() - 0.5) < 0.08
    assert abs(table["p_condition"].mean() - 0.5) < 0.08
    with pytest.raises(NotEnoughNormals, match="half of it for each of two tests"):
        copy.calibrate(x[:38], conditions={"product": product[:38]})


def test_an_added_group_has_both_calibrations_of_its_own(bank: Detector, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(bank))
    x, product = one_line(600, 5)
    shifted = x + np.array([1.5, 0, 0, 0])
    copy.calibrate(shifted[:300], conditions={"product": product[:300]}, as_group={"camera": "B"})
    said = swapped({"product": product[300:]}, "product", np.arange(60))
    table = copy.detect(shifted[300:], conditions={**said, "camera": ["B"] * 300})
    assert abs(table["p_value"].mean() - 0.5) < 0.08
    assert abs(table["p_condition"][60:].mean() - 0.5) < 0.08
    assert table["verdict"][:60].str.startswith("wrong").mean() > 0.7
    copy.save(tmp_path / "model")
    again = Detector.load(tmp_path / "model").detect(shifted[300:], conditions={**said, "camera": ["B"] * 300})
    assert again.equals(table)
    before = bank.detect(x[300:], conditions=said)
    assert copy.detect(x[300:], conditions=said)["p_condition"].equals(before["p_condition"])


def test_new_items_are_taken_in_and_both_are_calibrated_anew(bank: Detector) -> None:
    copy = pickle.loads(pickle.dumps(bank))
    x, product = one_line(300, 7)
    copy.update(x, conditions={"product": product})
    assert len(copy.pipeline_.mismatch_calibrations[0]) == len(copy.pipeline_.calibration) == 150
    y, right = one_line(60, 8)
    said = swapped({"product": right}, "product", np.arange(60))
    assert copy.detect(y, conditions=said)["verdict"].str.startswith("wrong").mean() > 0.9


def test_a_batch_of_swapped_labels_is_no_change_of_the_images(bank: Detector) -> None:
    x, product = one_line()
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchWarning)
        table = bank.detect(x, conditions=swapped({"product": product}, "product", np.arange(300)))
    assert table["is_anomalous"].mean() > 0.9
    with pytest.warns(BatchWarning, match=r"alpha = 0\.025"):
        bank.detect(x + 10, conditions={"product": product})


def test_a_score_is_of_the_group_that_an_item_looks_like_in_all_that_is_said_of_it() -> None:
    """Products of which one calibrates by 240 rows and the other by 60, about: half of the labels are swapped."""
    x, conditions = rows(900, 1)
    kept = np.flatnonzero((conditions["product"] == "A") | (np.arange(900) % 12 == 1))
    x, product = x[kept, :4], conditions["product"][kept]
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "split", "fraction": 0.8})
    fitted = made.fit(x, conditions={"product": product})
    few, many = sorted(fitted.pipeline_.calibration.counts.tolist())
    assert 39 <= few < many / 2
    new, right = one_line(300, 5)
    kept = right != "C"
    items = items_to_score(fitted, new[kept], {"product": np.where(np.arange(kept.sum()) % 2, "A", "B")})
    decisions = decided(fitted.pipeline_, items)
    code, normals = references_of(fitted.pipeline_, decisions, fitted.pipeline_.level())
    assert np.array_equal(code, decisions.strata)
    assert set(normals.tolist()) == {few, many}
    steps = decisions.p_values * (normals + 1)
    assert steps == pytest.approx(np.rint(steps), abs=1e-9)


def test_cross_calibration_scores_both_out_of_fold() -> None:
    x, product = one_line(180)
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "cross", "folds": 3})
    made.fit(x, conditions={"product": product})
    assert len(made.pipeline_.mismatch_calibrations[0]) == 180
    y, right = one_line(90, 4)
    table = made.detect(y, conditions=swapped({"product": right}, "product", np.arange(30)))
    assert table["verdict"][:30].str.startswith("wrong").mean() > 0.9
    assert table["is_anomalous"][30:].mean() < 0.15


def test_features_are_compared_by_the_gaussians_of_each_product() -> None:
    x, conditions = noise(200, seed=1), kinds(200)
    x[1::2, 8:16, 8:16] += 12
    made = features(conditioning={"check": "auto"}, calibration={"method": "split", "fraction": 0.5})
    made.fit(x, conditions=conditions, backbone=Cells())
    y = noise(60, seed=2)
    y[1::2, 8:16, 8:16] += 12
    table = made.detect(y, conditions=swapped(kinds(60), "kind", np.arange(20)))
    assert table["verdict"][:20].str.startswith("wrong for kind").mean() >= 0.85
    assert table["is_anomalous"][20:].mean() < 0.2


# Which conditions are checked ---------------------------------------------------------------------------------------


def test_nothing_is_checked_unless_it_is_asked_for() -> None:
    x, product = one_line(120)
    made = Detector(**BANK, calibration={"method": "split"}).fit(x, conditions={"product": product})
    table = made.detect(x[:5], conditions={"product": product[:5]})
    assert not {"p_condition", "mismatch", "looks_like", "verdict"} & set(table)
    assert made.pipeline_.checked == ()
    off = Detector(**BANK, conditioning={"check": "none"}, calibration={"method": "split"})
    assert off.fit(x, conditions={"product": product}).detect(x[:5], conditions={"product": product[:5]}).equals(table)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"conditioning": {"check": "colour"}}, "no condition 'colour'.*product"),
        ({"conditioning": {"check": "product", "roles": {"product": ("model", "stratify")}}}, "lacks the role 'infer'"),
        ({"conditioning": {"check": "product", "roles": {"product": ("model", "infer")}}}, "lacks the role 'stratify'"),
        (
            {"conditioning": {"check": "product"}, "model": {"name": "vae", "objective": "vae"}},
            "no condition 'product'",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused_by_name(settings: dict, what: str) -> None:
    x, product = one_line(60)
    with pytest.raises(SettingsError, match=what):
        Detector(**{**BANK, **settings}).fit(x, conditions={"product": product})


def test_auto_checks_what_the_model_can_compare_up_to_64_combinations() -> None:
    x, _ = one_line(400)
    cell = np.arange(400) % 70
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "split"}, alpha=0.2)
    made.fit(x, conditions={"cell": np.array([f"n{i}" for i in cell])})
    assert made.pipeline_.checked == ()
    assert "no stated condition is checked" in made.about_["recipe"]
    assert "p_condition" not in made.detect(x[:70], conditions={"cell": [f"n{i}" for i in range(70)]})
    roles = {"product": ("model", "stratify", "infer"), "line": ("model", "stratify")}
    conditioning = {"check": "auto", "roles": roles}
    y, conditions = rows(240, 3)
    made = Detector(**BANK, conditioning=conditioning, calibration={"method": "split"}, alpha=0.2)
    made.fit(y, conditions=conditions)
    assert made.pipeline_.checked == ("product",)
    table = made.detect(
        y[:60], conditions=swapped({k: v[:60] for k, v in conditions.items()}, "product", np.arange(60))
    )
    assert table["verdict"].str.startswith("wrong for product").mean() > 0.9
    assert isinstance(made.pipeline_.mismatch_calibrations[0], Calibration)


def test_no_item_is_wrong_for_a_condition_that_has_no_other() -> None:
    """On line 2 there is product C alone: nothing to compare, and the verdict is by p_value."""
    x, product = one_line(240)
    line = np.where(product == "C", "2", "1")
    roles = {"product": ("model", "stratify", "infer"), "line": ("model", "stratify")}
    made = Detector(
        **BANK, conditioning={"check": "product", "roles": roles}, calibration={"method": "split"}, alpha=0.2
    )
    made.fit(x, conditions={"product": product, "line": line})
    table = made.detect(x, conditions={"product": product, "line": line})
    np.testing.assert_array_equal(table["p_condition"].isna(), product == "C")
    assert set(table["verdict"][product == "C"]) <= {"normal", "anomalous"}


def test_wrong_columns_are_those_of_small_p_or_the_smallest() -> None:
    p = np.array([[0.01, 0.5, 0.01], [0.01, 0.02, 0.01], [0.01, 0.4, 0.3], [0.5, 0.01, 0.01], [np.nan] * 3])
    stated = Stated(p, -p, np.zeros((5, 2), int), np.zeros((5, 2), int))
    wanted = [[False, True], [True, True], [False, True], [False, False], [False, False]]
    np.testing.assert_array_equal(stated.wrong_columns(0.025), wanted)


def test_labelled_anomalies_and_stated_conditions_go_together() -> None:
    """What is learned from labelled anomalies is learned from scores under the stated conditions alone."""
    x, product = one_line(150)
    anomalies = np.arange(150) >= 140
    x[140:] += 1.5
    made = Detector(**BANK, conditioning={"check": "auto"}, calibration={"method": "split", "fraction": 0.5}, alpha=0.2)
    made.fit(x, conditions={"product": product}, anomalies=anomalies)
    assert made.about_["labels"]["sentence"]
    y, right = one_line(60, 4)
    table = made.detect(y, conditions=swapped({"product": right}, "product", np.arange(20)))
    assert table["verdict"][:20].str.startswith("wrong").mean() > 0.8


@pytest.mark.parametrize("method", ["split", "cross"])
def test_a_wrong_statement_does_not_move_an_item_among_scores_of_another_scale(method: str) -> None:
    """Product B varies three times as much as A: compared with the scores of A, a good B would be anomalous."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        b = np.arange(n) % 2
        return rng.normal(0, np.where(b, 3.0, 1.0)[:, None], (n, 4)) + 20 * b[:, None], np.array(["A", "B"])[b]

    x, product = draw(400)
    detector = Detector("table", "memory_bank", conditioning={"check": "auto"}, calibration={"method": method})
    detector.fit(x, conditions={"product": product})
    x, product = draw(400)
    wrong = np.arange(400) < 100
    stated = np.where(wrong, np.where(product == "A", "B", "A"), product)
    found = detector.detect(x, conditions={"product": stated})
    right = detector.detect(x, conditions={"product": product})
    assert np.allclose(found["p_value"], right["p_value"])
    assert np.allclose(found["anomaly_score"], right["anomaly_score"])
    assert found["verdict"][wrong].str.startswith("wrong for product: looks like").mean() > 0.85


def test_regions_are_those_of_the_alpha_of_the_fit() -> None:
    """Two tests share α; maps are tested alone."""
    images, given = noise(160), kinds(160)
    made = features(conditioning={"check": "auto"}, alpha=0.1).fit(images, conditions=given, backbone=Cells())
    new, stated = noise(60, seed=1), kinds(60)
    own, asked, half = (made.regions(new, conditions=stated, alpha=alpha) for alpha in (None, 0.1, 0.05))
    assert own.equals(asked)
    assert len(own) > len(half)
    with pytest.raises(NotEnoughNormals):
        made.detect(new, conditions=stated, alpha=0.02)
    made.regions(new, conditions=stated, alpha=0.02)  # 64 images are enough for one test, not for half of α


@pytest.mark.parametrize("alpha", ["0.1", 1.5, float("nan")])
def test_what_is_no_false_alarm_rate_is_refused_as_it_was_given(bank: Detector, alpha: object) -> None:
    x, product = one_line()
    with pytest.raises(SettingsError, match=re.escape(f"alpha = {alpha!r} is no false-alarm rate")):
        bank.detect(x[:1], conditions={"product": product[:1]}, alpha=alpha)  # type: ignore[arg-type]
