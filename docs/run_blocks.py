"""Runs the code blocks of the pages, in order, each page in a folder of its own with small generated parts.

    python docs/run_blocks.py             # all pages; those that did not change since they last ran are left out
    python docs/run_blocks.py docs/guide/inspection.md

A line before a block says what is special about it; it is not shown:

    <!-- file: ignore.yaml -->            the block is the content of a file
    <!-- quick: --epochs 1 -->            options that are added to `knowngood train` in the block
    <!-- quick: size=256 => size=64 -->   a text of the block that is replaced
    <!-- needs plugin -->                 run in a process that finds the example plug-in
    <!-- not run: REASON -->

So that the whole takes minutes, features are computed at about 96² pixels an image, not at 384² as by default. Lines
that install, serve or take hours are left out and named; `make dist` and the tests run these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "out" / "docs-cache"
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<kind>bash|python|yaml)\n(?P<text>.*?)^```$", re.M | re.S)
SIDE = 96  # pixels
MODEL = Path("runs", "parts")  # that a page finds
GIVEN = MODEL.with_name(".given")  # is there until it makes one
ENDS = {"monitor": (0, 5)}  # exit statuses that are fine; of all others 0
LEFT = {
    "pip ": "installs",
    "make ": "installs",
    "hf ": "needs a network",
    "curl ": "needs a server",
    "knowngood demo": "takes minutes; make demo runs it",
    "knowngood serve": "runs until it is stopped",
    "knowngood watch": "runs until it is stopped",
    "python -m benchmarks": "takes long, or needs data",
    "docker ": "needs Docker",
    "MODELS=": "needs Docker",
    "sudo ": "needs systemd",
    "systemd-": "needs systemd",
    "knowngood push": "needs a network",
    "knowngood pull": "needs a network",
    "torchrun": "needs several devices",
    "srun": "needs several devices",
}
STORE = re.compile(r"\b(s3|ray)://")


@dataclass(frozen=True)
class Block:
    """A fenced block: bash, python or yaml, with the note before it."""

    kind: str
    text: str
    note: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run or written."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["kind"], one["text"], one["note"] or "") for one in found]


def make_small() -> None:
    """Features of fewer pixels by default."""
    from knowngood.representations import features, tiled

    features.AREA, tiled.LEAST_SEEN = SIDE * SIDE, SIDE


def prepared(folder: Path) -> Path:
    """The base folder: generated parts as the pages call them, and a model of them."""
    from workspace import prepare

    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        make_small()
        prepare(run_command)
        (folder / "ready").touch()
    return folder


def run_command(line: str) -> None:
    """A command line of knowngood, or of Python, in this process or below it.

    Raises:
        RuntimeError: it ends with another status than 0.
    """
    from knowngood.cli import main

    words = shlex.split(line, comments=True)
    if words[:1] != ["knowngood"]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `python` is this one
        environment = {**os.environ, "PATH": path}
        subprocess.run(["bash", "-ec", line], check=True, capture_output=True, text=True, env=environment)
        return
    status: Any = 0
    try:
        main(words[1:])
    except SystemExit as end:
        status = end.code or 0
    if status not in ENDS.get(words[1], (0,)):
        raise RuntimeError(f"exit status {status}: {line}")


def run_block(block: Block, names: dict[str, Any]) -> set[str]:
    """One block, in the folder at hand; Python blocks of a page share their names. Gives why lines were left out."""
    what, _, value = block.note.partition(": ")
    if what == "not run":
        return {value}
    if block.kind == "yaml":
        name = value if what == "file" else "".join(re.findall(r"^# (\S+\.yaml)", block.text)[:1])
        if name:
            Path(name).write_text(block.text, encoding="utf-8")
        return set()
    if what == "needs plugin":
        run_with_plugin(block.text)
        return set()
    if block.kind == "python":
        exec(compile(block.text, "<block>", "exec"), names)
        return set()
    old, changed, new = value.partition(" => ")
    text = block.text.replace(old, new) if changed else block.text
    left = set()
    for line in text.replace("\\\n", " ").splitlines():
        why = next((why for start, why in LEFT.items() if line.startswith(start)), "")
        why = "needs an object store or a cluster" if STORE.search(line) else "" if " --once" in line else why
        if why:
            left.add(why)
        elif line.startswith("knowngood data write") and Path(re.sub(r"\s+#.*", "", line).split()[-1]).exists():
            left.add("the folder is there")
        elif line.strip() and not line.startswith("#"):
            if line.startswith("knowngood train") and re.search(r"--out runs/parts(\s|$)", line) and GIVEN.exists():
                GIVEN.unlink()
                shutil.rmtree(MODEL)  # the page makes the model itself, once
            quick = f" {value}" if what == "quick" and not changed and line.startswith("knowngood train") else ""
            run_command(re.sub(r"\s+#.*", "", line) + quick)
    return left


def run_with_plugin(program: str) -> None:
    """A program in a process that finds the example plug-in beside the library."""
    with tempfile.TemporaryDirectory() as target:
        source = Path(target) / "source"
        shutil.copytree(ROOT / "docs" / "guide" / "plugin_example", source)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", target]
        subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True)
        path = os.pathsep.join([target, *sys.path])
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)


def run_page(page: Path, base: Path) -> tuple[str, list[str], str]:
    """Seconds, why lines were left out, and the error with what was printed before it."""
    os.environ.pop("KNOWNGOOD_DATA", None)
    started, used, left, error, printed = time.perf_counter(), sum(os.times()[:4]), set[str](), "", StringIO()
    make_small()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        os.chdir(folder)
        GIVEN.touch()
        names: dict[str, Any] = {"__name__": "page"}
        for block in blocks(page):
            try:
                with redirect_stdout(printed), redirect_stderr(printed):
                    left |= run_block(block, names)
            except BaseException as problem:
                said = getattr(problem, "stderr", "") or ""
                error = f"{block.text}\n{printed.getvalue()[-1500:]}\n{said}{type(problem).__name__}: {problem}"
                break
        os.chdir(ROOT)
    seconds, of_core = time.perf_counter() - started, sum(os.times()[:4]) - used
    return f"{seconds:6.1f} s ({of_core:5.1f} s of a core)", sorted(left), error


def digest(*paths: Path) -> str:
    """Of the content of files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def main() -> int:
    """Run pages; the exit status is 1 if a block fails."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of several processes at a time
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [page.resolve() for page in given.pages] or [page for page in pages if "notebooks" not in page.parts]
    source = digest(*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.py"))
    base, memory = CACHE / f"parts-{source[:12]}", CACHE / "blocks.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    wanted = {page: f"{source}{digest(page)}" for page in pages if blocks(page)}
    todo = [page for page, mark in wanted.items() if given.pages or known.get(str(page)) != mark]
    failed = 0
    prepared(base)
    # Forked workers would wait for ever: the threads of torch that made the base are not theirs.
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for page, (seconds, left, error) in zip(todo, pool.map(run_page, todo, [base] * len(todo)), strict=True):
            print(
                f"{seconds}  {page.relative_to(ROOT)}" + "".join(f"; left out: {why}" for why in left),
                flush=True,
            )
            if error:
                failed += 1
                print(f"FAILS {page.relative_to(ROOT)}\n{error}\n", flush=True)
            else:
                known[str(page)] = wanted[page]
                memory.write_text(json.dumps(known))
    print(f"{len(todo)} pages run, {len(wanted) - len(todo)} as before, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
