"""push and pull, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowngood import Detector
from knowngood.cli import main
from knowngood.detector.versions import fingerprint, in_use, versions
from knowngood.errors import ArtifactError, OutputError, SettingsError

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

constants = pytest.importorskip("huggingface_hub.constants")
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory. asked: method and path of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.asked: list[str] = []
        self.agents: set[str] = set()


class Answer(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def send(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self) -> None:
        own, path = self.server, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        own.asked.append(f"{self.command} {path}")
        own.agents.add(self.headers.get("User-Agent", ""))
        repository = "/factory/parts"
        if path == "/api/repos/create":
            given = json.loads(body)
            existed, private = own.private is not None, given.get("private") or given.get("visibility") == "private"
            own.private = own.private if existed else bool(private)
            self.send({"url": f"{own.url}{repository}"}, 409 if existed else 200)
        elif path == "/api/validate-yaml":
            self.send({"errors": [], "warnings": []})
        elif path == f"/api/models{repository}/preupload/main":
            files = json.loads(body)["files"]
            self.send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif path == f"/api/models{repository}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    own.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del own.files[line["value"]["path"]]
            self.send({"success": True, "commitOid": SHA, "commitUrl": f"{own.url}{repository}/commit/{SHA}"})
        elif path.startswith(f"/api/models{repository}/tree"):
            self.send([{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in own.files.items()])
        elif path.startswith(f"/api/models{repository}") and own.private is not None:
            names = [{"rfilename": name} for name in own.files]
            self.send({"id": "factory/parts", "private": own.private, "sha": SHA, "siblings": names, "tags": []})
        elif path.startswith(f"{repository}/resolve/") and path.rsplit("/", 1)[1] in own.files:
            content = own.files[path.rsplit("/", 1)[1]]
            self.send(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=SHA)
        else:
            self.send({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_GET = do_POST = do_HEAD = do_PUT = answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as own:
        own.url = f"http://127.0.0.1:{own.server_port}"
        threading.Thread(target=own.serve_forever, daemon=True).start()
        place = {
            "ENDPOINT": own.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": own.url + "/{repo_id}/resolve/{revision}/{filename}",
        }
        for name, value in {**place, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield own
        own.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12), dtype=np.uint8)
    return Detector("hog", "memory_bank", alpha=0.2).fit(images).save(tmp_path_factory.mktemp("hub") / "model")


def test_a_model_that_was_pushed_and_pulled_is_the_same(
    server: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["push", str(model), "factory/parts"])
    assert server.private
    assert f"pushed  {server.url}/factory/parts, commit {SHA[:12]}" in capsys.readouterr().out
    own = {path.name for path in in_use(model).iterdir()}
    assert set(server.files) == own | {"README.md"}
    page = server.files["README.md"].decode()
    assert page.startswith("---\nlibrary_name: knowngood\n")
    assert (in_use(model) / "card.md").read_text(encoding="utf-8").rstrip() in page
    for number in (1, 2):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["pull", "factory/parts", str(tmp_path / "parts")])
        assert len(versions(tmp_path / "parts")) == number
    assert fingerprint(in_use(tmp_path / "parts")) == fingerprint(in_use(model))
    assert {path.name for path in in_use(tmp_path / "parts").iterdir()} == own
    assert not [one for one in server.asked if "telemetry" in one]


def test_what_was_changed_on_the_hub_is_refused(server: Hub, model: Path, tmp_path: Path) -> None:
    from knowngood.deploy.hub import pull, push

    push(model, "factory/parts")
    server.files["scores.safetensors"] = server.files["weights.safetensors"][:-1] + b"?"
    server.files["run.py"] = b"raise SystemExit"
    with pytest.raises(ArtifactError):
        pull("factory/parts", tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []
    assert not [one for one in server.asked if one.endswith("run.py")]
    del server.files["config.json"]
    with pytest.raises(ArtifactError, match=r"factory/parts is no model of knowngood: it has no config.json"):
        pull("factory/parts", tmp_path / "parts")


def test_a_public_repository_gets_nothing_unless_that_is_meant(server: Hub, model: Path) -> None:
    from knowngood.deploy.hub import push

    server.private = False
    with pytest.raises(SettingsError, match="factory/parts is public on the hub; give --public"):
        push(model, "factory/parts")
    assert server.files == {}
    push(model, "factory/parts", public=True)
    assert "config.json" in server.files


def test_offline_wrong_names_and_what_is_not_there(
    server: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from knowngood.deploy.hub import pull, push

    with pytest.raises(SettingsError, match="'parts' is no name on the hub; expected OWNER/NAME"):
        pull("parts", tmp_path / "parts")
    with pytest.raises(OutputError, match=r"factory/other: the hub answers .*Is the name right, and HF_TOKEN set?"):
        pull("factory/other", tmp_path / "parts")
    asked = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for act in (lambda: pull("factory/parts", tmp_path / "parts"), lambda: push(model, "factory/parts")):
        with pytest.raises(SettingsError, match="HF_HUB_OFFLINE is set"):
            act()
    assert len(server.asked) == asked


def test_a_hub_that_is_not_there(server: Hub, model: Path) -> None:
    from knowngood.deploy.hub import push

    server.shutdown()
    server.server_close()
    with pytest.raises(OutputError, match=r"factory/parts: the hub answers .*refused"):
        push(model, "factory/parts")
