"""The sizes of what an image installs: `python packaging/sizes.py [EXTRA…]`, from the packages that are installed here.

Without extras the sub-package `knowngood.runtime`: knowngood itself, NumPy, Pillow and ONNX Runtime, nothing else.
The second sum is without bytecode and without what `trim.sh` removes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

RUNTIME = ("numpy", "pillow", "onnxruntime")
TRIMMED = re.compile(
    r"(^|/)(tests|__pycache__)/|^torch/(include|share|test)/|^torch/bin/(?!torch_shm_manager)"
    r"|^onnxruntime/(tools|transformers|quantization)/|^\.\./"
)
SOURCE = Path(__file__).parents[1] / "src"


def needed(extras: list[str]) -> dict[str, Distribution]:
    """The packages that knowngood needs with these extras, by name, without itself."""
    found: dict[str, Distribution] = {}
    waiting = [("knowngood", tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        try:
            one = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed here: install knowngood with these extras first")
        for text in one.requires or ():
            part = Requirement(text)
            if part.marker is None or any(part.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                key = part.name.lower().replace("_", "-")
                if key not in found:
                    waiting.append((part.name, tuple(part.extras)))
        if name != "knowngood":
            found[name.lower().replace("_", "-")] = one
    return found


def sizes(files: Iterable[tuple[str, Path]]) -> tuple[float, float]:
    """MB of files, and of those that are kept."""
    found = [(name, path.stat().st_size / 1e6) for name, path in files if path.is_file()]
    return sum(size for _, size in found), sum(size for name, size in found if not TRIMMED.search(name))


def main(extras: list[str]) -> None:
    packages = needed(extras) if extras else {name: distribution(name) for name in RUNTIME}
    rows = {
        name: sizes((str(file), Path(str(one.locate_file(file)))) for file in one.files or ())
        for name, one in packages.items()
    }
    rows["knowngood"] = sizes((path.relative_to(SOURCE).as_posix(), path) for path in SOURCE.rglob("*"))
    for name, (whole, trimmed) in sorted(rows.items(), key=lambda row: -row[1][0])[:10]:
        print(f"{whole:8.1f} MB, {trimmed:7.1f} trimmed  {name}")
    whole, trimmed = map(sum, zip(*rows.values(), strict=True))
    print(f"{whole:8.1f} MB, {trimmed:7.1f} trimmed  all {len(rows)} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
