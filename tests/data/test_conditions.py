"""Condition schema: reading columns, roles, strata, and what stands in for unknown values."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowngood.config.words import as_command
from knowngood.data.conditions import ConditionSchema, Expanded
from knowngood.data.values import numbers_of
from knowngood.errors import DataError, SettingsError

CAMERAS = np.array(["A", "A", "B", "C", "B", "A"], dtype=object)
PRODUCTS = np.array([1, 2, 2, 1, 2, 1])


def two_columns(**roles: Any) -> ConditionSchema:
    return ConditionSchema.fit({"camera": CAMERAS, "product": PRODUCTS}, 6, roles or None)


def numbers(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 3.0, n)


@st.composite
def column_sets(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], int, dict[str, tuple[str, ...]]]:
    n = draw(st.integers(1, 25))
    roles = st.lists(st.sampled_from(["model", "stratify", "infer"]), unique=True).map(tuple)
    columns: dict[str, np.ndarray] = {}
    for name in draw(st.lists(st.sampled_from(["camera", "product", "exposure", "gain"]), unique=True)):
        if name in ("camera", "product"):
            element: st.SearchStrategy[Any] = st.sampled_from(["A", "B", "β", "10", "9"])
        else:
            element = st.floats(-1e6, 1e6).map(lambda value: round(value, 3) + 0.0)
        columns[name] = np.array(draw(st.lists(element, min_size=n, max_size=n)), dtype=object)
    return columns, n, {name: draw(roles) for name in columns}


# Properties ---------------------------------------------------------------------------------------------------------


def assert_same(first: Expanded, second: Expanded) -> None:
    np.testing.assert_array_equal(first.c, second.c)
    np.testing.assert_array_equal(first.stratum, second.stratum)


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets())
def test_json_keeps_everything(case: Any) -> None:
    columns, n, roles = case
    schema = ConditionSchema.fit(columns, n, roles)
    again = ConditionSchema.of(json.loads(json.dumps(asdict(schema))))
    assert again.stratum_names == schema.stratum_names
    assert_same(again.expand(columns, n), schema.expand(columns, n))
    assert again == ConditionSchema.of(json.loads(json.dumps(asdict(again))))


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets())
def test_known_items_expand_to_their_encoded_row(case: Any) -> None:
    columns, n, roles = case
    schema = ConditionSchema.fit(columns, n, roles)
    encoded = schema.expand(columns, n)
    assert encoded.c.shape == (n, schema.width)
    assert encoded.c.dtype == np.float32
    assert encoded.stratum.dtype == np.int64
    assert np.isfinite(encoded.c).all()
    # Every stratum that has a name was observed, and nothing else.
    assert sorted(set(encoded.stratum.tolist())) == list(range(schema.n_strata))
    for unknown in ("error", "infer"):
        expanded = schema.expand(columns, n, unknown=unknown)
        assert_same(expanded, encoded)
        np.testing.assert_array_equal(expanded.item, np.arange(n))
        np.testing.assert_array_equal(expanded.log_weight, 0.0)
        assert expanded.known.all()
        assert len(expanded.label) == n


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets(), st.randoms(use_true_random=False))
def test_weights_of_each_item_sum_to_one(case: Any, random: Any) -> None:
    columns, n, roles = case
    schema = ConditionSchema.fit(columns, n, roles)
    given_columns = {name: values.copy() for name, values in columns.items()}
    hidden = np.zeros(n, dtype=bool)
    for name, values in given_columns.items():
        if "infer" in roles[name]:
            for i in range(n):
                if random.random() < 0.5:
                    values[i], hidden[i] = None, True
    expanded = schema.expand(given_columns, n, unknown="infer")
    assert (np.diff(expanded.item) >= 0).all()
    np.testing.assert_allclose(np.bincount(expanded.item, np.exp(expanded.log_weight), minlength=n), 1.0)
    np.testing.assert_array_equal(expanded.known, ~hidden)
    # What is known of an item stands in each of its rows: its own encoding in the columns it has.
    encoded, start = schema.expand(columns, n), 0
    for column in schema.columns:
        kept = np.array([values is not None for values in given_columns[column.name]])[expanded.item]
        part = slice(start, start + column.width)
        np.testing.assert_array_equal(expanded.c[kept, part], encoded.c[expanded.item[kept], part])
        start += column.width


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets(), st.data())
def test_expanding_in_portions_changes_nothing(case: Any, data: st.DataObject) -> None:
    columns, n, roles = case
    schema = ConditionSchema.fit(columns, n, roles)
    cut = data.draw(st.integers(0, n))
    shown = {name: values for name, values in columns.items() if "infer" not in roles[name]}
    whole = schema.expand(shown, n, unknown="infer")
    parts = [
        schema.expand({name: values[part] for name, values in shown.items()}, len(range(n)[part]), unknown="infer")
        for part in (slice(0, cut), slice(cut, n))
    ]
    np.testing.assert_array_equal(whole.c, np.concatenate([part.c for part in parts]))
    np.testing.assert_array_equal(whole.log_weight, np.concatenate([part.log_weight for part in parts]))
    assert whole.label == [label for part in parts for label in part.label]


# Encoding -----------------------------------------------------------------------------------------------------------


def test_groups_of_another_fit_are_found_by_their_values() -> None:
    one = two_columns()
    other = ConditionSchema.fit({"camera": np.array(["B", "A", "B"]), "product": np.array([1, 1, 2])}, 3)
    found = one.strata_in(other)
    same = [other.stratum_names.index(name) if name in other.stratum_names else -1 for name in one.stratum_names]
    assert found.tolist() == same
    assert -1 in same
    binned, shifted = (ConditionSchema.fit({"gain": numbers(seed=seed)}, 400) for seed in (0, 1))
    assert binned.strata_in(shifted).tolist() == list(range(binned.n_strata))


def test_empty_schema() -> None:
    schema = ConditionSchema.fit({}, 4)
    assert (schema.width, schema.n_strata, schema.stratum_names) == (0, 1, ["all"])
    expanded = schema.expand(None, 4)
    assert expanded.c.shape == (4, 0)
    np.testing.assert_array_equal(expanded.stratum, 0)
    assert expanded.label == [""] * 4
    with pytest.raises(DataError, match=r"no condition 'camera'.*fitted without conditions"):
        schema.expand({"camera": CAMERAS}, 6)


def test_one_hot_and_strata() -> None:
    schema = two_columns()
    assert schema.width == 5
    assert schema.stratum_names == [
        "camera=A, product=1",
        "camera=A, product=2",
        "camera=B, product=2",
        "camera=C, product=1",
    ]
    encoded = schema.expand({"camera": CAMERAS, "product": PRODUCTS}, 6)
    np.testing.assert_array_equal(encoded.c[3], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(encoded.stratum, [0, 1, 2, 3, 2, 0])
    assert schema.expand({"camera": CAMERAS, "product": PRODUCTS}, 6).label[3] == "camera=C, product=1"


def test_known_values_that_never_met_belong_to_no_stratum() -> None:
    schema = two_columns()
    new_pair = {"camera": ["C", "A"], "product": [2, 1]}
    np.testing.assert_array_equal(schema.expand(new_pair, 2).stratum, [-1, 0])
    np.testing.assert_array_equal(schema.expand(new_pair, 2).c[0], [0, 0, 1, 0, 1])


def test_single_value_is_fine() -> None:
    schema = ConditionSchema.fit({"camera": ["A"] * 3, "gain": [1.5] * 3}, 3)
    assert schema.n_strata == 1
    np.testing.assert_array_equal(schema.expand({"camera": ["A"], "gain": [2.0]}, 1).c, [[1.0, 0.5]])
    np.testing.assert_array_equal(schema.expand({}, 1, unknown="infer").c, [[1.0, 0.0]])


def test_continuous_column_is_standardised_and_binned_by_quantiles() -> None:
    values = numbers()
    schema = ConditionSchema.fit({"exposure": values}, len(values))
    column = schema.columns[0]
    encoded = schema.expand({"exposure": values}, len(values))
    assert schema.width == 1
    assert encoded.c.mean() == pytest.approx(0, abs=1e-6)
    assert encoded.c.std() == pytest.approx(1, abs=1e-6)
    assert schema.n_strata == 8
    np.testing.assert_array_equal(np.bincount(encoded.stratum), 50)
    for stratum, median in enumerate(column.medians):
        assert median == pytest.approx(np.median(values[encoded.stratum == stratum]))
    # Beyond the fitted range the outer bins go on.
    outside = schema.expand({"exposure": [-100.0, 1000.0]}, 2)
    np.testing.assert_array_equal(outside.stratum, [0, 7])


@pytest.mark.parametrize(
    ("values", "bins"),
    [([0.5] * 9, 1), ([0.5] * 50 + [1.5], 2), ([0.25, 0.5, 0.75] * 5, 3), ([0.5, 0.5, 0.5, 0.5, 9.5, 9.5], 2)],
)
def test_repeated_numbers_make_fewer_bins_and_none_is_empty(values: list[float], bins: int) -> None:
    schema = ConditionSchema.fit({"gain": values}, len(values))
    counts = np.bincount(schema.expand({"gain": values}, len(values)).stratum, minlength=schema.n_strata)
    assert len(counts) == schema.n_strata <= bins
    assert (counts > 0).all()
    assert len(set(schema.stratum_names)) == schema.n_strata


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(20), "categorical"),
        (np.arange(21), "continuous"),
        (np.array([1.0, 2.0, 3.0]), "categorical"),  # integers that a missing value elsewhere made floats
        (np.array([1.0, 2.5]), "continuous"),
        (np.array([1, 2.5, np.int64(3)], dtype=object), "continuous"),
        (np.array(["0.1", "0.2"]), "categorical"),
        (np.array([True, False]), "categorical"),
    ],
)
def test_kind_of_column(values: np.ndarray, kind: str) -> None:
    assert ConditionSchema.fit({"column": values}, len(values)).columns[0].kind == kind


@pytest.mark.parametrize(
    "same",
    [np.array([2, 10, 1]), np.array([2.0, 10.0, 1.0]), np.array(["2", "10", "1"]), [2, "10", 1.0], (2, 10, 1)],
)
def test_categories_are_their_text_whatever_the_type(same: Any) -> None:
    schema = ConditionSchema.fit({"product": [1, 2, 10]}, 3)
    assert schema.columns[0].values == ("1", "2", "10")
    np.testing.assert_array_equal(schema.expand({"product": same}, 3).stratum, [1, 2, 0])


# Rows to score ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets(), st.data())
def test_take_of_one_row_an_item_is_the_encoded_item_in_that_condition(case: Any, data: st.DataObject) -> None:
    columns, n, roles = case
    schema = ConditionSchema.fit(columns, n, roles)
    unknown = {name: values for name, values in columns.items() if "infer" not in roles[name] and roles[name]}
    expanded = schema.expand(unknown, n, unknown="infer")
    rows = np.array([data.draw(st.sampled_from(np.flatnonzero(expanded.item == i).tolist())) for i in range(n)])
    taken = expanded.take(rows)
    np.testing.assert_array_equal(taken.c, expanded.c[rows])
    np.testing.assert_array_equal(taken.stratum, expanded.stratum[rows])
    np.testing.assert_array_equal(taken.item, np.arange(n))
    np.testing.assert_array_equal(taken.log_weight, 0)
    np.testing.assert_array_equal(taken.known, expanded.known)
    assert taken.label == [expanded.label[row] for row in rows]


@pytest.mark.slow
@settings(deadline=None)
@given(column_sets(), st.lists(st.integers(0, 25), max_size=3))
def test_concat_undoes_a_cut_into_parts(case: Any, cuts: list[int]) -> None:
    columns, n, roles = case
    whole = ConditionSchema.fit(columns, n, roles).expand(columns, n)
    parts = [whole.take(rows) for rows in np.split(np.arange(n), sorted(min(cut, n) for cut in cuts))]
    again = Expanded.concat(parts)
    assert_same(again, whole)
    for name in ("item", "log_weight", "known", "label"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_concat_refuses_items_with_several_rows() -> None:
    several = two_columns().expand(None, 2, unknown="infer")
    with pytest.raises(DataError, match="a part has 8 rows for 2 items; expected one row an item"):
        Expanded.concat([several])


def test_strata_are_rows_of_codes_by_column() -> None:
    schema = two_columns(camera=("model",))
    assert [column.name for column in schema.strata_columns] == ["product"]
    np.testing.assert_array_equal(schema.strata, [[0], [1]])
    assert two_columns(camera=("model",), product=("model",)).strata.shape == (1, 0)
    assert two_columns(camera=("infer",), product=("model",)).strata.shape == (1, 0)


# Roles --------------------------------------------------------------------------------------------------------------


def test_each_role_does_its_part() -> None:
    schema = two_columns(camera=("model",), product=("stratify",))
    assert (schema.width, schema.stratum_names) == (3, ["product=1", "product=2"])
    schema = two_columns(camera=("stratify", "infer"), product=("infer", "model"))
    assert (schema.width, schema.stratum_names) == (2, ["camera=A", "camera=B", "camera=C"])
    assert schema.columns[1].roles == ("model", "infer")
    assert two_columns(camera=("model",)).columns[1].roles == ("model", "stratify", "infer")


def test_column_without_roles_is_carried_and_ignored() -> None:
    roles = {"note": ()}
    notes = np.array([None, "x", 3, "", float("nan"), "y"], dtype=object)
    schema = ConditionSchema.fit({"camera": CAMERAS, "note": notes}, 6, roles)
    plain = ConditionSchema.fit({"camera": CAMERAS}, 6)
    expanded = schema.expand({"camera": CAMERAS, "note": notes}, 6)
    assert_same(expanded, plain.expand({"camera": CAMERAS}, 6))
    assert_same(schema.expand({"camera": CAMERAS}, 6), expanded)
    assert expanded.label[2] == "camera=B"


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"camra": ("model",)}, "no condition column 'camra'; did you mean 'camera'"),
        ({"camera": ("modle",)}, "'camera' cannot have the role 'modle'; did you mean 'model'"),
        ({"camera": "model"}, r"'camera' has 'model'; expected a list such as \['model'\]"),
    ],
)
def test_wrong_roles_are_named(roles: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ConditionSchema.fit({"camera": CAMERAS}, 6, roles)


def test_too_many_combinations_say_how_to_go_on() -> None:
    serial = np.arange(5000).astype(str)
    with pytest.raises(DataError, match=r"5,000 combinations.*'serial'.*4,096.*roles=\{'serial': \('model',\)\}"):
        ConditionSchema.fit({"serial": serial, "camera": ["A"] * 5000}, 5000)
    assert ConditionSchema.fit({"serial": serial}, 5000, {"serial": ("model",)}).width == 5000


def test_more_combinations_than_an_integer_can_number() -> None:
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {f"c{i}": rng.integers(0, 15, 200).astype(str) for i in range(17)}
    schema = ConditionSchema.fit(columns, 200)
    encoded = schema.expand(columns, 200)
    rows = np.stack(list(columns.values()), axis=1)
    assert schema.n_strata == len(np.unique(rows, axis=0)) == len(set(encoded.stratum.tolist()))
    turned = {name: np.roll(values, i) for i, (name, values) in enumerate(columns.items())}
    assert (schema.expand(turned, 200).stratum == -1).all()


# Unknown values -----------------------------------------------------------------------------------------------------


def test_unknown_value_is_refused_by_name() -> None:
    schema = two_columns()
    with pytest.raises(DataError) as refused:
        schema.expand({"camera": ["D"], "product": [1]}, 1)
    assert str(refused.value) == (
        "condition 'camera' has no value 'D'; known: A, B, C. Give a known value: "
        'conditions={"camera": …} or a column of the manifest; '
        'or pass unknown="infer", and the known values that explain it best count.'
    )
    with as_command(), pytest.raises(DataError) as refused:
        schema.expand({"camera": ["a"], "product": [1]}, 1)
    said = str(refused.value)
    assert "Give a known value: --as camera=A or a column of the manifest; or pass --unknown infer, and" in said
    named = ConditionSchema.fit({"camera": ["left", "right"] * 2}, 4)
    with pytest.raises(DataError, match="no value 'lefft', did you mean 'left'\\?; known: left, right"):
        named.expand({"camera": ["lefft"]}, 1)
    with pytest.raises(
        DataError, match=r"'camera' is missing for 2 of 3 items \(rows 0, 2\); known: A, B, C. Give it: "
    ):
        schema.expand({"camera": [None, "A", ""], "product": [1, 1, 1]}, 3)
    with pytest.raises(
        DataError, match=r"'product' is not given; known: 1, 2.* a column of the manifest; or pass unknown="
    ):
        schema.expand({"camera": ["A"]}, 1)


def test_long_lists_are_cut() -> None:
    values = [f"v{i:02d}" for i in range(62)]
    schema = ConditionSchema.fit({"letter": values}, 62)
    with pytest.raises(DataError, match=r"known: v00, .*v11 … and 50 more\."):
        schema.expand({"letter": ["x"]}, 1)


def test_extra_column_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match="no condition 'camra'; did you mean 'camera'"):
        two_columns().expand({"camra": CAMERAS, "product": PRODUCTS}, 6)


@pytest.mark.parametrize("missing", [None, float("nan"), "", np.nan])
def test_missing_value_takes_every_compatible_cell(missing: Any) -> None:
    expanded = two_columns().expand({"camera": ["A", missing], "product": [2, 2]}, 2, unknown="infer")
    np.testing.assert_array_equal(expanded.item, [0, 1, 1])
    assert expanded.label == ["camera=A, product=2", "camera=A, product=2", "camera=B, product=2"]
    np.testing.assert_allclose(np.exp(expanded.log_weight), [1, 1 / 3, 2 / 3])  # product 2: once A, twice B
    np.testing.assert_array_equal(expanded.stratum, [1, 1, 2])
    np.testing.assert_array_equal(expanded.known, [True, False])


def test_new_value_counts_as_unknown() -> None:
    schema = two_columns()
    new = schema.expand({"camera": ["D"], "product": [2]}, 1, unknown="infer")
    missing = schema.expand({"camera": [None], "product": [2]}, 1, unknown="infer")
    assert_same(new, missing)
    assert new.label == missing.label


def test_nothing_known_takes_every_cell_by_frequency() -> None:
    schema = two_columns()
    expanded = schema.expand(None, 2, unknown="infer")
    np.testing.assert_array_equal(expanded.item, [0] * 4 + [1] * 4)
    np.testing.assert_allclose(np.exp(expanded.log_weight[:4]), np.array([2, 1, 2, 1]) / 6)
    np.testing.assert_array_equal(expanded.stratum[:4], np.arange(4))


def test_known_values_that_never_met_leave_the_unknown_ones_open() -> None:
    columns = {"a": ["0", "1", "1"], "b": ["0", "1", "1"], "c": ["x", "y", "x"]}
    schema = ConditionSchema.fit(columns, 3)
    expanded = schema.expand({"a": ["0"], "b": ["1"]}, 1, unknown="infer")
    assert expanded.label == ["a=0, b=1, c=x", "a=0, b=1, c=y"]
    np.testing.assert_allclose(np.exp(expanded.log_weight), [2 / 3, 1 / 3])
    np.testing.assert_array_equal(expanded.stratum, [-1, -1])


def test_unknown_number_stands_at_bin_medians() -> None:
    values = numbers()
    schema = ConditionSchema.fit({"exposure": values}, len(values))
    column = schema.columns[0]
    expanded = schema.expand({"exposure": [np.nan]}, 1, unknown="infer")
    np.testing.assert_allclose(expanded.c[:, 0] * column.std + column.mean, column.medians, rtol=1e-5)
    np.testing.assert_allclose(np.exp(expanded.log_weight), 1 / 8)
    np.testing.assert_array_equal(expanded.stratum, np.arange(8))


def test_known_number_selects_cells_by_its_bin_and_keeps_its_value() -> None:
    camera = np.repeat(["A", "B"], 100)
    exposure = np.concatenate([np.linspace(0.1, 1, 100), np.linspace(10.1, 11, 100)])
    schema = ConditionSchema.fit({"camera": camera, "exposure": exposure}, 200)
    expanded = schema.expand({"exposure": [10.55]}, 1, unknown="infer")
    assert expanded.label == ["camera=B, exposure=10.55"]
    np.testing.assert_array_equal(expanded.log_weight, [0.0])
    assert not expanded.known[0]


def test_without_the_role_infer_unknown_stays_an_error() -> None:
    values = numbers(30)
    schema = ConditionSchema.fit({"exposure": values, "camera": ["A", "B", "C"] * 10}, 30, {"exposure": ("model",)})
    with pytest.raises(DataError, match=r"'exposure' is missing .*without the role 'infer'.*\('model', 'infer'\)"):
        schema.expand({"exposure": [np.nan], "camera": ["A"]}, 1, unknown="infer")
    expanded = schema.expand({"exposure": [2.5], "camera": ["?"]}, 1, unknown="infer")
    assert len(expanded.item) == 3
    np.testing.assert_array_equal(expanded.stratum, [0, 1, 2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"camera": ["A", None]}, r"'camera' is missing for 1 of 2 items to fit on \(rows 1\)"),
        ({"camera": ["A"]}, r"'camera' has shape \(1,\); expected one value for each of 2 images"),
        ({"gain": [0.5, np.inf]}, r"'gain' is infinite in rows 1"),
    ],
)
def test_fit_refuses(columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ConditionSchema.fit(columns, 2)


def test_text_in_a_continuous_column_is_refused_but_numbers_as_text_are_read() -> None:
    schema = ConditionSchema.fit({"gain": [0.5, 1.5]}, 2)
    with pytest.raises(DataError, match="'gain' is continuous; row 1 holds 'high', not a number"):
        schema.expand({"gain": ["0.5", "high"]}, 2, unknown="infer")
    assert_same(schema.expand({"gain": ["0.5", "1.5"]}, 2), schema.expand({"gain": [0.5, 1.5]}, 2))


def test_pandas_and_torch_columns() -> None:
    import pandas as pd
    import torch

    schema = two_columns()
    camera = pd.Series(["A", pd.NA], dtype="string")
    expanded = schema.expand({"camera": camera, "product": torch.tensor([1, 1])}, 2, unknown="infer")
    np.testing.assert_array_equal(expanded.known, [True, False])
    assert isinstance(expanded, Expanded)


@pytest.mark.slow
def test_module_does_not_import_torch() -> None:
    code = "import sys, knowngood.data.conditions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Alternatives to stated values ----------------------------------------------------------------------------------------


def test_alternatives_are_all_values_of_the_checked_columns_and_the_stated_one_first() -> None:
    schema = two_columns()
    found = schema.with_alternatives({"camera": ["A", "B"], "product": [1, 2]}, 2, ["camera"])
    assert found.item.tolist() == [0, 0, 1, 1]  # product 1 has the cameras A and C, product 2 A and B
    assert found.label == ["camera=A, product=1", "camera=C, product=1", "camera=B, product=2", "camera=A, product=2"]
    assert found.stated is not None
    assert found.stated.tolist() == [0, 2]
    assert found.known.all()
    np.testing.assert_allclose(np.exp(found.log_weight), [2 / 3, 1 / 3, 2 / 3, 1 / 3])


def test_without_a_stated_value_rows_are_those_of_expand() -> None:
    schema = two_columns()
    given = {"camera": np.array([None, "A"], dtype=object), "product": [2, 2]}
    found = schema.with_alternatives(given, 2, ["camera"], unknown="infer")
    plain = schema.expand(given, 2, unknown="infer")
    assert found.stated is not None
    assert found.stated.tolist() == [-1, 2]
    assert found.label[:2] == plain.label[:2]
    np.testing.assert_array_equal(found.c[:2], plain.c[:2])
    with pytest.raises(DataError, match="camera"):
        schema.with_alternatives(given, 2, ["camera"])


def test_a_stated_number_is_kept_and_others_stand_at_the_medians_of_their_bins() -> None:
    values = numbers()
    schema = ConditionSchema.fit({"gain": values}, len(values))
    column = schema.columns[0]
    found = schema.with_alternatives({"gain": values[:5]}, 5, ["gain"])
    per_item = found.c.reshape(5, column.n_codes) * column.std + column.mean
    np.testing.assert_allclose(per_item[:, 0], values[:5], rtol=1e-5)
    for own, rest in zip(np.searchsorted(column.edges, values[:5], side="right"), per_item[:, 1:], strict=True):
        np.testing.assert_allclose(rest, np.delete(column.medians, own), rtol=1e-5)


def test_stated_values_that_never_occurred_together_stand_beside_the_others() -> None:
    schema = two_columns()
    found = schema.with_alternatives({"camera": ["C"], "product": [2]}, 1, ["camera", "product"])
    assert len(found.item) == 1 + len(schema.cells)
    assert found.stratum[0] == -1
    assert found.log_weight[0] == found.log_weight.min()


def test_the_weight_of_own_values_that_never_occurred_together_does_not_depend_on_other_items() -> None:
    camera, product = ["A"] * 8 + ["B"] * 2 + ["A"] + ["C"] * 9, [1] * 10 + [2] * 10
    schema = ConditionSchema.fit({"camera": camera, "product": product}, 20)
    given = {"camera": ["C", "B"], "product": [1, 2]}
    together = schema.with_alternatives(given, 2, ["camera"])
    for i in range(2):
        alone = schema.with_alternatives({name: values[i : i + 1] for name, values in given.items()}, 1, ["camera"])
        np.testing.assert_array_equal(together.log_weight[together.item == i], alone.log_weight)


@pytest.mark.parametrize("value", [10**400, "1_0"])
def test_what_no_number_can_hold_is_named(value):
    with pytest.raises(DataError, match=r"condition 'exposure' is continuous; row 1 holds '1[0_]"):
        numbers_of(np.array([0.5, value], dtype=object), "exposure")


def test_a_number_that_a_table_writes_otherwise_is_the_value_it_was() -> None:
    fitted = np.array(["1.50", "2.0", "A", "007", "1e3", "8.0", "8"], dtype=object)
    schema = ConditionSchema.fit({"lens": fitted}, len(fitted))
    (column,) = schema.columns

    def read(*values: Any) -> list[str]:
        codes, _, new = column.read(np.array(values, dtype=object), len(values))
        return [column.values[code] if code >= 0 else "?" for code in codes] + new

    assert read(1.5, 2, 1000, "2.00", "+1.5") == ["1.50", "2.0", "1e3", "2.0", "1.50"]  # tables of numbers alone
    assert read("8", 8.0, "8.00", 7, "07", "1_50") == ["8", "8", "?", "?", "?", "?", "07", "1_50", "7", "8.00"]
    assert read(None, "nan", "A", "inf", 2**60) == ["?", "?", "A", "?", "?", "1152921504606846976", "inf", "nan"]
