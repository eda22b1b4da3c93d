"""The files in packaging/: what they start is a command of this version, by paths and users that exist in them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from knowngood.cli import build_app

HERE = Path(__file__).parents[1] / "packaging"
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
OWN = {name: one for name, one in COMPOSE["services"].items() if one["image"] == "knowngood"}


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command line, by the parser alone."""
    app: Any = typer.main.get_command(build_app())
    with app.make_context("knowngood", list(words), resilient_parsing=True) as context:
        name, command, rest = app.resolve_command(context, list(words))
        return {"command": name, **command.make_context(name, rest, parent=context).params}


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(HERE / "knowngood.service", encoding="utf-8")
    return found


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (HERE / name).read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def test_a_command_of_another_version_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["serve", "/models/parts", "--hots", "0.0.0.0"])


@pytest.mark.parametrize("name", OWN)
def test_services_start_commands_of_this_version(name: str) -> None:
    service = OWN[name]
    found = parsed(service["command"])
    assert found["command"] == {"server": "serve", "watch": "watch"}[name]
    mounted = {volume.rsplit(":", 1)[0] if volume.endswith(":ro") else volume for volume in service["volumes"]}
    places = {place.split(":")[-1]: place for place in mounted}
    written = [found["state"], found["keep"]]
    assert {f"/{Path(path).parts[1]}" for path in written} == {"/data"} <= set(places)
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    brokers = {re.match(r"mqtt://([^/]+)/", url)[1] for url in found["to"]}  # type: ignore[index]
    assert brokers <= set(COMPOSE["services"])


def test_prometheus_asks_a_service_that_is_there() -> None:
    (job,) = yaml.safe_load((HERE / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == "server:8000"
    assert "server" in OWN
    assert all(port.startswith("127.0.0.1:") for one in COMPOSE["services"].values() for port in one.get("ports", ()))


def test_files_that_are_mounted_or_copied_are_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (HERE / volume.split(":")[0]).is_file()
    root, kept = HERE.parent, (HERE.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in ("Dockerfile", "runtime.Dockerfile"):
        for what, words in instructions(name):
            if what == "COPY" and not words.startswith("--from"):
                for source in words.split()[:-1]:
                    assert (root / source).exists()
                    assert f"!{source}" in kept


@pytest.mark.parametrize("name", ["Dockerfile", "runtime.Dockerfile"])
def test_images_do_not_run_as_root(name: str) -> None:
    steps = instructions(name)
    assert ("USER", "10001") in steps
    assert [what for what, _ in steps][-2:] == ["ENTRYPOINT", "CMD"]
    assert any(what == "HEALTHCHECK" for what, _ in steps)


def test_the_image_starts_a_server_whose_health_is_asked_where_it_listens() -> None:
    steps = dict(instructions("Dockerfile"))
    found = parsed(json.loads(steps["CMD"]))
    assert (found["command"], found["host"]) == ("serve", "0.0.0.0")
    assert f"127.0.0.1:{found['port']}/healthz" in steps["HEALTHCHECK"]
    assert steps["EXPOSE"] == str(found["port"])


def test_torch_is_the_one_that_is_tested() -> None:
    pinned = re.search(r"^torch==\S+", (HERE.parent / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert any(
        pinned[0] in words and "download.pytorch.org/whl/cpu" in words for _, words in instructions("Dockerfile")
    )


def test_the_unit_starts_a_server_that_writes_where_it_may() -> None:
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"])
    found = parsed(words)
    assert (Path(program).name, found["command"]) == ("knowngood", "serve")
    assert Path(service["WorkingDirectory"]) == Path("/var/lib", service["StateDirectory"])
    for path in (found["keep"], found["state"]):
        assert path.is_relative_to(service["WorkingDirectory"])
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"


def test_without_the_packages_of_the_command_line_one_line_says_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["knowngood"].partition(":")
    for name in [name for name in sys.modules if name.startswith("knowngood.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as left:
        getattr(import_module(module), function)()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith("error: typer is not installed")
    assert "pip install knowngood" in said
    assert "python -m knowngood.runtime MODEL.onnx FOLDER" in said
    assert said.count("\n") == 1
