from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from knowngood.data import open_images
from knowngood.errors import DataError
from stores import upload


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "ü"):
        Image.new("L", (4, 3), 9).save(tmp_path / f"{name}.png")
    Image.new("L", (4, 3), 255).save(tmp_path / "m.png")
    return tmp_path


def opened(folder, text, name="list.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return open_images(folder / name)


def test_all_columns(folder):
    images = opened(
        folder,
        "path,label,split,mask,camera,product,size,serial,note\n"
        "a.png,good,train,,A,1,0.5,007,\n"
        "b.png,BAD,test,m.png,B,2,,008,odd\n"
        "ü.png,,test,,,3,2,009,\n",
    )
    assert images.ids.tolist() == ["a.png", "b.png", "ü.png"]
    np.testing.assert_array_equal(images.labels, [0, 1, np.nan])
    assert images.splits.tolist() == ["train", "test", "test"]
    assert images.mask(0) is None
    assert images.mask(1).all()
    columns = images.conditions
    assert list(columns) == ["camera", "product", "size", "serial", "note"]
    assert columns["camera"].tolist() == ["A", "B", None]
    assert columns["product"].dtype == np.int64
    np.testing.assert_array_equal(columns["size"], [0.5, np.nan, 2])
    assert columns["serial"].tolist() == ["007", "008", "009"]
    assert columns["note"].tolist() == [None, "odd", None]
    assert images.read(2).shape == (3, 4, 1)


def test_parquet_reads_the_same(folder):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"path": ["a.png", "b.png"], "label": [0, 1], "camera": ["A", None], "size": [0.5, np.nan], "product": [1, 2]}
    )
    frame.to_parquet(folder / "list.parquet")
    images = open_images(folder / "list.parquet")
    assert images.labels.tolist() == [0, 1]
    assert images.conditions["camera"].tolist() == ["A", None]
    np.testing.assert_array_equal(images.conditions["size"], [0.5, np.nan])
    assert images.conditions["product"].dtype == np.int64


