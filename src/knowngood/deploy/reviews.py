"""Reviews from Python: read them, add one, draw a random sample; and the images for training and labelling tools.

    from knowngood.deploy.reviews import add_review, read_reviews

    table = read_reviews("runs/parts-judged")
    add_review("runs/parts-judged", int(table.number[0]), "good", who="ana")

Formats of `export`: folders with masks and a manifest, COCO, Label Studio.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from knowngood.data.formulas import harmless
from knowngood.data.readers.layout import SPLITS
from knowngood.data.readers.masks import FOLDERS
from knowngood.deploy.judged_store import FILE, LONGEST, MOST_REGIONS, VERDICTS, Box, Filter, JudgedStore, Review
from knowngood.errors import DataError, OutputError
from knowngood.files import make_folder, whole, write_json, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("number", "time", "model", "scored_by", "source", "id", "score", "p", "flagged", "review", "kind", "note")
DEFECT = "defect"  # the kind of one that nobody named
_UNSAFE = re.compile(r"[^\w.-]+")


def read_reviews(folder: str | Path, *, unreviewed: bool = False) -> DataFrame:
    """The reviews that count, a row a judged image, the oldest first.

    Columns: number, of the judged image; time; model; scored_by, its version; source; id; score; p; flagged (bool);
    review ("good", "defect" or "unsure"); kind; note; who; regions, a list of boxes (top, left, bottom, right) in
    pixels, half-open; sampled, whether it was drawn for the random sample.

    Args:
        folder: where judged images are kept. unreviewed: also those that nobody reviewed; `review` is then None.

    Raises:
        DataError: there are no judged images. ArtifactError: the store is damaged.
    """
    import pandas as pd

    with _opened(folder) as store:
        _, found = store.page(Filter(review="" if unreviewed else "any"), most=-1)
        _, sample = store.page(Filter(review="sample"), most=-1)
    sampled, table = {one["number"] for one in sample}, pd.DataFrame(found[::-1], columns=[*COLUMNS, "who", "drawn"])
    table["sampled"] = table["number"].isin(sampled)
    return table.rename(columns={"drawn": "regions"}).astype({"flagged": "boolean"})


def add_review(
    folder: str | Path,
    number: int | Iterable[int],
    verdict: str | None,
    *,
    who: str = "",
    kind: str = "",
    regions: Sequence[Box] = (),
    note: str = "",
) -> None:
    """Say of a judged image what it is: "good", "defect" or "unsure"; None takes back what was said before.

    Args:
        number: of the judged image, see `read_reviews`; or of several, which are reviewed all or not at all.
        kind: of a defect. regions: where it is, boxes (top, left, bottom, right) in pixels, half-open; at most 100.
            who, kind, note: at most 100, 60 and 2,000 characters.

    Raises:
        DataError: another verdict, a text that is too long, a region beyond the image, or no such image that was read.
    """
    if verdict is not None and verdict not in VERDICTS:
        raise DataError(f"verdict = {verdict!r:.40}; expected {', '.join(VERDICTS)}, or None to take a review back")
    for name, text in (("who", who), ("kind", kind), ("note", note)):
        if len(text) > LONGEST[name]:
            raise DataError(f"{name} = {text!r:.40} has {len(text):,} characters; expected at most {LONGEST[name]:,}")
    if len(regions) > MOST_REGIONS:
        raise DataError(f"{len(regions):,} regions; expected at most {MOST_REGIONS}: draw larger ones")
    numbers = list(number) if isinstance(number, Iterable) else [number]
    with _opened(folder) as store:
        try:
            for about in map(store.one, numbers):
                for top, left, bottom, right in regions:
                    height, width = about["height"] or 0, about["width"] or 0
                    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                        box = (top, left, bottom, right)
                        raise DataError(f"region {box} is not within the picture, {width} × {height} pixels")
            store.review(numbers, Review(verdict, who, kind, tuple(regions), note))  # type: ignore[arg-type]
        except KeyError as error:
            raise DataError(f"{folder}: {error.args[0]}; `read_reviews(…, unreviewed=True)` lists them") from None


def draw_sample(folder: str | Path, n: int, model: str | None = None, seed: int | None = None) -> list[int]:
    """Draw n more judged images at random, flagged or not, to be reviewed; their numbers.

    Good images of a random sample may calibrate; those that were chosen by their score may not. A draw counts once all
    of its images are reviewed. Take 10 or more: of a draw of one, that the image is reviewed already would choose.

    Args:
        model: whose; None for the only one. seed: of the draw; None draws one.

    Raises:
        DataError: there are no judged images, or those of several models.
    """
    with _opened(folder) as store:
        names = store.models()
        if model is None and len(names) != 1:
            raise DataError(f"{folder} holds images judged by {', '.join(names) or 'none'}; name the model")
        return store.sample(n, names[0] if model is None else model, seed)


@contextmanager
def _opened(folder: str | Path) -> Iterator[JudgedStore]:
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise DataError(f"{folder}: no judged images; give the folder that `serve` names as it starts: MODEL-judged")
    with closing(JudgedStore(folder)) as store:
        yield store


def export(store: JudgedStore, out: Path, layout: str = "folder") -> dict[str, int]:
    """Write what was reviewed as good or as a defect to a new or empty folder; how many of each.

    What nobody is sure of, and what could not be read, is left out. Of a picture that was judged several times under
    the same conditions the last review counts; `repeated` says how many were left out for that.

    Raises:
        DataError: nothing was reviewed. OutputError: the folder is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is not empty; give a new folder, so that nothing in it is mixed with older reviews")
    counts = {"good": 0, "defect": 0, "repeated": 0}
    last: dict[str, int] = {}
    for record in store.reviewed():
        if record["flagged"] is not None:
            last[_content(record)] = max(last.get(_content(record), 0), record["review_number"])
    kept: list[dict[str, Any]] = []
    for record in store.reviewed():
        if record["flagged"] is None:
            continue
        if record["review_number"] < last[_content(record)]:
            counts["repeated"] += 1
        elif record["review"] in counts:
            counts[record["review"]] += 1
            kept.append(_written(record, out, in_folders=layout == "folder"))
    if not kept:
        raise DataError(f"{store.folder}: nothing was reviewed as good or as a defect; review images on the page first")
    FORMATS[layout](kept, out)
    return counts


