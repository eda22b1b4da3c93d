"""Builds wheel and sdist, and tries the wheel as a new user would: `make dist`.

The wheel is installed into a bare environment. There, without the package index, two lines of Python run on the
embedded digits, what needs an extra names it, and packages, import and help are counted and timed. By-products:
dist/sbom.cdx.json (CycloneDX) and dist/licences.csv.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
TWO_LINES = """
from knowngood import Detector
print(Detector("hog", "memory_bank").fit("digits").detect("digits").is_anomalous.mean())
"""
MISSING = {
    "export": "from knowngood import Detector; from knowngood.deploy.onnx_graph import export; "
    "export(Detector('hog', 'memory_bank').fit('digits'), 'a.onnx')",
    "distributed": "from knowngood import Detector; Detector('hog', 'vae', training={'devices': 2}).fit('digits')",
    "serve": "import sys; from knowngood.cli import main; main(['serve', 'nothing'])",
}
PACKAGES, IMPORT, HELP = 41, 0.3, 0.5  # at most: packages that come with knowngood, seconds
REPEATED = 5
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "HF_HUB_OFFLINE": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


def run(*words: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, in an empty folder, with what it printed."""
    env = {**os.environ, **environment}
    env.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run([str(word) for word in words], cwd=empty, env=env, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done


def environment(folder: Path) -> tuple[Path, Path]:
    """A new environment: its Python and its folder of commands."""
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    return commands / "python", commands


def seconds(*words: str | Path) -> float:
    """Median of the processor time that a command takes, less that of Python itself."""

    def once(*words: str | Path) -> float:
        before = os.times()
        run(*words, **OFFLINE)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return statistics.median(once(*words) for _ in range(REPEATED))


def main() -> int:
    """Build, install, try; the exit status is 1 if something is not as it should be."""
    started, problems = time.perf_counter(), []
    constraints = ROOT / "constraints.txt"
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        tools, _ = environment(Path(folder) / "tools")
        run(tools, "-m", "pip", "install", "-q", "--constraint", constraints, "build", "cyclonedx-bom", "pip-licenses")
        run(tools, "-m", "build", "--outdir", DIST, ROOT)
        wheel = next(DIST.glob("*.whl"))
        python, commands = environment(Path(folder) / "bare")
        run(python, "-m", "pip", "install", "-q", "--constraint", constraints, wheel)
        listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.splitlines()
        packages = [line for line in listed if not line.startswith(("pip==", "setuptools==", "knowngood"))]
        run(tools, "-m", "cyclonedx_py", "environment", "--output-reproducible", "-o", DIST / "sbom.cdx.json", python)
        licences = run(tools, "-m", "piplicenses", f"--python={python}", "--format=csv").stdout
        (DIST / "licences.csv").write_text(licences, encoding="utf-8")

        print(f"two lines, offline: share flagged {run(python, '-c', TWO_LINES, **OFFLINE).stdout.strip()}")
        for extra, line in MISSING.items():
            said = run(python, "-c", line, check=False, **OFFLINE)
            named = f"knowngood[{extra}]" in said.stdout + said.stderr
            problems += [] if named else [f"extra {extra}: not named when it is missing:\n{said.stderr[-600:]}"]
        bare = seconds(python, "-c", "pass")
        for what, most, words in (
            ("import knowngood", IMPORT, (python, "-c", "import knowngood")),
            ("knowngood --help", HELP, (commands / "knowngood", "--help")),
        ):
            taken = seconds(*words) - bare
            print(f"{what}: {taken:.2f} s, at most {most} s")
            problems += [] if taken <= most else [f"{what} takes {taken:.2f} s of processor time, more than {most} s"]
        print(f"packages: {len(packages)}, at most {PACKAGES}")
        problems += [] if len(packages) <= PACKAGES else [f"{len(packages)} packages: {', '.join(packages)}"]
    print(f"{', '.join(sorted(path.name for path in DIST.iterdir()))}; {time.perf_counter() - started:.0f} s")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
