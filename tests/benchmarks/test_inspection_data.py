"""Protocols of the inspection benchmark, on small folders written here, and their counts on the real data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import inspection_data
from benchmarks.inspection_data import InspectionSet, inspection_set, resized_mask
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

SIZE = 24


def draw(path: Path, seed: int, shape: tuple[int, ...] = (24, 24, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(60, 200, shape, dtype=np.uint8)).save(path)


def draw_mask(path: Path, rows: slice, shape: tuple[int, int] = (24, 24), value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, np.uint8)
    mask[rows] = value
    Image.fromarray(mask).save(path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a bottle of 12 + 3 good and 4 bad images, 11 free and 4 bad tiles, and 9 patients."""
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    bottle = tmp_path / "mvtec" / "bottle"
    for i in range(12):
        draw(bottle / f"train/good/{i:03d}.png", i)
    for i in range(3):
        draw(bottle / f"test/good/{i:03d}.png", 20 + i)
    for i in range(4):
        draw(bottle / f"test/broken/{i:03d}.png", 30 + i)
        if i:
            draw_mask(bottle / f"ground_truth/broken/{i:03d}_mask.png", slice(i, i + 6))
    tile = tmp_path / "magnetic-tile"
    for i in range(11):
        draw(tile / f"MT_Free/Imgs/exp{i:02d}.jpg", 40 + i, (30 + i, 20))
        draw_mask(tile / f"MT_Free/Imgs/exp{i:02d}.png", slice(0), (30 + i, 20))
    for i, name in enumerate(("Crack", "Crack", "Uneven", "Uneven")):
        draw(tile / f"MT_{name}/Imgs/exp{i}.jpg", 60 + i, (48, 48))
        draw_mask(tile / f"MT_{name}/Imgs/exp{i}.png", slice(0 if i == 3 else 12), (48, 48), 128)
    for patient in range(9):
        for view in range(4):
            draw(tmp_path / f"chest-xray-224/train/NORMAL/IM-{patient:04d}-{view:04d}.png", 100 + 4 * patient + view)
    draw(tmp_path / "chest-xray-224/train/PNEUMONIA/person1_virus_1.png", 200)
    for i in range(2):
        draw(tmp_path / f"chest-xray-224/test/NORMAL/IM-01{i:02d}-0001.png", 210 + i)
        draw(tmp_path / f"chest-xray-224/test/PNEUMONIA/person{i}_bacteria_1.png", 220 + i)
    return tmp_path


def the(source: str, **given) -> InspectionSet:
    found = inspection_set(source, size=SIZE, **given)
    assert isinstance(found, InspectionSet), found
    assert not found.train.labels.any()
    assert len(found.masks) == len(found.classes) == len(found.test)
    assert not set(found.train.ids) & set(found.test.ids)
    for mask in found.masks:
        assert mask is None or (mask.shape, mask.dtype) == ((SIZE, SIZE), bool)
    return found


def marked(found: InspectionSet) -> dict[str, int | None]:
    return {
        str(name): None if mask is None else int(mask.sum())
        for name, mask in zip(found.test.ids, found.masks, strict=True)
    }


def test_mvtec_layout_has_its_official_split(data: Path) -> None:
    found = the("bottle")
    assert len(found.train) == 12
    assert all(name.startswith("train/good/") for name in found.train.ids)
    assert Counter(found.classes.tolist()) == {"good": 3, "broken": 4}
    assert found.labels.tolist() == (found.classes == "broken").tolist()
    masks = marked(found)
    assert masks["test/broken/000.png"] is None  # it has none
    assert [masks[f"test/broken/00{i}.png"] for i in (1, 2, 3)] == [6 * SIZE] * 3
    assert masks["test/good/000.png"] == 0
    assert found.in_pixel_metrics.sum() == 6
    assert found.train.shapes()[0].tolist() == [SIZE, SIZE, 3]
    assert found.train.conditions == found.test.conditions == {}
    original = np.asarray(Image.open(data / "mvtec/bottle/train/good/000.png"))
    assert np.array_equal(found.train.read(0), original)


