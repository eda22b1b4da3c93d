"""Recipes on the same images: what is held out, what is measured, what is refused, and the page of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from judged_parts import pictures
from knowngood import Detector, open_images
from knowngood.calibration import folds, split_normals
from knowngood.cli import main
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.recipe_comparison import Comparison, compare, draw
from knowngood.evaluation.report.comparison_page import CAUTION, HEADINGS, kinds_of, render_comparison, rows_of

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

BANK = {"representation": "hog", "model": "memory_bank", "alpha": 0.1}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    images = ImageSet.from_arrays(pictures(80, 0))
    bad = ImageSet.from_arrays(pictures(5, 1, spot=True), np.ones(5), ids=[f"bad{i}" for i in range(5)])
    pixels = {"representation": "pixels", "model": "memory_bank", "alpha": 0.2}
    broken = {"representation": {"name": "pixels", "crop": 500}, "model": "memory_bank"}
    recipes = {name: parse_settings(given) for name, given in (("hog", BANK), ("pixels", pixels), ("broken", broken))}
    return compare(images, recipes, labelled=bad, folds_of=2)


def test_all_recipes_judge_the_same_images_that_none_was_fitted_to(comparison: Comparison) -> None:
    assert (comparison.fitted, len(comparison.held_out)) == (60, 20)
    hog, pixels, broken = comparison.recipes
    for one in (hog, pixels):
        assert one.flagged is not None
        assert one.synthetic_flagged is not None
        assert one.false_alarms == one.flagged.sum()
        assert one.interval[0] <= one.false_alarms / 20 <= one.interval[1]
        assert len(one.synthetic_flagged) == len(comparison.synthetic.images) == 20
        assert one.stability is not None
        assert -1 <= one.stability <= 1
        assert 0 <= one.synthetic_auroc <= 1
        assert one.labelled_auroc is not None
    assert pixels.labelled_auroc == 1  # a white spot
    assert "500" in broken.refused


def test_pictures_of_one_part_are_held_out_together_and_count_once() -> None:
    part = np.array([f"part {i // 2}" for i in range(80)])
    images = ImageSet.from_arrays(pictures(80, 0), conditions={"group": part, "lot": part})
    recipes = {"a": parse_settings(BANK), "b": parse_settings({**BANK, "conditioning": {"group": "lot", "roles": {}}})}
    found = compare(images, recipes, folds_of=0)
    assert (found.fitted, len(found.held_out)) == (60, 10)
    assert len(set(part[np.isin(images.ids, found.held_out.ids)])) == 10
    assert [one.refused for one in found.recipes] == ["", ""]


def test_stability_is_the_rank_correlation_of_models_without_each_fold(comparison: Comparison) -> None:
    images = ImageSet.from_arrays(pictures(80, 0))
    split = split_normals(80, groups=np.arange(80), select=0, calibrate=0.25, seed=0)
    judged = [images[split["calibrate"]], comparison.synthetic.images]
    scores = []
    for part in folds(60, None, 2, 0, groups=np.arange(60)):
        rest = np.setdiff1d(split["fit"], split["fit"][part])
        model = Detector(**BANK).fit(images[rest], calibration_set=judged[0])  # type: ignore[arg-type]
        scores.append(-np.concatenate([model.score_samples(some) for some in judged]))
    assert comparison.recipes[0].stability == pytest.approx(spearmanr(*scores)[0])


def test_synthetic_defects_change_the_pixels_of_their_mask_alone() -> None:
    images = ImageSet.from_arrays(pictures(12, 3))
    made = draw(images, 0)
    assert len(set(made.kinds.tolist())) > 5
    for i in range(12):
        differs = (made.images.read(i) != images.read(i)).any(axis=2)
        assert made.masks[i].any()
        assert (differs & made.masks[i]).any()
    again = draw(images, 0)
    assert all(np.array_equal(made.images.read(i), again.images.read(i)) for i in range(12))


def test_the_page_holds_all_and_asks_for_nothing(comparison: Comparison) -> None:
    page = render_comparison(comparison, title="parts <b>", command="knowngood compare parts")
    assert CAUTION in page
    assert "parts &lt;b&gt;" in page
    assert page.count("<img") >= 25
    assert {part.split('"')[0] for part in page.split("http")[1:]} <= {"-equiv=", "://www.w3.org/2000/svg"}
    rows = rows_of(comparison)
    assert [len(row) for row in rows] == [len(HEADINGS)] * 3
    assert rows[2][1].startswith("refused")
    assert sum(int(row[1]) for row in kinds_of(comparison)) == 20


def test_what_cannot_be_compared_is_refused() -> None:
    settings = parse_settings(BANK)
    with pytest.raises(DataError, match="11 normal images; a comparison needs at least 12"):
        compare(ImageSet.from_arrays(pictures(11, 0)), {"hog": settings})
    with pytest.raises(SettingsError, match="no recipe"):
        compare(ImageSet.from_arrays(pictures(20, 0)), {})
    with pytest.raises(SettingsError, match="1 fold"):
        compare(ImageSet.from_arrays(pictures(20, 0)), {"hog": settings}, folds_of=1)


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_the_command_takes_presets_and_files_and_leaves_the_test_split_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, n, seed, spot in (("train/good", 30, 0, False), ("test/good", 5, 1, False), ("test/spot", 5, 2, True)):
        (tmp_path / "parts" / folder).mkdir(parents=True)
        for i, picture in enumerate(pictures(n, seed, spot)):
            Image.fromarray(picture).save(tmp_path / "parts" / folder / f"{seed}-{i}.png")
    (tmp_path / "bank.yaml").write_text("representation: hog\nmodel: memory_bank\nalpha: 0.1\n")
    page = tmp_path / "page.html"
    words = ("compare", tmp_path / "parts", "--recipes", tmp_path / "bank.yaml", "--folds", "0")
    assert command(*words, "--report", page) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-2].startswith("time    ")
    counts = re.search(r"(\d+) normal images are fitted to, (\d+) are held out", shown.out)
    assert counts is not None
    assert int(counts[1]) + int(counts[2]) == 30  # of the split train alone
    assert CAUTION in shown.out
    assert "the split test is left alone" in shown.err
    assert re.search(r"^bank  .* of [78] ", shown.out, re.MULTILINE)
    assert page.stat().st_size > 10_000
    assert "Labelled" not in page.read_text()
    assert command(*words, "--split", "test") == 0
    assert "of the split test" in capsys.readouterr().err
    assert command("compare", tmp_path / "parts", "--recipes", "shape") == 2
    assert "did you mean 'shapes'" in capsys.readouterr().err.lower()


def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    for i, image in enumerate(pictures(40, 0)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    for name in ("03", "17"):
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{name}.png").read_bytes()[:60])
    said: list[str] = []
    found = compare(open_images(tmp_path), {"hog": parse_settings(BANK)}, folds_of=0, announce=said.append)
    assert said[0].startswith("2 of 40 images cannot be read, and are left out; the first, 03.png: cannot be decoded")
    assert found.fitted + len(found.held_out) == 38
    assert found.recipes[0].scores is not None
    assert np.isfinite(found.recipes[0].scores).all()


def test_a_recipe_that_can_flag_nothing_says_so() -> None:
    few = {**BANK, "alpha": 0.05, "calibration": {"method": "split"}}
    found = compare(ImageSet.from_arrays(pictures(40, 0)), {"few": parse_settings(few)}, folds_of=0)
    assert "nothing is flagged" in found.recipes[0].recipe or "nothing can be flagged" in found.recipes[0].recipe


def test_an_image_on_which_no_defect_can_be_drawn_is_left_out_and_said() -> None:
    some = pictures(6, 0).astype(np.uint16)
    some[2] = 7
    said: list[str] = []
    made = draw(ImageSet.from_arrays(some), 0, said.append)
    assert [name.rpartition(" on ")[2] for name in made.images.ids] == ["0", "1", "3", "4", "5"]
    assert len(made.masks) == len(made.kinds) == 5
    assert len(said) == 1
    assert said[0].startswith("1 image without a synthetic defect; the first, 2: all values of an image are 7")
    with pytest.raises(DataError, match=r"on any image; the first, 0: all values"):
        draw(ImageSet.from_arrays(some[[2, 2]]), 0)
