from __future__ import annotations

import json
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from exported import MAPS, RELATIVE, assert_equal, runtime_of
from knowngood import Detector
from knowngood.calibration import Calibration
from knowngood.cli import main
from knowngood.data.image_folder import write_folder
from knowngood.data.imageset import ImageSet
from knowngood.deploy.judgement import Asked
from knowngood.deploy.onnx_calibration import CalibrationGraph
from knowngood.deploy.onnx_graph import PixelsGraph, check_exportable, export, resized
from knowngood.deploy.onnx_precision import graph_scores
from knowngood.deploy.served_file import FileModel
from knowngood.deploy.served_models import load_model
from knowngood.errors import DataError, SettingsError
from knowngood.representations import Pixels
from knowngood.runtime import ExportedDetector
from knowngood.runtime.misfit import batch_remark
from knowngood.scores.adjustment import LabelPenalty, prefixed
from knowngood.scores.illumination import fit_moments, standardised
from patch_models import TinyBackbone, holed, parts
from posed_parts import lying, part

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

HOG = {"representation": "hog", "model": "memory_bank", "device": "cpu"}
QUICK = {"training": {"epochs": 1, "batch_size": 32}, "device": "cpu", "alpha": 0.1}
MAPS_ALONE = {"name": "patch_gaussian", "context": 0, "neighbours": 0, "global_grid": 0, "words": 0}
FOLDS = {"calibration": {"folds": 2}}  # of five that are fitted by default: what agrees does not depend on them
FEATURES = {"name": "features", "backbone": "own", "image_size": 32, "average": 3, "stride": 4, "align": "none"}