@pytest.mark.slow
def test_any_folder_of_that_layout_will_do(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    by_path, by_name = the(str(data / "mvtec" / "bottle")), the("mvtec/bottle")
    assert by_path.train.fingerprint() == by_name.train.fingerprint() == the("bottle").train.fingerprint()
    assert by_path.name == str(data / "mvtec" / "bottle")


@pytest.mark.slow
def test_every_fifth_free_tile_is_judged(data: Path) -> None:
    found = the("tile")
    free = [f"MT_Free/Imgs/exp{i:02d}.jpg" for i in range(11)]
    assert found.test.ids[:3].tolist() == [free[0], free[5], free[10]]
    assert found.train.ids.tolist() == [name for i, name in enumerate(free) if i % 5]
    assert Counter(found.classes.tolist()) == {"MT_Free": 3, "MT_Crack": 2, "MT_Uneven": 2}
    masks = marked(found)
    assert masks["MT_Crack/Imgs/exp0.jpg"] == SIZE * SIZE // 4  # 128 counts
    assert masks["MT_Uneven/Imgs/exp3.jpg"] is None  # empty
    assert found.train.shapes().tolist() == [[SIZE, SIZE, 1]] * 8


@pytest.mark.slow
def test_x_rays_have_no_masks(data: Path) -> None:
    found = the("x-ray")
    assert len(found.train) == 36
    assert Counter(found.classes.tolist()) == {"NORMAL": 2, "PNEUMONIA": 2}
    assert not found.in_pixel_metrics.any()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["test", "dev"])
def test_two_products_in_one_set(data: Path, form) -> None:
    both, parts = the("bottle+tile", form=form), [the(name, form=form) for name in ("bottle", "tile")]
    for which in ("train", "test"):
        joined, (bottle, tile) = getattr(both, which), (getattr(part, which) for part in parts)
        assert Counter(joined.conditions["product"].tolist()) == {"bottle": len(bottle), "tile": len(tile)}
        assert list(joined.conditions) == ["product"]
        assert joined.labels.tolist() == [*bottle.labels, *tile.labels]
        assert np.array_equal(joined.read(0), bottle.read(0))
        assert np.array_equal(joined.read(-1), np.repeat(tile.read(-1), 3, axis=2))
        assert joined.ids[0] == f"bottle/{bottle.ids[0]}"
    assert list(marked(both).values()) == [*marked(parts[0]).values(), *marked(parts[1]).values()]
    assert both.classes.tolist() == [*parts[0].classes, *parts[1].classes]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "held_out"), [("bottle", 4), ("tile", 3), ("x-ray", 12)])
def test_the_dev_form_knows_training_normals_alone(data: Path, source: str, held_out: int) -> None:
    test, dev = the(source), the(source, form="dev")
    good = dev.test[dev.labels == 0]
    assert len(good) == held_out
    assert sorted([*dev.train.ids, *good.ids]) == sorted(test.train.ids)
    bad = dev.test[dev.labels == 1]
    assert {name.rpartition("+")[0] for name in bad.ids} == set(good.ids)
    assert len(bad) == 2 * held_out
    assert all(name.startswith("synthetic ") for name in dev.classes[dev.labels == 1])
    kinds = Counter(dev.classes[dev.labels == 1].tolist())
    assert max(kinds.values()) - min(kinds.values()) <= 2
    assert dev.in_pixel_metrics.all()
    originals = {str(name): good.read(i) for i, name in enumerate(good.ids)}
    for i, name in enumerate(dev.test.ids):
        mask = dev.masks[i]
        assert mask is not None
        assert mask.any() == dev.labels[i]
        if dev.labels[i]:
            change = np.abs(dev.test.read(i).astype(float) - originals[name.rpartition("+")[0]]).max(axis=2)
            assert change[mask].max() > change[~mask].max()


@pytest.mark.slow
def test_the_seed_decides_what_is_held_out(data: Path) -> None:
    one, same, other = (the("bottle", form="dev", seed=seed) for seed in (0, 0, 1))
    assert one.test.fingerprint() == same.test.fingerprint()
    assert set(one.train.ids) == set(same.train.ids) != set(other.train.ids)
    assert the("bottle", seed=1).test.fingerprint() == the("bottle").test.fingerprint()


@pytest.mark.slow
def test_no_patient_is_on_both_sides(data: Path) -> None:
    dev = the("x-ray", form="dev")
    sides = [{str(name).rsplit("/", 1)[1][:7] for name in ids} for ids in (dev.train.ids, dev.test.ids)]
    assert (len(sides[0]), len(sides[1])) == (6, 3)
    assert not sides[0] & sides[1]


@pytest.mark.slow
def test_sizes_by_default(data: Path) -> None:
    assert [inspection_set(name).train.shapes()[0, 0] for name in ("tile", "x-ray")] == [256, 224]  # type: ignore


