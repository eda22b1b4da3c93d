"""Requests to the server: changed pictures, fields and bodies. It answers each, and never with an error of its own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutations import HOSTILE_TEXT, Rng, mutated
from benchmarks.fuzz.targets import HOSTILE_NAMES, SIDE, Fault, Target, pictures
from knowngood import Detector
from knowngood.errors import DataError

ANSWERS = (200, 400, 404, 413, 422)  # of a server that nobody else uses
FIELDS = {
    "model": ("served",),
    "conditions": ('{"camera": "A"}', '{"camera": null}', '{"camera": "new"}', '{"camera": ["A", "B"]}', "{}"),
    "alpha": ("0.2", "0.5", "1e-9"),
    "unknown": ("infer", "error"),
    "maps": ("false", "true"),
    "x": ("y",),
}
PATHS = ("/v1/score", "/v1/score", "/v1/explain", "/page/judge", "/v1/score?alpha=0.3&model=served", "/v1/score?x=%ff")


def requests() -> Target:
    """A multipart form of pictures and fields, some of them changed, and now and then the bytes of the form itself."""
    from tempfile import mkdtemp

    from starlette.testclient import TestClient

    from knowngood.deploy.judged_store import JudgedStore
    from knowngood.deploy.served_models import load_models
    from knowngood.deploy.server import ServerOptions, create_app

    place = Path(mkdtemp(prefix="fuzz-served-"))
    images = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE), dtype=np.uint8)
    camera = {"camera": np.repeat(["A", "B"], 20)}
    hog = {"name": "hog", "grey": True, "image_size": (SIDE, SIDE)}
    detector = Detector(hog, "memory_bank", alpha=0.2, conditioning={"unknown": "infer"})
    detector.fit(images, conditions=camera).save(place / "served")
    store = JudgedStore(place / "judged", most=100)
    options = ServerOptions(body=200_000, store=store)
    models, files = load_models([str(place / "served")]), pictures()

    def make(folder: Path, rng: Rng) -> None:
        body, boundary = io.BytesIO(), str(rng.choice(["b", "x" * 70, "-", "b"]))
        for _ in range(rng.integers(1, 4)):
            name = str(rng.choice(list(files)))
            data = mutated(files[name], rng) if rng.random() < 0.5 else files[name]
            shown = str(rng.choice(np.array([name, name, *HOSTILE_NAMES], object)))
            part(body, boundary, "images" if rng.random() < 0.9 else str(rng.choice(["image", "x", ""])), data, shown)
        for _ in range(rng.integers(0, 3)):
            field, own = str(rng.choice(list(FIELDS))), rng.random() < 0.7
            value = str(rng.choice(np.array(FIELDS[field] if own else HOSTILE_TEXT, object)))
            part(body, boundary, field, value.encode("utf-8", "surrogatepass"))
        body.write(f"--{boundary}--\r\n".encode())
        data = body.getvalue()
        (folder / "body").write_bytes(mutated(data, rng) if rng.random() < 0.2 else data)
        kind = f"multipart/form-data; boundary={boundary}"
        kind = str(rng.choice([*[kind] * 17, "multipart/form-data", "application/json", "text/plain"]))
        (folder / "how.json").write_text(json.dumps({"path": str(rng.choice(PATHS)), "kind": kind}))

    def check(folder: Path) -> None:
        how = json.loads((folder / "how.json").read_text())
        headers = {"Content-Type": how["kind"]}
        with TestClient(create_app(models, options), raise_server_exceptions=False) as client:
            answer = client.post(how["path"], content=(folder / "body").read_bytes(), headers=headers)
        if answer.status_code not in ANSWERS:
            raise Fault(f"status {answer.status_code}: {answer.text[:300]}")
        content = answer.json()
        if answer.status_code == 200:
            if not content["rows"]:
                raise Fault("no row")
            return
        raise DataError(str(content["detail"]))

    return Target(make, check)


def part(body: io.BytesIO, boundary: str, name: str, data: bytes, filename: str | None = None) -> None:
    """One part of a form."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
    head += "" if filename is None else f'; filename="{filename}"'
    body.write(head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + data + b"\r\n")
