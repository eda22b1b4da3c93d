"""Small pictures of a disc, good or with a spot, and a model of them that has maps, regions and two cameras."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knowngood import Detector

SIDE = 32
SPOT = (10, 17, 15, 23)  # top, left, bottom, right


def pictures(n: int, seed: int, spot: bool = False) -> np.ndarray:
    """(n, 32, 32) uint8."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = np.where((y - 16) ** 2 + (x - 16) ** 2 < 100, 150.0, 60.0)
    images = disc + np.random.default_rng(seed).normal(0, 6, (n, SIDE, SIDE))
    if spot:
        images[:, SPOT[0] : SPOT[2], SPOT[1] : SPOT[3]] = 250
    return images.clip(0, 255).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@cache
def detector_of_two_cameras(blocks: tuple[int, ...] = (2, 4, 10), **gaussian: Any) -> Detector:
    """Calibrated, of 60 good pictures of cameras A and B; one for all tests of a process, which only save it."""
    backbone = {"name": "efficientnet_lite0", "blocks": blocks}
    features = {"name": "features", "backbone": backbone, "image_size": 64, "align": "none"}
    detector = Detector(features, {"name": "patch_gaussian", **gaussian}, alpha=0.1)
    return detector.fit(pictures(60, 0), conditions={"camera": np.repeat(["A", "B"], 30)})


def save_model(folder: Path) -> Path:
    """A calibrated model of 60 good pictures of cameras A and B."""
    return detector_of_two_cameras().save(folder)


def save_vae(folder: Path) -> Path:
    """A calibrated VAE of pixels with four latent dimensions."""
    model = {"name": "vae", "latent_dim": 4, "net": {"name": "mlp", "hidden": [16]}}
    training = {"epochs": 3, "batch_size": 16}
    return (
        Detector("pixels", model, "elbo", training=training, alpha=0.1, device="cpu").fit(pictures(60, 0)).save(folder)
    )


def stripes(n: int, seed: int) -> np.ndarray:
    """Good pictures of another kind, which a model of discs flags."""
    images = pictures(n, seed).astype(float)
    images[:, :, 4::9] += 40
    return images.clip(0, 255).astype(np.uint8)


def save_run(folder: Path, n: int = 30) -> Path:
    """A run as `train` leaves it: a model of n discs at alpha = .1, the record of the training, and the pictures."""
    (folder / "good").mkdir(parents=True)
    for i, picture in enumerate(pictures(n, 0)):
        (folder / "good" / f"{i:02d}.png").write_bytes(png(picture))
    backbone = {"name": "efficientnet_lite0", "blocks": (2, 4)}
    features = {"name": "features", "backbone": backbone, "image_size": 32, "align": "none"}
    detector = Detector(features, "patch_gaussian", alpha=0.1)
    detector.fit(str(folder / "good")).save(folder / "parts" / "model")
    (folder / "parts" / "command.json").write_text(json.dumps({"data": str(folder / "good")}))
    return folder / "parts"
