"""An object store for tests: moto's S3 on loopback, and the same images as a folder, shards, parquet and objects."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BUCKET = "parts"


def pictures(n: int, seed: int = 0, side: int = 16) -> np.ndarray:
    """(n, side, side) uint8: a bright square on noise, at a place that differs a little."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 60, (n, side, side), dtype=np.uint8)
    for one, shift in zip(found, rng.integers(0, 3, n), strict=True):
        one[4 + shift : 10 + shift, 4:10] += 150
    return found


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(
    path: Path, files: dict[str, bytes], labels: list[int] | None = None, names: tuple[str, ...] = (), rows: int = 4
) -> Path:
    """As Hugging Face datasets write: structs of bytes and path, and a ClassLabel."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [{"bytes": content, "path": name} for name, content in files.items()]}
    table = pa.table(columns if labels is None else {**columns, "label": labels})
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata if names else None), path, row_group_size=rows)
    return path


@contextmanager
def s3_server() -> Iterator[str]:
    """A server of S3 on loopback with an empty bucket; the environment says where it is."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(BUCKET)
            yield f"s3://{BUCKET}"
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()


def ray_answers(text: object) -> None:
    """Skip the test if Ray gave up on a machine too busy to start it: it waits 30 s for its own processes."""
    if "timed out during startup" in str(text):
        pytest.skip("this machine is too busy to start Ray in time")


def upload(url: str, files: dict[str, bytes]) -> str:
    """Put objects below a URL."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    for name, content in files.items():
        fs.pipe_file(f"{root}/{name}", content)
    return url