def _content(record: dict[str, Any]) -> str:
    """What two judgements of the same picture have in common: its file and its conditions."""
    conditions = json.dumps(record["conditions"], sort_keys=True, ensure_ascii=False)
    return f"{hashlib.sha256(record['bytes']).hexdigest()} {conditions}"


def _written(record: dict[str, Any], out: Path, *, in_folders: bool) -> dict[str, Any]:
    """Write the picture and the mask of a record; what the formats need of it. Its names are made here."""
    stem = _UNSAFE.sub("_", Path(record["id"].replace("\\", "/")).stem)[-60:].strip("._-")
    name = f"{record['number']:06d}-{stem}" if stem else f"{record['number']:06d}"
    defect = record["review"] == "defect"
    kind = _folder(record["kind"] or DEFECT)
    folder = f"images/{'anomalous' if defect else 'good'}"
    if in_folders:
        folder = f"anomalous/{kind}" if defect else "good"
    about = {name: record[name] for name in ("number", "height", "width", "conditions", "note", "who", "scored_by")}
    about |= {"file": f"{folder}/{name}{record['suffix']}", "kind": kind if defect else None, "mask": None}
    about["boxes"] = [tuple(box) for box in record["drawn"] or ()] if defect else []
    _write(out / about["file"], record["bytes"])
    if in_folders and about["boxes"]:
        about["mask"] = f"ground_truth/{folder}/{name}_mask.png"
        mask = Image.new("L", (record["width"], record["height"]))
        for top, left, bottom, right in about["boxes"]:
            ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
        file = io.BytesIO()
        mask.save(file, "PNG")
        _write(out / about["mask"], file.getvalue())
    return about


def _folder(kind: str) -> str:
    """The name of a folder for a kind of defect, which says nothing else to the reader of folders."""
    name = _UNSAFE.sub("_", kind).strip("._-") or DEFECT
    return f"{name}_" if re.sub(r"[\- ]", "_", name.lower()) in FOLDERS | SPLITS.keys() else name


def _write(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with whole(path) as draft:
        draft.write_bytes(content)


def _manifest(kept: Iterable[dict[str, Any]], out: Path) -> None:
    """A manifest beside the folders, with the conditions that the images were judged under."""
    kept = list(kept)
    columns = dict.fromkeys(name for one in kept for name in one["conditions"])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", "mask", *map(harmless, columns)])
    for one in kept:
        cells = ["" if (cell := one["conditions"].get(name)) is None else cell for name in columns]
        table.writerow([one["file"], "anomalous" if one["kind"] else "good", one["mask"] or "", *map(harmless, cells)])
    write_text(out / "manifest.csv", text.getvalue())


def _coco(kept: Iterable[dict[str, Any]], out: Path) -> None:
    """https://cocodataset.org/#format-data; boxes are x, y, width and height. A good image has no annotation."""
    kept = list(kept)
    kinds = {kind: i for i, kind in enumerate(sorted({one["kind"] for one in kept if one["kind"]}), start=1)}
    annotations = []
    for one in kept:
        height, width = one["height"], one["width"]
        for top, left, bottom, right in one["boxes"] or ([(0, 0, height, width)] if one["kind"] else []):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": one["number"],
                    "category_id": kinds[one["kind"]],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    "iscrowd": 0,
                }
            )
    images = [
        {"id": one["number"], "file_name": one["file"], "height": one["height"], "width": one["width"]} for one in kept
    ]
    categories = [{"id": i, "name": kind, "supercategory": DEFECT} for kind, i in kinds.items()]
    write_json(out / "annotations.json", {"images": images, "annotations": annotations, "categories": categories})


def _label_studio(kept: Iterable[dict[str, Any]], out: Path) -> None:
    """https://labelstud.io/guide/tasks: tasks with a choice `verdict` and rectangles `kind`, in per cent."""
    tasks = []
    for one in kept:
        height, width = one["height"], one["width"]
        whole_image = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
        choice = {"choices": ["defect" if one["kind"] else "good"]}
        result: list[dict[str, Any]] = [
            {"id": f"{one['number']}", "from_name": "verdict", "to_name": "image", "type": "choices", "value": choice}
        ]
        for i, (top, left, bottom, right) in enumerate(one["boxes"]):
            value = {
                "x": 100 * left / width,
                "y": 100 * top / height,
                "width": 100 * (right - left) / width,
                "height": 100 * (bottom - top) / height,
                "rotation": 0,
                "rectanglelabels": [one["kind"]],
            }
            own = {"id": f"{one['number']}-{i}", "from_name": "kind", "type": "rectanglelabels", "value": value}
            result.append({**own, **whole_image})
        data = {**one["conditions"], "image": f"/data/local-files/?d={one['file']}", "note": one["note"]}
        tasks.append({"data": data, "annotations": [{"result": result}]})
    write_json(out / "tasks.json", tasks)


FORMATS: dict[str, Callable[[Iterable[dict[str, Any]], Path], None]] = {
    "folder": _manifest,
    "coco": _coco,
    "label-studio": _label_studio,
}