@pytest.mark.slow
def test_missing_data_are_a_reason(data: Path, tmp_path: Path) -> None:
    assert str(inspection_set("nowhere")).startswith("missing: no folder nowhere")
    (data / "magnetic-tile").rename(data / "elsewhere")
    assert str(inspection_set("bottle+tile")).startswith("missing: no folder magnetic-tile")
    draw(tmp_path / "plain/a/0.png", 0)
    draw(tmp_path / "plain/b/0.png", 0)
    assert "expected train/good and test/<defect>" in str(inspection_set("plain"))
    for i in range(3):
        draw(tmp_path / f"nothing-bad/train/good/{i}.png", i)
        draw(tmp_path / f"nothing-bad/test/good/{i}.png", i)
    assert "3 good images to train on, labels [0.0] to judge" in str(inspection_set("nothing-bad"))
    draw(tmp_path / "alpha/train/good/0.png", 0, (24, 24, 4))
    for i in range(1, 3):
        draw(tmp_path / f"alpha/train/good/{i}.png", i)
    draw(tmp_path / "alpha/test/good/0.png", 0)
    draw(tmp_path / "alpha/test/bad/0.png", 0)
    (tmp_path / "alpha/test/bad/0.png").write_bytes(b"broken")
    assert str(inspection_set("alpha")).startswith("missing: ")


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(SettingsError, match="form = 'final'"):
        inspection_set("bottle", form="final")  # type: ignore


# Masks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12), (15, 9), (4, 6), (6, 20)])
def test_a_pixel_counts_from_half_its_area(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.45
    fine = np.repeat(np.repeat(mask, 6, axis=0), 6, axis=1)  # 6 pixels a side: every source pixel is 6 × 6 cells
    share = fine.reshape(6, shape[0], 6, shape[1]).mean(axis=(1, 3))
    assert np.array_equal(resized_mask(mask, 6), share >= 0.5 - 1e-9)


def test_a_small_mask_does_not_vanish_and_an_empty_one_stays_empty() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    assert not resized_mask(mask, 5).any()
    mask[7, 9] = mask[7, 10] = mask[17, 17] = True
    assert np.argwhere(resized_mask(mask, 5)).tolist() == [[1, 2]]
    mask[18, 18] = True
    assert np.argwhere(resized_mask(mask, 5)).tolist() == [[1, 2], [4, 4]]


# Real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "train", "good", "bad", "marked_images"),
    [("bottle", 209, 20, 63, 83), ("tile", 761, 191, 392, 579), ("x-ray", 1341, 234, 390, 0)],
)
def test_counts_on_real_data(
    source: str, train: int, good: int, bad: int, marked_images: int, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def black(images: ImageSet, i: int) -> np.ndarray:  # what is counted lies in names, headers and masks
        if id(images) not in channels:
            channels[id(images)] = images.shapes()[:, 2]
        return np.zeros((8, 8, channels[id(images)][i]), np.uint8)

    channels: dict[int, np.ndarray] = {}
    monkeypatch.setattr(ImageSet, "read", black)
    found = inspection_set(source, size=32)
    assert isinstance(found, InspectionSet), found
    assert (len(found.train), (found.labels == 0).sum(), (found.labels == 1).sum()) == (train, good, bad)
    assert found.in_pixel_metrics.sum() == marked_images
    unmarked = found.test.ids[~found.in_pixel_metrics]
    assert source == "x-ray" or all(name.startswith("MT_Uneven/") for name in unmarked)


@pytest.mark.slow
def test_generated_parts_of_one_product_train_on_normal_ones_and_have_a_mask_for_every_defect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert inspection_data.PARTS == 400
    monkeypatch.setattr(inspection_data, "PARTS", 100)
    made = inspection_set("gear", form="dev", seed=3, size=48)
    assert isinstance(made, InspectionSet)
    assert (len(made.train), len(made.test)) == (60, 40)
    assert not made.train.labels.any()
    assert made.labels.sum() == 20
    marked = np.array([mask.any() for mask in made.masks if mask is not None])
    np.testing.assert_array_equal(marked, made.labels == 1)
    np.testing.assert_array_equal(made.classes == "good", made.labels == 0)
    assert not set(made.train.ids) & set(made.test.ids)


@pytest.mark.slow
def test_the_forms_of_generated_parts_share_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.inspection_data.PARTS", 60)
    first, second = (inspection_set("washer", form=form, seed=0, size=32) for form in ("dev", "test"))
    assert isinstance(first, InspectionSet)
    assert isinstance(second, InspectionSet)
    arrays = [one.test.pixels.array for one in (first, second)]  # type: ignore[attr-defined]
    assert not (arrays[0] == arrays[1]).all((1, 2, 3)).any()
