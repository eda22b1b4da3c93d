"""The command `serve` as it is run: under more requests than it takes, and ended gently."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from knowngood import Detector
from knowngood.cli import main
from knowngood.deploy.judged_store import JudgedStore

SIDE = 12
REQUESTS, THREADS = 240, 16


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def body() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(file, "PNG")
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    return head + file.getvalue() + b"\r\n--b--\r\n"


@pytest.mark.slow
def test_every_accepted_request_is_answered_although_the_server_is_ended(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE), dtype=np.uint8)
    Detector("hog", "memory_bank", alpha=0.2).fit(pictures).save(tmp_path / "parts")
    command = [sys.executable, "-m", "knowngood", "serve", str(tmp_path / "parts"), "--port", "0", "--queue", "8"]
    command += ["--to", str(tmp_path / "results.csv"), "--state", str(tmp_path / "state")]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.stderr is not None
    log = [json.loads(server.stderr.readline())]
    assert log[0]["event"] == "listening"
    form, statuses, half = body(), {}, threading.Event()
    numbers = iter(range(REQUESTS))

    def ask() -> None:
        for i in numbers:
            if i == REQUESTS // 2:
                half.set()
            headers = {"X-Request-ID": f"r{i}", "Content-Type": "multipart/form-data; boundary=b"}
            request = urllib.request.Request(f"{log[0]['url']}/v1/score", form, headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert len(json.load(answer)["rows"]) == 1
                    statuses[f"r{i}"] = answer.status
            except urllib.error.HTTPError as error:
                statuses[f"r{i}"] = error.code if error.headers["Retry-After"] else 1
            except OSError:  # no longer listening
                statuses[f"r{i}"] = 0

    reader = threading.Thread(target=lambda: log.extend(map(json.loads, server.stderr or ())))
    reader.start()
    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    assert half.wait(120)
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(120)
    assert server.wait(60) == 0
    reader.join(60)
    accepted = {line["request_id"] for line in log if line["event"] == "accepted"}
    assert len(accepted) > THREADS
    assert {statuses[name] for name in accepted} == {200}
    assert set(statuses.values()) == {0, 200, 503}
    assert log[-1]["event"] == "stopped"
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + len(accepted)
    with closing(JudgedStore(tmp_path / "parts-judged")) as store:
        assert store.counts()["judged"] == len(accepted)


def test_wrong_starts_are_refused_before_a_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", tmp_path, "--keys", tmp_path / "keys") == 2
    assert "make one with --new-key NAME" in capsys.readouterr().err
    assert run("serve", tmp_path, "--new-key", "a") == 2
    assert run("serve", tmp_path, "--keys", tmp_path / "keys", "--new-key", "a b") == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run("serve", tmp_path, "--port", taken.getsockname()[1]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert run("serve", tmp_path, "--host", "a" * 80) == 2
    assert "choose another --port or --host" in capsys.readouterr().err
    assert run("serve", tmp_path, "--port", "0", "--to", "results.xlsx") == 2
    assert "--to results.xlsx: no such sink" in capsys.readouterr().err
    assert run("serve", tmp_path, "--port", "0") == 3
    assert "is no saved model" in capsys.readouterr().err


@pytest.mark.slow
def test_answers_are_sent_without_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    found: list[int] = []

    async def accepted(listener: socket.socket) -> None:
        done = asyncio.Event()

        async def one(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        async with await asyncio.start_server(one, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            await done.wait()
            writer.close()

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: asyncio.run(accepted(sockets[0])))
    pictures = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE), dtype=np.uint8)
    Detector("hog", "memory_bank", alpha=0.2).fit(pictures).save(tmp_path / "parts")
    assert run("serve", tmp_path / "parts", "--port", "0", "--no-keep") == 0
    assert found
    assert found[0]


def test_a_new_key_is_printed_once_and_kept_as_a_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    assert run("serve", tmp_path, "--keys", file, "--new-key", "camera-1") == 0
    key = capsys.readouterr().out.strip()
    assert len(key) >= 40
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
