"""What a run depends on of its data: their content, or what stands for it."""

from __future__ import annotations

import hashlib
from typing import Any

from knowngood.data.itemset import ItemSet
from knowngood.data.pixel_source import FilePixels


def data_digest(items: ItemSet) -> str:
    """SHA-256 over ids, labels, conditions and the content of items; of files that lie on disk, and of videos, size and
    time stand for the content, of objects in a store size and version.
    """
    pixels: Any = getattr(items, "pixels", None)
    digest = hashlib.sha256()
    for name in items.ids.tolist():
        digest.update(f"{name}\n".encode("utf-8", "surrogatepass"))
    if hasattr(pixels, "stamps"):
        digest.update("\n".join(pixels.stamps()).encode("utf-8", "surrogatepass"))
        return _with_columns(digest, items)
    if not isinstance(pixels, FilePixels) or pixels.owner is not None:
        digest.update(items.fingerprint().encode())
        return digest.hexdigest()
    for path in pixels.paths:
        try:
            found = path.stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"missing\n")
    return _with_columns(digest, items)


def _with_columns(digest: Any, items: ItemSet) -> str:
    digest.update(items.labels.tobytes())
    for column, values in sorted(items.conditions.items()):
        digest.update(f"{column}\n{values.tolist()}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