def textured(n: int, seed: int = 0, channels: int = 1, bits: int = 8, noise: float = 0.05) -> np.ndarray:
    """(n, 16, 12[, 3]) stripes with noise; the first fifth of another seed than 0 with a square."""
    rng = np.random.default_rng(seed)
    image = 0.5 + 0.2 * np.sin(np.arange(12))[None, None, :, None] + rng.normal(0, noise, (n, 16, 12, channels))
    if seed:
        image[: n // 5, 4:9, 3:8] += 0.4
    return (image.clip(0, 1) * (2**bits - 1)).astype(f"uint{bits}")


def kinds(n: int) -> dict[str, Any]:
    return {"kind": np.array(["a", "b"])[np.arange(n) % 2], "exposure": np.linspace(1, 2, n)}


# The parts -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 3), st.floats(0.001, 0.6), st.integers(0, 99), st.booleans())
def test_p_values_and_anomaly_scores_are_those_of_the_calibration(
    n: int, groups: int, alpha: float, seed: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores, strata = rng.normal(size=n).round(1 if ties else 12), rng.integers(0, groups, n)
    known = Calibration.fit(scores, strata, [f"{g}" for g in range(groups)], alpha=0.1)
    values = np.concatenate([scores, scores * (1 + 1e-6), rng.normal(size=40), [1e30]])
    of = rng.integers(-1, groups, len(values))
    shifted, p = CalibrationGraph(known)(torch.from_numpy(values), torch.from_numpy(of), torch.tensor(alpha).double())
    level = float(torch.tensor(alpha).double())
    np.testing.assert_array_equal(p, known.p_values(values, of, alpha=level))
    np.testing.assert_array_equal(shifted, known.anomaly_score(values, of))


@pytest.mark.parametrize("shape", [(20, 28), (50, 41), (32, 32), (9, 100), (256, 77)])
def test_a_resize_is_that_of_torch(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (1, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    own = interpolate(image, size=(32, 24), mode="bilinear", align_corners=False, antialias=True)
    found = resized(image, (32, 24))
    torch.testing.assert_close(found, own, rtol=0, atol=2e-4)
    assert int((found.round() != own.round()).sum()) <= 2  # of 2,304


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "options",
    [
        {"image_size": (20, 14)},
        {"image_size": (14, 14), "crop": (9, 10), "pad": (16, 13)},
        {"image_size": (8, 8), "grey": True},
        {"crop": (9, 10)},
        {"scaling": (10.0, 99.0)},
    ],
)
def test_pixels_are_those_of_the_representation(options: dict[str, Any], bits: int) -> None:
    from knowngood.config import PixelOptions

    images = ImageSet.from_arrays(textured(6, channels=3, bits=bits))
    pixels = Pixels.fit(images, PixelOptions(**options))
    graph, raw = PixelsGraph(pixels), torch.from_numpy(np.stack([images.read(i) for i in range(6)]))
    level = 1.001 / (pixels.high - pixels.low)  # one level, where a tie is rounded the other way
    found, own = graph(raw), pixels.to_tensor(images)
    torch.testing.assert_close(found, own, rtol=0, atol=level)
    assert float((found - own).abs().gt(level / 2).double().mean()) < 0.003
    maps = torch.rand(6, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(graph.to_image(maps, raw), pixels.to_image(maps.numpy(), (16, 12)), atol=1e-6)


def test_grey_images_stay_what_they_are_where_colour_is_turned_grey() -> None:
    from knowngood.config import PixelOptions

    grey = textured(4, bits=16)
    pixels = Pixels.fit(ImageSet.from_arrays(grey), PixelOptions(grey=True))
    found = PixelsGraph(pixels)(torch.from_numpy(np.repeat(grey, 3, axis=3)))
    torch.testing.assert_close(found, pixels.to_tensor(ImageSet.from_arrays(grey)), rtol=0, atol=0)


# Whole detectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_hog_and_nearest_neighbours_under_known_conditions(bits: int) -> None:
    detector = Detector(**HOG).fit(textured(90, bits=bits), conditions=kinds(90))
    new = textured(30, 1, bits=bits)
    found = assert_equal(detector, new, kinds(30))
    other = assert_equal(detector, new, kinds(30), alpha=0.3)  # groups of their own now
    assert (found["p_value"] != other["p_value"]).any()
    np.testing.assert_array_equal(found["anomaly_score"], other["anomaly_score"])


@pytest.fixture(scope="module")
def bank() -> Detector:
    return Detector(**HOG).fit(textured(60))


@pytest.fixture(scope="module")
def located() -> Detector:
    train = np.concatenate([parts(45), parts(45, 1, "bars")])
    settings = {"representation": FEATURES, "model": {"name": "patch_gaussian", "neighbours": 60}, "device": "cpu"}
    settings |= FOLDS
    product = {"product": np.repeat(["disc", "bars"], 45)}
    return Detector(**settings).fit(train, backbone=TinyBackbone(), conditions=product)


def test_features_of_two_products(located: Detector) -> None:
    new = np.concatenate([parts(8, 2), holed(parts(4, 3)), parts(8, 4, "bars")])
    found = assert_equal(located, new, {"product": np.repeat(["disc", "bars"], [12, 8])})
    assert "global" in found


@pytest.fixture(scope="module")
def posed() -> Detector:
    own = {**FEATURES, "align": "auto", "image_size": 64}
    return Detector(own, MAPS_ALONE, alpha=0.1, device="cpu", **FOLDS).fit(lying(45)[0], backbone=TinyBackbone())


def strange(n: int, seed: int) -> np.ndarray:
    """Images as `lying`: the first of a plain background, the second of another part, the third of a defect."""
    images = lying(n, seed)[0]
    images[0] = images[0, :8, :8].mean()
    images[1, 30:90, 30:90] = np.where(np.arange(60) // 6 % 2, 180, 30)[:, None]
    images[2] = part(200.0, (66.0, 55.0), defect=True)
    return images


def test_parts_that_lie_anywhere_are_brought_to_one_pose(posed: Detector) -> None:
    assert posed.pipeline_.representation.options.align == "pose"  # type: ignore[union-attr]
    new = strange(12, 1)
    found = assert_equal(posed, new)
    assert found["pose"].min() < 0.5 < 0.95 < np.median(found["pose"])
    assert found["is_anomalous"][:3].all()
    assert_equal(posed, np.pad(new[:6], ((0, 0), (20, 0), (0, 31), (0, 0)), mode="edge"))  # pictures of any size
    scored = graph_scores(runtime_of(posed, raw=True), ImageSet.from_arrays(new))  # by which fp16 is calibrated
    assert scored.values.argsort().tolist() == posed.detect(new)["anomaly_score"].argsort().tolist()
    assert scored.maps is not None
    np.testing.assert_allclose(scored.maps, [one.max() for one in posed.anomaly_maps(new)], rtol=MAPS)


@pytest.fixture(scope="module")
def tiled() -> Detector:
    """Of pictures of 64 × 96 pixels in 2 × 3 tiles that overlap."""
    own = {**FEATURES, "image_size": 40}
    settings = {"representation": own, "model": {"name": "patch_gaussian", "neighbours": 30}, "device": "cpu"}
    detector = Detector(**settings, **FOLDS, alpha=0.1, data={"tile": 40, "tile_overlap": 0.2})
    return detector.fit(sheets(50), backbone=TinyBackbone())


def sheets(n: int, seed: int = 0, holes: int = 0) -> np.ndarray:
    """(n, 64, 96) of six parts each; the first `holes` have one with a hole."""
    rows = [[parts(n, 10 * seed + 2 * row + column) for column in range(3)] for row in range(2)]
    rows[1][2][:holes] = holed(rows[1][2][:holes])
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)


def test_large_pictures_in_tiles(tiled: Detector) -> None:
    tiling = tiled.pipeline_.representation.tiling  # type: ignore[union-attr]
    assert tiling.counts() == (2, 3)
    new = sheets(14, 1, holes=4)
    found = assert_equal(tiled, new)
    assert found["is_anomalous"][:4].all()
    assert all(np.unravel_index(one.argmax(), one.shape)[1] > 60 for one in found["map"][:4])
    smaller = new[:, :60, :92]
    rows = runtime_of(tiled).detect(smaller)
    scores = [row["anomaly_score"] for row in rows]
    np.testing.assert_allclose(scores, tiled.detect(smaller)["anomaly_score"], rtol=1e-3, atol=5e-3)  # grey levels
    for detect in (tiled.detect, runtime_of(tiled).detect):
        with pytest.raises(DataError, match=r"tiles, whose sides may differ by 10 %"):
            detect(new[:, :50])


@pytest.mark.parametrize("product", [None, np.repeat(["disc", "bars"], 30)])
def test_regions_to_ignore(product: Any, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), bool)
    mask[10:20, 4:16] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    train = np.concatenate([parts(30), parts(30, 1, "disc" if product is None else "bars")])
    model = {"name": "patch_gaussian", "neighbours": 60}
    masked = {"ignore": str(tmp_path / "mask.png")}
    detector = Detector(representation=FEATURES, model=model, device="cpu", data=masked, **FOLDS)
    known = None if product is None else {"product": product}
    detector.fit(train, backbone=TinyBackbone(), conditions=known)
    assert detector.pipeline_.model.ignored.any()  # type: ignore[union-attr, operator]
    new = np.concatenate([parts(6, 2), holed(parts(4, 3)), holed(parts(4, 4), 2, 20)])
    found = assert_equal(detector, new, None if product is None else {"product": np.repeat("disc", 14)})
    assert np.isnan(found["map"][:, mask]).all()
    assert not np.isnan(found["map"][:, ~mask]).any()
    assert found["is_anomalous"][10:].all()
    larger = np.repeat(np.repeat(new, 2, 1), 2, 2)  # the mask takes the nearest pixel
    assert_equal(detector, larger, None if product is None else {"product": np.repeat("disc", 14)})


def cornered(regions: Any) -> Detector:
    model = {"name": "patch_gaussian", "neighbours": 40, "context": 2, "global_grid": 4, "words": 4}
    detector = Detector(FEATURES, model, data={"ignore": regions}, device="cpu", alpha=0.1, **FOLDS)
    product = {"product": np.repeat(["disc", "bars"], 20)}
    return detector.fit(np.concatenate([parts(20), parts(20, 1, "bars")]), backbone=TinyBackbone(), conditions=product)


CORNER = [[(0, 0), (0.4, 0), (0.4, 0.4)]]


def test_polygons_are_drawn_for_each_picture_whatever_its_size() -> None:
    detector = cornered(CORNER)
    new = np.concatenate([parts(8, 2), holed(parts(4, 3), 2, 8), holed(parts(4, 4))])
    found = assert_equal(detector, new, {"product": np.repeat("disc", 16)})
    assert 0 < np.isnan(found["map"][0]).mean() < 0.2
    larger = np.repeat(np.repeat(new, 2, 1), 3, 2)
    known = {"product": np.repeat("disc", 16)}
    own, mine = (one.anomaly_maps(larger, conditions=known)[0] for one in (detector, runtime_of(detector)))
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(own))
    assert mine.shape == (64, 96)


BAND = [[(0, 0.6), (1, 0.6), (1, 0.7), (0, 0.7)]]


def white(height: int, width: int) -> np.ndarray:
    """A mask of the right quarter."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, -(width // 4) :] = 255
    return mask


@pytest.mark.filterwarnings("ignore:condition 'product' has no value 'new'")
@pytest.mark.parametrize(
    "regions",
    [
        {"disc": CORNER},
        {"disc": CORNER, "bars": BAND},
        {"disc": white(32, 32), "bars": white(64, 64)[:, ::-1]},  # of two sizes
        {"disc": CORNER, "bars": white(16, 16)},
    ],
)
def test_regions_by_condition_are_those_of_each_row(regions: Any, tmp_path: Path) -> None:
    for value, one in regions.items():
        if isinstance(one, np.ndarray):
            Image.fromarray(one).save(tmp_path / f"{value}.png")
            regions = {**regions, value: str(tmp_path / f"{value}.png")}
    detector = cornered(regions)
    new = np.concatenate([parts(8, 2), holed(parts(4, 3), 2, 1), holed(parts(4, 4)), parts(8, 5, "bars")])
    product = np.repeat(["disc", "bars"], [16, 8])
    hidden = np.isnan(assert_equal(detector, new, {"product": product})["map"])
    assert hidden[0].any()
    assert hidden[16].any() == ("bars" in regions)
    assert (hidden[0] != hidden[16]).any()
    runtime = runtime_of(detector)
    for stated in (product[::-1], [None] * 24, ["bars", "new"] * 12):  # whatever the image shows
        asked: Any = {"conditions": {"product": stated}, "unknown": "infer"}
        own, rows = detector.detect(new, **asked), runtime.detect(new, **asked)
        for name in ("p_value", "is_anomalous", "condition"):
            assert [row[name] for row in rows] == own[name].tolist()
        scores, size = own["anomaly_score"], own["anomaly_score"].abs().median()
        np.testing.assert_allclose([r["anomaly_score"] for r in rows], scores, rtol=RELATIVE, atol=RELATIVE * size)
        for mine, map in zip(runtime.anomaly_maps(new, **asked), detector.anomaly_maps(new, **asked), strict=True):
            np.testing.assert_allclose(mine, map, rtol=0, atol=MAPS * np.nanmax(map))
    for one in (detector, runtime):
        with pytest.raises(DataError, match=r"condition 'product' is missing"):
            one.detect(new, conditions={"product": [None] * 24}, unknown="error")


def test_regions_by_condition_in_pictures_of_another_size(tmp_path: Path) -> None:
    Image.fromarray(white(16, 16)).save(tmp_path / "mask.png")
    detector = cornered({"disc": CORNER, "bars": str(tmp_path / "mask.png")})
    runtime, new = runtime_of(detector), np.concatenate([parts(2, 2), parts(2, 5, "bars")])
    known = {"product": ["disc", "disc", "bars", "bars"]}
    larger = np.repeat(np.repeat(new, 2, 1), 2, 2)
    for own, mine in zip(*(one.anomaly_maps(larger, conditions=known) for one in (detector, runtime)), strict=True):
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(own))
    wide = np.repeat(new, 2, 2)  # polygons fit any picture, a mask those of its proportions
    assert len(runtime.detect(wide, conditions={"product": "disc"})) == 4
    for one in (detector, runtime):
        with pytest.raises(DataError, match=r"the mask to ignore.* is 16 × 16 pixels .*, the image 64 × 32"):
            one.anomaly_maps(wide, conditions=known)


@pytest.mark.parametrize("likelihood", ["bernoulli", *({"name": "gaussian", "sigma": s} for s in ("pixel", "input"))])
def test_likelihoods(likelihood: Any) -> None:
    detector = Detector(representation="pixels", model={"name": "vae", "likelihood": likelihood}, **QUICK)
    assert_equal(detector.fit(textured(80)), textured(20, 1))


@pytest.mark.parametrize("objective", ["vae", "cvae", "factor_vae", "tc_vae", "rf_vae", "dip_vae", "info_vae"])
def test_objectives(objective: str) -> None:
    detector = Detector(representation="pixels", model={"name": "vae", "objective": objective}, **QUICK)
    given = kinds(80) if objective == "cvae" else None
    assert_equal(detector.fit(textured(80), conditions=given), textured(20, 1), given and kinds(20))


@pytest.mark.parametrize("objective", ["beta_vae", "corex", "dcvae", "dan_vae"])
def test_objectives_of_conditions_and_nuisance_factors(objective: str) -> None:
    options: Any = {"name": objective, "nuisance_dim": 2} if objective == "dan_vae" else objective
    detector = Detector(representation="pixels", model={"name": "vae", "objective": options}, **QUICK)
    detector.fit(textured(80), conditions={"kind": kinds(80)["kind"]})
    used = {column.name for column in detector.pipeline_.schema.columns if column.roles}
    assert_equal(detector, textured(20, 1), {"kind": kinds(20)["kind"]} if used else None)


def test_auto_on_small_pictures_of_known_kinds() -> None:
    detector = Detector(**QUICK).fit(textured(120), conditions={"kind": kinds(120)["kind"]})
    assert detector.pipeline_.settings.model.prior == "separated"
    assert_equal(detector, textured(20, 1), {"kind": kinds(20)["kind"]})


PLAIN = {**QUICK, "representation": "pixels", "model": "vae", "conditioning": {"unknown": "infer"}}


@pytest.mark.filterwarnings("ignore:condition 'kind' has no value 'new'")
@pytest.mark.parametrize(
    "settings",
    [
        HOG,
        {**PLAIN, "score": "elbo"},
        {**PLAIN, "score": {"name": "fusion", "scores": ["elbo", "neighbours"]}},  # each by its own rule
    ],
)
def test_conditions_that_are_unknown_are_marginalised_as_the_detector_does(settings: dict[str, Any]) -> None:
    detector = Detector(**settings).fit(textured(120), conditions={"kind": kinds(120)["kind"]})
    runtime, new = runtime_of(detector), textured(20, 1)
    averaged = detector.pipeline_.marginal_calibration is not None
    assert averaged == ("conditioning" in settings) == (runtime.facts["marginal"] is not None)
    for stated in ([None] * 20, ["a", None] * 10, ["b", "new"] * 10):
        own = detector.detect(new, conditions={"kind": stated}, unknown="infer")
        rows = runtime.detect(new, conditions={"kind": stated}, unknown="infer", alpha=detector.alpha)
        found = {name: np.array([row[name] for row in rows]) for name in own}
        size = own["anomaly_score"].abs().mean()
        np.testing.assert_allclose(found["anomaly_score"], own["anomaly_score"], rtol=RELATIVE, atol=RELATIVE * size)
        for name in ("p_value", "is_anomalous", "condition"):
            assert found[name].tolist() == own[name].tolist()
    assert "(inferred)" in found["condition"][1]
    with pytest.raises(DataError, match=r'known: a, b. Give it: .* or pass unknown="infer"'):
        runtime.detect(new, unknown="error")


def test_a_batch_that_does_not_fit_is_said_as_the_detector_says_it() -> None:
    detector = Detector(**HOG, alpha=0.1).fit(textured(120), conditions={"kind": kinds(120)["kind"]})
    runtime, new = runtime_of(detector), ImageSet.from_arrays(textured(30, 0, noise=0.2))
    for stated in ("a", "new", None):
        images = new.replace(conditions={"kind": np.full(30, stated)})
        table = detector.detect(images, unknown="infer")
        found = batch_remark(list(runtime.stream(images, unknown="infer")), images.labels, runtime.facts, 0.1)
        assert found is not None
        assert table.attrs["batch"]["sentence"].split(":")[0].split(" (most of")[0] == found.split(":")[0]
    good = textured(30, 0)
    assert (
        batch_remark(list(runtime.stream(good, conditions={"kind": "a"})), np.full(30, np.nan), runtime.facts, 0.1)
        is None
    )


def test_bounds_that_are_tensors_are_used_once() -> None:
    """The exporter loses them in the second of two equal clamps, and ONNX Runtime then refuses the graph."""

    class Standardised(torch.nn.Module):
        def forward(self, values: torch.Tensor, log_f: torch.Tensor) -> torch.Tensor:
            return standardised(values, log_f, state)

    values, log_f = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = fit_moments(values, log_f)
    traced = torch.export.export(Standardised(), (values, log_f), strict=False)
    assert sum(node.target is torch.ops.aten.clamp.Tensor for node in traced.graph.nodes) == 1


def test_tables() -> None:
    rng = np.random.default_rng(0)
    detector = Detector(**QUICK).fit(1e6 + rng.normal(size=(200, 4)))
    assert_equal(detector, 1e6 + 3 * rng.normal(size=(40, 4)))


def test_columns_of_a_table_go_by_their_names() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["height", "width", "depth"])
    detector = Detector("table", "memory_bank", device="cpu").fit(frame)
    runtime, turned = runtime_of(detector), frame[["depth", "height", "width"]]
    found = [row["anomaly_score"] for row in runtime.detect(turned)]
    np.testing.assert_allclose(found, detector.detect(turned)["anomaly_score"], rtol=RELATIVE)
    np.testing.assert_array_equal(found, [row["anomaly_score"] for row in runtime.detect(frame.to_numpy())])
    with pytest.raises(DataError, match=r"columns \['depth', 'height'\]; the model was fitted on \['height', 'width'"):
        runtime.detect(turned[["depth", "height"]])
    with pytest.raises(DataError, match="the table cannot be read as numbers: could not convert string to float: 'x'"):
        runtime.detect([["x", 1, 2]])


def test_a_score_of_several_draws() -> None:
    detector = Detector(representation="pixels", model="vae", score="iwae", **QUICK)
    assert_equal(detector.fit(textured(80)), textured(20, 1))


def test_known_illumination() -> None:
    own = {"name": "pixels", "illumination": 0.3}
    assert_equal(Detector(representation=own, model="vae", **QUICK).fit(textured(80)), textured(20, 1))


def test_labelled_anomalies_correct_the_score(bank: Detector) -> None:
    draw = torch.Generator().manual_seed(0)
    state = {"mean": torch.zeros(392), "std": torch.ones(392), "direction": torch.randn(392, generator=draw)}
    state |= {"offset": torch.tensor(0.2), "weight": torch.tensor(3.0)}
    learned = {"state": prefixed(LabelPenalty(), state), "adjustments": (LabelPenalty(),)}
    detector = copy(bank)
    detector.pipeline_ = replace(bank.pipeline_, **learned)
    found = assert_equal(detector, textured(30, 1))
    assert 0 < (found["label_penalty"] > 0).sum() < 30


# The file ------------------------------------------------------------------------------------------------------------


def test_all_ways_of_scoring_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In memory, saved, the command line on both, and the runtime on files of several sizes."""
    detector = Detector(**{**HOG, "representation": {"name": "hog", "image_size": (16, 12)}})
    detector.fit(textured(80, channels=3), conditions={"kind": kinds(80)["kind"]}).save(tmp_path / "model")
    new = textured(20, 1, channels=3)
    write_folder(ImageSet.from_arrays(new, conditions={"kind": kinds(20)["kind"]}), tmp_path / "new")
    file = tmp_path / "model.onnx"
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["export", str(tmp_path / "model"), str(file)])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    own = Detector.load(tmp_path / "model").detect(new, conditions={"kind": kinds(20)["kind"]})
    for model in (tmp_path / "model", file):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["score", str(model), str(tmp_path / "new" / "manifest.csv"), "-o", str(tmp_path / "rows.csv")])
        table = pd.read_csv(tmp_path / "rows.csv")
        np.testing.assert_allclose(table["anomaly_score"], own["anomaly_score"], rtol=RELATIVE)
        assert table["p_value"].tolist() == own["p_value"].tolist()
        assert table["condition"].tolist() == own["condition"].tolist()
    runtime = ExportedDetector(file)
    rows = pd.DataFrame(runtime.detect(new, conditions={"kind": kinds(20)["kind"]}, alpha=0.2))
    assert rows["is_anomalous"].tolist() == (own["p_value"] <= 0.2).tolist()
    assert runtime.facts["model_sha256"] in (tmp_path / "model" / "versions" / "0001" / "config.json").read_text()
    larger = np.repeat(np.repeat(new, 2, 1), 2, 2)
    given = {"kind": kinds(20)["kind"]}
    found = [row["anomaly_score"] for row in runtime.detect(larger, conditions=given)]
    np.testing.assert_allclose(found, detector.detect(larger, conditions=given)["anomaly_score"], rtol=1e-3)
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["score", str(file), str(tmp_path / "new"), "--fdr", "0.1"])
    assert "--fdr: not of an exported model" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pose", "tiles"])
