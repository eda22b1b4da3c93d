"""The folders that the pages speak of, small and of generated parts: parts, today, new, photos and others."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PARTS = "generated-parts/products=washer,size=64"


def prepare(command: Callable[[str], None]) -> None:
    """Write all of them into the current folder, and fit a model in `runs/parts`; `command` runs a command line."""
    command(f"knowngood data write {PARTS},number=60 parts")
    command(f"knowngood data write {PARTS},number=80,seed=1 written")
    (Path("parts") / "manifest.csv").unlink()
    shutil.copytree("parts", "labelled")
    good = sorted(Path("written/train/good").glob("*.png"))
    defects = [path for path in sorted(Path("written/test").rglob("*.png")) if path.parent.name != "good"]
    for name, files in {
        "new": good,
        "new-camera": good[:30],
        "new-camera-normal": good[:30],
        "today-normal": good[:30],
        "camera-b-normal": good[:30],
        "camera-b-today": good[30:34] + defects[:2],
        "incoming": good[34:36],
        "today": good[30:38] + defects[:4],
    }.items():
        Path(name).mkdir()
        for file in files:
            shutil.copy(file, Path(name) / f"{file.parent.name}-{file.name}")
    _known_defects(defects)
    _photos(good[:10])
    _products()
    shutil.copytree(ROOT / "docs" / "methods", "docs/methods", ignore=shutil.ignore_patterns("*.md"))
    Path("docs/images/methods").mkdir(parents=True)
    shutil.rmtree("written")
    command("knowngood train parts --align none --out runs/parts")  # the exported file then needs no SciPy
    command("knowngood calibrate runs/parts today-normal")  # a second version
    _reviews(command)


def _reviews(command: Callable[[str], None]) -> None:
    """`runs/parts-judged`: what was judged today; one image is reviewed."""
    from knowngood.deploy.reviews import add_review, read_reviews

    command("knowngood watch runs/parts today --once --state watched.sqlite --keep runs/parts-judged")
    judged = read_reviews("runs/parts-judged", unreviewed=True)
    add_review("runs/parts-judged", int(judged.number[0]), "good")


def _known_defects(defects: list[Path]) -> None:
    """`more`: new normal images and one defect with its mask."""
    train, masks = Path("more/train"), Path("more/ground_truth/train/scratch")
    shutil.copytree("new", train / "good")
    masks.mkdir(parents=True)
    (train / "scratch").mkdir()
    defect = next(path for path in defects if path.parent.name == "scratch")
    shutil.copy(defect, train / "scratch" / "one.png")
    mask = Path("written/ground_truth/scratch") / f"{defect.stem}_mask.png"
    shutil.copy(mask, masks / "one_mask.png")


def _photos(good: list[Path]) -> None:
    Path("photos").mkdir()
    for file in good:
        Image.open(file).resize((1600, 1600), Image.Resampling.BICUBIC).save(Path("photos") / file.name)


def _products() -> None:
    """`parts.csv` and `today.csv`: two products."""
    for name, folder in {"parts.csv": "new", "today.csv": "today"}.items():
        with Path(name).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "product"])
            rows.writerows((str(path), "AB"[i % 2]) for i, path in enumerate(sorted(Path(folder).glob("*.png"))))
