"""Exported models against the models themselves: scores, p-values, verdicts and maps of new images, by every way.

The ways: the saved detector; on the saved model and on the ONNX file `knowngood score`, HTTP and a watched folder;
`knowngood.runtime`. Every case is a model that `auto` can choose, or one of its parts that a person can.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowngood.cli.console import note, table
from knowngood.errors import KnowngoodError

OBJECTIVES = (
    "vae", "beta_vae", "cvae", "factor_vae", "tc_vae", "rf_vae", "dip_vae", "info_vae", "corex", "dan_vae", "dcvae",
)  # fmt: skip
LIKELIHOODS: tuple[Any, ...] = (
    "bernoulli",
    *({"name": "gaussian", "sigma": sigma} for sigma in ("scalar", "pixel", "input", 0.1)),
)
SCORES: tuple[Any, ...] = (
    *({"name": "reconstruction", "distance": d} for d in ("l2", "squared", "mean", "cross_entropy", "ssim")),
    *("kl", "prior_distance", "iwae", "typicality"),
    *({"name": "neighbours", "of": of} for of in ("latent", "residual", "items", "hog")),
)
RELATIVE, MAPS = 1e-4, 1e-3  # bars


class Case(NamedTuple):
    """A model and pictures: how many channels and bits, whether they are resized, whether kinds are known, whether they
    show a part that lies anywhere, in any direction."""

    name: str
    settings: dict[str, Any]
    channels: int = 1
    bits: int = 8
    size: tuple[int, int] = (16, 12)
    other: tuple[int, int] | None = None  # size of some new images, where images are resized
    kinds: bool = False
    lying: bool = False


def cases() -> Iterator[Case]:
    """All of them."""
    hog, vae = {"representation": "hog"}, {"representation": "pixels", "model": "vae"}
    sized = {"name": "pixels", "image_size": (12, 16)}
    yield Case("auto: small pictures", {})
    yield Case("auto: small pictures of known kinds", {}, kinds=True)
    hidden = {"conditioning": {"unknown": "infer"}}
    yield Case("auto: small pictures of kinds that may be unknown", hidden, kinds=True)
    yield Case("hog, memory_bank", {**hog, "model": "memory_bank"})
    yield Case("hog, memory_bank, cosine, 16 bit", {**hog, "score": {"name": "neighbours", "cosine": True}}, bits=16)
    yield Case("hog, memory_bank, known kinds, colour", {**hog, "model": "memory_bank"}, channels=3, kinds=True)
    sizes: dict[str, Any] = {"channels": 3, "other": (30, 22)}
    yield Case("hog of resized colour", {"representation": {"name": "hog", "image_size": (16, 16)}}, **sizes)
    yield Case("pixels, resized, 16 bit", {**vae, "representation": sized}, bits=16, other=(9, 31))
    yield Case("pixels, grey of colour", {**vae, "representation": {**sized, "grey": True}}, **sizes)
    shaped = {"name": "pixels", "image_size": (14, 14), "crop": (12, 10), "pad": (16, 16)}
    yield Case("pixels, crop and pad", {**vae, "representation": shaped}, other=(20, 20))
    yield Case("pixels, known illumination", {**vae, "representation": {"name": "pixels", "illumination": 0.3}})
    for objective in OBJECTIVES:
        kinds = objective not in ("vae", "beta_vae")
        yield Case(f"pixels, {objective}", {**vae, "model": {"name": "vae", "objective": objective}}, kinds=kinds)
    for likelihood in LIKELIHOODS:
        name = likelihood if isinstance(likelihood, str) else f"gaussian, σ {likelihood['sigma']}"
        yield Case(f"pixels, {name}", {**vae, "model": {"name": "vae", "likelihood": likelihood}})
    probability = {"name": "vae", "likelihood": {"name": "gaussian", "sigma": "input"}}
    yield Case("pixels, reconstruction_probability", {"model": probability, "score": "reconstruction_probability"})
    for score in SCORES:
        name = score if isinstance(score, str) else " ".join(map(str, score.values()))
        yield Case(f"pixels, {name}", {**vae, "score": score}, kinds=name in ("kl", "typicality"))
    features: dict[str, Any] = {"name": "features", "image_size": 64, "align": "none"}
    photograph: dict[str, Any] = {"channels": 3, "size": (64, 64), "other": (80, 70)}
    yield Case("auto: photographs", {"representation": features}, **photograph)
    yield Case("photographs, grey, 16 bit", {"representation": features}, **{**photograph, "channels": 1}, bits=16)
    yield Case("photographs, 16 bit", {"representation": features}, **photograph, bits=16)
    yield Case("photographs of known kinds", {"representation": features}, **photograph, kinds=True)
    plain = {"name": "patch_gaussian", "neighbours": 0, "global_grid": 0, "context": 0}
    yield Case("photographs, plain PaDiM", {"representation": features, "model": plain}, **photograph)
    for pooling in ("max", "soft"):
        score = {"name": "patch_distance", "pooling": pooling}
        yield Case(f"photographs, pooled by {pooling}", {"representation": features, "score": score}, **photograph)
    yield Case("photographs, memory_bank", {"representation": features, "model": "memory_bank"}, **photograph)
    posed: dict[str, Any] = {"name": "features", "image_size": 64}
    yield Case("photographs, parts in one pose", {"representation": posed}, 3, size=(120, 110), lying=True)
    tiles: dict[str, Any] = {"representation": features, "data": {"tile": 64}}
    yield Case("photographs, in tiles", tiles, 3, size=(120, 160))
    corner = {"representation": features, "data": {"ignore": [[(0, 0), (0.4, 0), (0.4, 0.4)]]}}
    yield Case("photographs, polygons to ignore", corner, **photograph)
    band = [[(0, 0.6), (1, 0.6), (1, 0.8), (0, 0.8)]]
    own = {"representation": features, "data": {"ignore": {"a": corner["data"]["ignore"], "b": band}}}
    yield Case("photographs, polygons to ignore by kind", own, **photograph, kinds=True)


def pictures(case: Case, n: int, folder: Path, seed: int, *, anomalies: int = 0) -> list[str]:
    """Write n pictures of stripes with noise, in folders by kind; the first ones with a bright square. Their kinds."""
    import cv2

    rng, kinds, top = np.random.default_rng(seed), [], 2**case.bits - 1
    for i in range(n):
        height, width = case.other if case.other and i % 3 == 2 and seed else case.size
        kind = "ab"[i % 2] if case.kinds else ""
        y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
        stripes = np.sin(6.3 * (y if kind == "b" else x) * 2 + rng.normal(0, 0.15))
        image = 0.5 + 0.25 * stripes[..., None] * np.array([1, 0.7, 0.4])[: case.channels]
        image = image * rng.normal(1, 0.05) + rng.normal(0, 0.03, image.shape)
        if case.lying:
            image = _part(rng, height, width)[..., None] + rng.normal(0, 0.01, (height, width, case.channels))
        if i < anomalies:
            image[height // 3 : height // 2, width // 3 : width // 2] += 0.4
        path = folder / kind / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), (image.clip(0, 1) * top).astype(f"uint{case.bits}"))
        kinds.append(kind)
    return kinds


def _part(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) a bar with a head at one end, on a dark ground."""
    angle, down, right = rng.uniform(0, 2 * np.pi), *(rng.uniform(0.4, 0.6, 2) * (height, width))
    y, x = np.mgrid[:height, :width] - np.array([down, right])[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.minimum(np.maximum(np.abs(along) - 24, np.abs(across) - 8), np.hypot(along - 20, across) - 14)
    return 0.12 + 0.6 * np.clip(0.5 - distance, 0, 1)


def prepared(case: Case, folder: Path) -> float:
    """Fit, save and export a case in a folder, unless it lies there; the seconds of the export."""
    from knowngood import Detector
    from knowngood.deploy.onnx_graph import export

    done = folder / "seconds.txt"
    if not done.exists():
        pictures(case, 80, folder / "train", 0)
        pictures(case, 18, folder / "new", 1, anomalies=6)
        quick = {"training": {"epochs": 3}, "device": "cpu", "alpha": 0.1, "conditioning": {"unknown": "error"}}
        detector = Detector(**{**quick, **case.settings}).fit(folder / "train")
        detector.save(folder / "model")
        start = time.perf_counter()
        export(detector, folder / "model.onnx")
        done.write_text(f"{time.perf_counter() - start:.1f}", encoding="utf-8")
    return float(done.read_text(encoding="utf-8"))


def by_http(model: Path, new: Path) -> Any:
    """The table that the server answers with."""
    import pandas as pd
    from starlette.testclient import TestClient

    from knowngood.data import open_images
    from knowngood.deploy.served_models import load_models
    from knowngood.deploy.server import create_app

    models, images = load_models([str(model)]), open_images(new)
    files = [("images", (name, (new / name).read_bytes())) for name in images.ids.tolist()]
    known = {name: values.tolist() for name, values in images.conditions.items()}
    given = {name: values for name, values in known.items() if name in models.named(None).columns}
    with TestClient(create_app(models)) as client:
        answer = client.post("/v1/score", files=files, data={"conditions": json.dumps(given)} if given else {})
    answer.raise_for_status()
    return pd.DataFrame(answer.json()["rows"])


def by_watch(model: Path, new: Path, state: Path) -> Any:
    """The table of a watched folder; where there are kinds, of one for each."""
    import pandas as pd

    from knowngood.data import open_images
    from knowngood.deploy.delivery import Delivery
    from knowngood.deploy.outbox import Outbox
    from knowngood.deploy.served_models import load_models
    from knowngood.deploy.watch import Watch

    models, images, rows = load_models([str(model)]), open_images(new), []
    own = [name for name in images.conditions if name in models.named(None).columns]
    for k, folder in enumerate([one for one in sorted(new.iterdir()) if one.is_dir()] or [new]):
        state.mkdir(parents=True, exist_ok=True)
        delivery, now = Delivery(Outbox(state / f"{k}.sqlite"), []), itertools.count()
        watch = Watch(
            folder, models, delivery, conditions=dict.fromkeys(own, folder.name), clock=lambda now=now: next(now)
        )
        found = [one.row for _ in range(2) for one in watch.step()]
        prefix = "" if folder == new else f"{folder.name}/"
        rows += [{**row, "id": prefix + row["id"]} for row in found]
        delivery.close()
    return pd.DataFrame(rows).sort_values("id", ignore_index=True)


def compared(case: Case, folder: Path) -> dict[str, Any]:
    """Score new pictures by every way; the largest differences from the detector."""
    import pandas as pd

    from knowngood import Detector
    from knowngood.cli import build_app
    from knowngood.runtime import ExportedDetector

    new, saved, file = folder / "new", folder / "model", folder / "model.onnx"
    seconds = prepared(case, folder)
    detector, runtime = Detector.load(saved), ExportedDetector(file)

    def by_command(model: Path) -> pd.DataFrame:
        output = folder / "rows.csv"
        build_app()(["score", str(model), str(new), "-o", str(output)], standalone_mode=False)
        return pd.read_csv(output)

    own, place = detector.detect(new), Path(tempfile.mkdtemp(dir=folder))
    ways: dict[str, Callable[[], pd.DataFrame]] = {
        "CLI": lambda: by_command(saved),
        "HTTP": lambda: by_http(saved, new),
        "watch": lambda: by_watch(saved, new, place),
        "CLI, ONNX": lambda: by_command(file),
        "HTTP, ONNX": lambda: by_http(file, new),
        "watch, ONNX": lambda: by_watch(file, new, place / "onnx"),
        "runtime": lambda: pd.DataFrame(runtime.detect(new)),
    }
    row: dict[str, Any] = {"case": case.name, "MB": file.stat().st_size / 1e6, "export s": seconds}
    scale, score, p, verdicts = own["anomaly_score"].abs().clip(lower=own["anomaly_score"].std()), 0.0, True, True
    for way in ways.values():
        found = way()
        assert (found["id"] == own["id"]).all()
        score = max(score, float(((found["anomaly_score"] - own["anomaly_score"]).abs() / scale).max()))
        p &= bool((found["p_value"] == own["p_value"]).all())
        verdicts &= bool((found["is_anomalous"] == own["is_anomalous"]).all())
    row |= {"score": score, "p equal": p, "verdicts equal": verdicts, "flagged": int(own["is_anomalous"].sum())}
    row["map"] = None
    if detector.pipeline_.score.has_map:
        pairs = zip(detector.anomaly_maps(new), runtime.anomaly_maps(new), strict=True)
        row["map"] = max(_apart(a, b) for a, b in pairs)
    row["holds"] = p and verdicts and score <= RELATIVE and (row["map"] or 0.0) <= MAPS
    return row


def _apart(own: np.ndarray, found: np.ndarray) -> float:
    """The largest difference of two maps, in the largest value; infinite if other regions are ignored (NaN)."""
    if (np.isnan(own) != np.isnan(found)).any():
        return float("inf")
    return float(np.nanmax(np.abs(own - found)) / np.nanmax(np.abs(own)))


def main(only: str = "", out: Path = Path("out/benchmarks/export"), keep: Path | None = None) -> None:
    """Compare every case, or those whose names contain `only`, or one of its parts with | between them.

    Models and files are left in the folder `keep`, and those that lie there are not fitted and exported again.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in cases():
        if any(part in case.name for part in only.split("|")):
            with ExitStack() as stack:
                place = keep / re.sub(r"\W+", "-", case.name) if keep else None
                place = place or Path(stack.enter_context(tempfile.TemporaryDirectory()))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                try:
                    row = compared(case, place)
                except (KnowngoodError, AssertionError) as error:
                    row = {"case": case.name, "holds": False, "error": str(error)}
            rows.append(row)
            note(f"{row['case']}: {'holds' if row['holds'] else 'DOES NOT HOLD'} {row}")
    (out / "export.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in names] for row in rows]
    shown = [[f"{cell:.2g}" if isinstance(cell, float) else str(cell) for cell in row] for row in cells]
    table(names, shown, title=f"{sum(row['holds'] for row in rows)} of {len(rows)} combinations agree")