def test_a_file_is_judged_without_torch(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "pose":
        detector, new = request.getfixturevalue("posed"), strange(8, 1)
    else:  # two by two, which are traced sooner than two by three
        own, data = {**FEATURES, "image_size": 40}, {"tile": 40, "tile_overlap": 0.2}
        detector = Detector(own, MAPS_ALONE, alpha=0.1, device="cpu", data=data, **FOLDS)
        detector.fit(sheets(30)[:, :, 32:], backbone=TinyBackbone())
        new = sheets(8, 1, holes=3)[:, :, 32:]
    file = export(detector, tmp_path / "parts.onnx")
    place = tmp_path / "new"
    place.mkdir()
    for i, image in enumerate(new):
        Image.fromarray(image).save(place / f"{i}.png")
    own = detector.detect(new)
    code = "import sys; sys.modules['torch'] = None; from knowngood.runtime.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, str(file), str(place)], check=True, capture_output=True)
    by_runtime = pd.DataFrame(map(json.loads, done.stdout.splitlines()))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["score", str(file), str(place), "-o", str(tmp_path / "rows.csv"), "--maps", str(tmp_path / "maps")])
    size = own["anomaly_score"].abs().mean()
    for rows in (by_runtime, pd.read_csv(tmp_path / "rows.csv")):
        assert list(rows)[:4] == list(own)[:4]
        assert ("pose" in rows) == (kind == "pose") == ("pose" in own)
        np.testing.assert_allclose(rows["anomaly_score"], own["anomaly_score"], rtol=RELATIVE, atol=RELATIVE * size)
        for name in ("p_value", "is_anomalous"):
            assert rows[name].tolist() == own[name].tolist()
    assert 0 < own["is_anomalous"].sum() < len(new)
    assert {f"{i}.png" for i in range(len(new))} <= {path.name for path in (tmp_path / "maps").iterdir()}
    served, images = load_model(file), ImageSet.from_arrays(new)
    assert isinstance(served, FileModel)
    maps = detector.anomaly_maps(new)
    close = MAPS * max(float(one.max()) for one in maps)  # half precision can round a feature up or down
    for row, mine in zip(served.judged(images, Asked(maps=True)), maps, strict=True):
        assert row["map"]["offset"] == pytest.approx(float(mine.min()), abs=close)
    for some in (new, new[:, :-4, :-4]):  # pictures of another size too
        for one, mine in zip(served.detector.anomaly_maps(some), detector.anomaly_maps(some), strict=True):
            np.testing.assert_allclose(one, mine, rtol=0, atol=close)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"conditioning": {"check": ("kind",)}}, "conditioning.check"),
        ({"conditioning": {"measure": ("brightness",)}}, "conditioning.measure"),
    ],
)
def test_what_cannot_be_exported_is_named(bank: Detector, settings: dict[str, Any], reason: str) -> None:
    changed = {name: getattr(bank.pipeline_.settings, name).model_copy(update=v) for name, v in settings.items()}
    pipeline = replace(bank.pipeline_, settings=bank.pipeline_.settings.model_copy(update=changed))
    with pytest.raises(SettingsError, match=f"cannot be exported to ONNX: {reason}.*;"):
        check_exportable(pipeline)


def test_nothing_is_written_of_a_model_that_is_refused(bank: Detector, tmp_path: Path) -> None:
    detector = Detector(**HOG).fit(textured(60)).calibrate(textured(60, 0, noise=0.06), as_group={"camera": "B"})
    with pytest.raises(SettingsError, match="added groups"):
        export(detector, tmp_path / "out" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_is_no_module_and_an_alignment_are_named(located: Detector) -> None:
    class Plain:
        fingerprint = TinyBackbone().fingerprint

        def features(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images]

    representation: Any = located.pipeline_.representation.with_backbone(Plain())
    options = representation.options.model_copy(update={"align": "shift"})
    changed = {"options": options}
    pipeline = replace(located.pipeline_, representation=representation.model_copy(update=changed))
    with pytest.raises(SettingsError, match=r"align = 'shift'.*backbone 'own'"):
        check_exportable(pipeline)