def test_missing_files_are_set_aside_by_name(folder):
    images = opened(folder, "path,label,mask\na.png,0,gone_mask.png\ngone.png,0,\n,1,\n")
    assert images.ids.tolist() == ["a.png"]
    assert images.mask(0) is None
    assert [(f.path_or_id, f.kind) for f in images.rejected] == [
        ("list.csv row 3", "missing"),
        ("gone.png", "missing"),
        ("gone_mask.png", "mask-missing"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photo,label\na.png,0\n", r"no column 'path' .*; its columns are: photo, label"),
        ("path,label\na.png,0\nb.png,scratched\n", r"'scratched' of 'b\.png'"),
        ("path\na.png\nb.png\na.png\n", r"rows 1 and 3 both name 'a\.png'"),
        ("path\ngone.png\n", "no file in it exists \\(of 1\\)"),
        ("path,label\n", "no rows"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, text, said):
    with pytest.raises(DataError, match=said) as caught:
        opened(folder, text)
    assert "list.csv" in str(caught.value)


def test_absolute_paths_and_a_byte_order_mark(folder):
    images = opened(folder, f"\ufeffpath, label\n{folder / 'a.png'}, ok\n")
    assert images.ids.tolist() == ["a.png"]
    assert images.labels.tolist() == [0]


def test_whole_numbers_with_gaps_stay_categories(folder):
    images = opened(folder, "path,product\na.png,1\nb.png,\nü.png,2\n")
    assert images.conditions["product"].tolist() == ["1", None, "2"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("column", ["Filename", "file", "image", "path", "image_path"])
def test_separators_names_of_the_path_column_and_a_last_separator(folder, separator, column):
    rows = [[column, "Label", "camera", ""], ["a.png", "good", "A", ""], ["b.png", "bad", "B", ""]]
    images = opened(folder, "\n".join(separator.join(row) for row in rows))
    assert images.ids.tolist() == ["a.png", "b.png"]
    assert images.labels.tolist() == [0, 1]
    assert list(images.conditions) == ["camera"]
    assert images.rejected == ()


def test_a_last_comma_in_rows_only_shifts_nothing_and_further_cells_are_refused(folder):
    assert opened(folder, "path,camera\na.png,A,\n").conditions["camera"].tolist() == ["A"]
    with pytest.raises(DataError, match="row 2 has 3 cells for 2 columns"):
        opened(folder, "path,camera\na.png,A,\nb.png,A,B\n")


def test_two_columns_of_one_name_are_refused(folder):
    with pytest.raises(DataError, match="two columns have the name 'camera'"):
        opened(folder, "path,camera,camera\na.png,A,B\n")


def test_names_are_found_however_their_accents_are_composed(folder):
    decomposed = unicodedata.normalize("NFD", "ö.png")
    Image.new("L", (4, 3), 9).save(folder / decomposed)
    assert len(opened(folder, f"path\nö.png\n{unicodedata.normalize('NFD', 'ü.png')}\n")) == 2


def test_numbers_beyond_64_bits_stay_text(folder):
    images = opened(folder, f"path,code\na.png,{2**70}\nb.png,{2**63}\n")
    assert images.conditions["code"].tolist() == [str(2**70), str(2**63)]


def table(column, cells, more=None):
    """A table of a.png, b.png, … in which one column has these cells, and `more` columns with theirs."""
    columns = {column: cells, **(more or {})}
    lines = [",".join(["path", *columns]), *(",".join(row) for row in zip("abü", *columns.values(), strict=True))]
    return "\n".join([lines[0], *(line.replace(",", ".png,", 1) for line in lines[1:])])


@pytest.mark.parametrize(
    ("column", "cells", "labels"),
    [
        ("is_anomaly", "0 1 0", [0, 1, 0]),
        ("Is Anomalous", "False True False", [0, 1, 0]),
        ("defect", "no yes no", [0, 1, 0]),
        ("is_good", "true false true", [0, 1, 0]),
        ("ok", "1 0 1", [0, 1, 0]),
        ("status", "OK NG OK", [0, 1, 0]),
        ("result", "pass fail pass", [0, 1, 0]),
        ("class", "good scratch crack", [0, 1, 1]),
        ("defect_type", "none scratch none", [0, 1, 0]),
        ("anomaly class", "good hole good", [0, 1, 0]),
    ],
)
def test_a_column_that_says_what_is_normal_is_read_as_labels(folder, column, cells, labels):
    images = opened(folder, table(column, cells.split()))
    assert images.labels.tolist() == labels
    assert any(finding.kind == "labels" and column in finding.reason for finding in images.rejected)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("camera", "1 0 1"),
        ("class", "7 1 0"),
        ("class", "cat dog cat"),
        ("light", "normal bright dark"),
        ("light", "normal normal normal"),
        ("note", "x y z"),
    ],
)
def test_a_condition_stays_a_condition(folder, column, cells):
    images = opened(folder, table(column, cells.split()))
    assert np.isnan(images.labels).all()
    assert column in images.conditions


def test_kinds_of_defects_without_a_word_for_normal_are_refused_with_both_readings(folder):
    with pytest.raises(DataError, match=r"two ways.*\(1\).*'defect_type' \(scratch\).*\(2\)"):
        opened(folder, table("defect_type", ["", "scratch", ""]))


def test_columns_that_disagree_on_what_is_normal_are_refused_and_a_label_decides(folder):
    text = table("status", ["OK", "NG", "OK"], {"is_defect": ["0", "0", "1"]})
    with pytest.raises(DataError, match="'status' and 'is_defect' both say what is normal, and differ"):
        opened(folder, text)
    decided = opened(folder, table("label", ["good", "good", "good"], {"is_defect": ["0", "0", "1"]}))
    assert decided.labels.tolist() == [0, 0, 0]


def test_verdicts_of_a_model_are_no_labels(folder):
    text = table("is_anomalous", ["True", "False", "False"], {"p_value": ["0.01", "0.5", "0.7"]})
    assert np.isnan(opened(folder, text).labels).all()


def test_splits_are_found_in_any_case_and_other_words_stay(folder):
    assert opened(folder, table("split", ["Train", "TESTING", "fold3"])).splits.tolist() == ["train", "test", "fold3"]


def test_utf_16_as_spreadsheets_write_it(folder):
    (folder / "list.csv").write_text(table("label", ["good", "bad", "good"]), encoding="utf-16")
    assert open_images(folder / "list.csv").ids.tolist() == ["a.png", "b.png", "ü.png"]


def test_rows_of_nothing_but_separators_are_passed_over(folder):
    images = opened(folder, "path;label;camera\r\na.png;ok;A\r\n;;\r\nb.png;ok;B\r\n ; ;\r\n")
    assert images.ids.tolist() == ["a.png", "b.png"]
    assert images.rejected == ()


def test_names_that_python_reads_as_numbers_stay_names(folder):
    images = opened(folder, "path,station\na.png,1_2\nb.png,1_3\n")
    assert images.conditions["station"].tolist() == ["1_2", "1_3"]


@pytest.mark.parametrize("separator", [";", "|", ","])
def test_a_first_line_that_says_the_separator(folder, separator):
    images = opened(folder, "sep=,\r\npath,camera\r\na.png,A\r\nb.png,B\r\n".replace(",", separator))
    assert images.conditions["camera"].tolist() == ["A", "B"]


def test_without_a_label_masks_say_what_is_anomalous_as_in_a_folder(folder):
    Image.new("L", (4, 3), 0).save(folder / "empty.png")
    images = opened(folder, "path,mask\na.png,\nb.png,m.png\nü.png,empty.png\nm.png,gone.png\n")
    assert images.labels.tolist()[1:] == [1, 0, 1]
    assert np.isnan(images.labels[0])
    assert "an image is anomalous if its mask is not empty" in str(images.rejected)
    labelled = opened(folder, "path,mask,label\na.png,,good\nb.png,m.png,\n")
    assert labelled.labels[0] == 0
    assert np.isnan(labelled.labels[1])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_manifest_of_a_store_is_read_in_its_encoding(folder, encoding):
    pytest.importorskip("fsspec")
    picture = (folder / "a.png").read_bytes()
    root = upload(f"memory://manifests/{encoding}", {"ü.png": picture, "b.png": picture})
    upload(
        root,
        {"list.csv": "path,mask\nü.png,m.png\nb.png,\n".encode(encoding), "old.csv": "path\nü.png\n".encode("latin-1")},
    )
    images = open_images(f"{root}/list.csv")
    assert images.ids.tolist() == ["ü.png", "b.png"]
    assert images.labels[0] == 1
    assert np.isnan(images.labels[1])
    np.testing.assert_array_equal(images.read(0), open_images(folder / "a.png").read(0))
    with pytest.raises(DataError, match=r"old\.csv: cannot be read as a table .*expected UTF-8"):
        open_images(f"{root}/old.csv")


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_a_table_whose_name_is_no_text_is_read(folder):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = folder / os.fsdecode(b"list\xff.parquet")
    with path.open("wb") as file:
        pd.DataFrame({"path": ["a.png", "b.png"]}).to_parquet(file)
    assert open_images(path).ids.tolist() == ["a.png", "b.png"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_numbers_where_nothing_is_separated_by_them(folder, separator):
    rows = ["path;gain;lot;name;part", "a.png;0,5;1,2,3;;1", "b.png;2;4,5;x;-1,25e3", "ü.png;;6;0,5;"]
    images = opened(folder, "\n".join(rows).replace(";", separator))
    np.testing.assert_array_equal(images.conditions["gain"], [0.5, 2, np.nan])
    np.testing.assert_array_equal(images.conditions["part"], [1, -1250, np.nan])
    assert images.conditions["lot"].tolist() == ["1,2,3", "4,5", "6"]
    assert images.conditions["name"].tolist() == [None, "x", "0,5"]
    commas = opened(folder, 'path,gain\na.png,"0,5"\nb.png,"1,5"\n')
    assert commas.conditions["gain"].tolist() == ["0,5", "1,5"]


def test_rows_without_a_split_are_said_and_an_empty_column_is_none(folder):
    images = opened(folder, "path,split\na.png,train\nb.png,\n")
    assert images.splits.tolist() == ["train", ""]
    assert [str(one) for one in images.rejected] == ["list.csv: 1 row in no split, where others are in one"]
    assert opened(folder, "path,split\na.png,\nb.png,\n").splits is None
