"""Sinks: each row once, also when a write was cut off, and what is down gets its rows later."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import hmac
import json
import math
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
import pytest

from knowngood.deploy import delivery as deliveries
from knowngood.deploy import sinks
from knowngood.deploy.delivery import Delivery
from knowngood.deploy.outbox import Outbox
from knowngood.deploy.sinks import Place, Rejected, Row, Sink, Unavailable, sink_of
from knowngood.deploy.sinks.opc_ua import typed
from knowngood.errors import ArtifactError, OutputError, SettingsError


def rows(first: int, stop: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{i}.png", "anomaly_score": i / 3, "is_anomalous": i % 2 == 0, "error": None, "key": f"k{i}"}
        for i in range(first, stop)
    ]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# CSV -----------------------------------------------------------------------------------------------------------------


def test_a_csv_that_was_cut_off_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    sink = sink_of(str(path))
    begin = sink.begin()
    place = sink.write(rows(0, 2), begin)
    first = path.read_bytes()
    sink.write(rows(2, 4), place)
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 9), len(first), len(whole)]:
        path.write_bytes(whole[:cut])
        if cut < len(first):
            sink.write(rows(2, 4), sink.write(rows(0, 2), begin))
        else:
            sink.write(rows(2, 4), place)
        assert path.read_bytes() == whole
    assert [float(row["anomaly_score"]) for row in read(path)] == [i / 3 for i in range(4)]


def test_a_csv_that_others_write_to_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("key,id\nold,old.png")  # without a line break at its end
    sink = sink_of(str(path))
    some = [{"id": "=1+1", "key": "a"}]
    place = sink.write(some, sink.begin())
    with path.open("a") as file:
        file.write("b,b.png\n")
    place = sink.write([{"id": "c.png", "key": "c", "error": None}], place)
    assert [(row["key"], row["id"]) for row in read(path)] == [
        ("old", "old.png"),
        ("a", "'=1+1"),
        ("b", "b.png"),
        ("c", "c.png"),
    ]
    with pytest.raises(Unavailable, match="no column error"):
        sink.write([{"id": "d.png", "key": "d", "error": "is cut off"}], place)
    path.unlink()  # taken away
    sink.write([{"id": "d.png", "key": "d", "error": "is cut off"}], place)
    assert [row["error"] for row in read(path)] == ["is cut off"]


# SQLite --------------------------------------------------------------------------------------------------------------


def test_a_table_takes_a_row_once_and_new_columns(tmp_path: Path) -> None:
    sink = sink_of(f"sqlite:///{tmp_path}/results.db")
    sink.write(rows(0, 3), sink.begin())
    sink.write([*rows(1, 4), {"key": "k9", 'a "new" one': [1, 2]}], {})
    with sqlite3.connect(tmp_path / "results.db") as base:
        found = base.execute('select key, anomaly_score, "a ""new"" one" from results order by key').fetchall()
    assert found == [*((f"k{i}", i / 3, None) for i in range(4)), ("k9", None, "[1, 2]")]


# Webhook -------------------------------------------------------------------------------------------------------------


class Receiver(HTTPServer):
    """Answers with the next of `answers`, then 200; keeps what it took."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.taken: list[tuple[Any, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.taken.append((self.headers, body))
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_is_signed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWNGOOD_WEBHOOK_SECRET", "s3cret")
    sink = sink_of(f"http://127.0.0.1:{receiver.server_port}/hook")
    sink.write(rows(0, 1), sink.begin())
    headers, body = receiver.taken[0]
    assert json.loads(body) == rows(0, 1)[0]
    signed = headers["X-Knowngood-Timestamp"].encode() + b"." + body
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert headers["X-Knowngood-Signature"] == f"sha256={expected}"
    assert headers["Idempotency-Key"] == "k0"


@pytest.mark.parametrize(
    ("status", "error"),
    [*((status, Unavailable) for status in (500, 429, 401, 404, 302)), (422, Rejected)],
)
def test_what_a_webhook_answers_says_whether_to_try_again(receiver: Receiver, status: int, error: Any) -> None:
    receiver.answers = [status]
    sink = sink_of(f"http://127.0.0.1:{receiver.server_port}/hook")
    with pytest.raises(error, match=f"status {status}"):
        sink.write(rows(0, 1), {})
    assert receiver.taken == []


def test_what_is_down_gets_its_rows_later_and_holds_up_nothing(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "FIRST", 0.001)
    receiver.answers = [503, 503, 422]  # down twice; then the first row is refused for good
    hook, table = f"http://127.0.0.1:{receiver.server_port}/hook", str(tmp_path / "results.csv")
    delivery = Delivery(Outbox(tmp_path / "state"), [sink_of(hook), sink_of(table)])
    delivery.add(rows(0, 3))  # before it runs
    delivery.start()
    delivery.add(rows(3, 5))
    while len(receiver.taken) < 4:
        threading.Event().wait(0.001)
    delivery.close()
    assert [json.loads(body)["key"] for _, body in receiver.taken] == ["k1", "k2", "k3", "k4"]
    assert [row["key"] for row in read(tmp_path / "results.csv")] == [f"k{i}" for i in range(5)]


def test_rows_wait_in_the_outbox_until_all_have_them(tmp_path: Path, receiver: Receiver) -> None:
    hook, table = f"http://127.0.0.1:{receiver.server_port}/hook", str(tmp_path / "results.csv")
    receiver.answers = [503]
    sinks = [sink_of(hook), sink_of(table)]
    first = Delivery(Outbox(tmp_path / "state"), sinks)
    first.add(rows(0, 3))
    with pytest.raises(Unavailable):
        first.deliver(sinks[0])
    assert first.deliver(sinks[1])
    first.outbox.close()
    again = Delivery(Outbox(tmp_path / "state"), sinks)
    again.start()
    again.close()
    assert len(receiver.taken) == 3
    assert len(read(tmp_path / "results.csv")) == 3
    with sqlite3.connect(tmp_path / "state") as base:
        assert base.execute("select count(*) from rows").fetchone() == (0,)


def test_rows_that_wait_for_one_sink_go_to_no_other(tmp_path: Path, receiver: Receiver) -> None:
    hook, table = f"http://127.0.0.1:{receiver.server_port}/hook", str(tmp_path / "results.csv")
    receiver.answers = [503]
    first = Delivery(Outbox(tmp_path / "state"), [sink_of(hook)])
    first.add(rows(0, 3))
    with pytest.raises(Unavailable):
        first.deliver(first.sinks[0])
    first.outbox.close()
    other = Delivery(Outbox(tmp_path / "state"), [sink_of(table)])
    other.add(rows(3, 5))
    other.start()
    other.close()
    assert [row["key"] for row in read(tmp_path / "results.csv")] == ["k3", "k4"]
    back = Delivery(Outbox(tmp_path / "state"), [sink_of(hook)])
    assert back.outbox.owed() == {hook: 5}
    back.start()
    back.close()
    assert [json.loads(body)["key"] for _, body in receiver.taken] == [f"k{i}" for i in range(5)]


def test_rows_that_a_sink_did_not_take_are_named_at_the_end(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    hook = f"http://127.0.0.1:{receiver.server_port}/hook"
    for answers in ([503] * 9, []):
        receiver.answers = answers
        delivery = Delivery(Outbox(tmp_path / "state"), [sink_of(hook)])
        delivery.add(rows(0, 3) if answers else [])
        delivery.start()
        delivery.close()
        said = [record for record in caplog.records if record.getMessage() == "rows wait for the next start"]
        assert len(said) == 1  # not once more where all were taken
    assert len(receiver.taken) == 3


def test_a_base_of_something_else_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"no base, but a text that is longer than a header" * 99)
    with pytest.raises(SettingsError, match=r"text\.db: holds something else"):
        sink_of(f"sqlite:///{tmp_path}/text.db").begin()
    with closing(sqlite3.connect(tmp_path / "other.db")) as base:
        base.execute("create table results (part text primary key)")
    with pytest.raises(SettingsError, match="its table 'results' is of something else"):
        sink_of(f"sqlite:///{tmp_path}/other.db").begin()
    sink = sink_of(f"sqlite:///{tmp_path}/mine.db")
    sink.write(rows(0, 2), sink.begin())
    assert sink.begin() == {}


def test_a_place_that_cannot_be_used_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with closing(Outbox(tmp_path / "state")) as outbox:
        with pytest.raises(OutputError, match=r"--to sqlite:///.*folder: .*; make it writable, or give another one"):
            Delivery(outbox, [sink_of(f"sqlite:///{tmp_path}/folder")])
        assert outbox.owed() == {}


@pytest.mark.parametrize("content", [b"id,anomaly_score\n1.png,3\n", b"\xff\xfe\x00"])
def test_a_file_of_something_else_is_refused_before_anything_is_judged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(SettingsError, match="holds something else"):
        sink_of(str(tmp_path / "results.csv")).begin()
    assert (tmp_path / "results.csv").read_bytes() == content


@pytest.mark.parametrize(
    "url",
    [
        *(
            "parquet://a",
            "results",
            "csv://a",
            "ftp://host/x",
            "sqlite://x",
            "mqtt://host",
            "mqtt://host/a/#",
            "opc.tcp://host/x",
            "opc-server://host/x",
            "opc-server://me:secret@host",
        ),
        *("https://", "https://me:secret@host/x"),
    ],
)
def test_other_sinks_are_refused_and_secrets_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="--to") as refusal:
        sink_of(url)
    assert "secret" not in str(refusal.value)


def test_a_sink_of_a_package_is_known_by_its_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wall(Sink):
        scheme = "wall"

        def __init__(self, url: str) -> None:
            self.url, self.shown = url, []

        def write(self, rows: Sequence[Row], place: Place) -> Place:
            self.shown += [row["id"] for row in rows]
            return place

    monkeypatch.setattr(sinks, "plugins", lambda group, base: {"sinks": (Wall,)}[group])
    sink = sink_of("wall://hall-3")
    assert isinstance(sink, Wall)
    delivery = Delivery(Outbox(tmp_path / "state"), [sink])
    with closing(delivery):
        delivery.start()
        delivery.add(rows(0, 3))
    assert sink.shown == ["0.png", "1.png", "2.png"]
    with pytest.raises(SettingsError, match="no such sink; did you mean 'wall'"):
        sink_of("wal://hall-3")
    with pytest.raises(TypeError):
        type("Half", (Sink,), {})("half://x")


def test_a_state_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no database, and long enough to be read as one" * 20)
    with pytest.raises(ArtifactError, match="another --state"):
        Outbox(tmp_path / "state")


# Parquet -------------------------------------------------------------------------------------------------------------


def test_a_folder_of_parquet_has_each_row_once_whatever_was_written_again(tmp_path: Path) -> None:
    sink = sink_of(str(tmp_path / "results.parquet"))
    begin = sink.begin()
    place = sink.write(rows(0, 3), begin)
    assert sink.write(rows(0, 3), begin) == place  # killed before its place was kept
    sink.write(rows(0, 5), begin)
    unread = {"id": "5.png", "anomaly_score": None, "is_anomalous": None, "error": "cut", "key": "k5", "note": None}
    place = sink.write([unread], place)
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert table["key"].tolist() == [f"k{i}" for i in range(6)]
    assert table["anomaly_score"].tolist()[:5] == [i / 3 for i in range(5)]
    assert table["is_anomalous"].tolist()[:5] == [True, False, True, False, True]
    assert table["is_anomalous"].isna().tolist() == [False] * 5 + [True]
    assert table["error"].isna().tolist() == [True] * 5 + [False]
    (tmp_path / "results.parquet" / "part-000000.parquet").unlink()  # moved away: begun again
    sink.write(rows(6, 7), place)
    assert pd.read_parquet(tmp_path / "results.parquet")["key"].tolist() == ["k6"]


@pytest.mark.slow
def test_parts_are_read_as_one_table_and_another_state_begins_a_new_part(tmp_path: Path) -> None:
    folder = tmp_path / "results.parquet"
    sink = sink_of(str(folder))
    place = sink.begin()
    nothing = {"error": None, "anomaly_score": None, "is_anomalous": None}
    for first in range(0, 10_000, 1000):  # nothing could be read: columns are of their types all the same
        place = sink.write([one | nothing for one in rows(first, first + 1000)], place)
    sink.write([one | {"error": "cut", "note": "wide"} for one in rows(10_000, 10_001)], place)
    again = sink_of(str(folder))
    again.write(rows(10_001, 10_002), again.begin())
    assert sorted(path.name for path in folder.iterdir()) == [f"part-00000{i}.parquet" for i in range(3)]
    found = pd.read_parquet(folder)
    assert found["key"].tolist() == [f"k{i}" for i in range(10_002)]
    assert found["anomaly_score"].tolist()[-2:] == [10_000 / 3, 10_001 / 3]
    assert found["error"].dropna().tolist() == ["cut"]


def test_a_folder_of_something_else_is_refused_and_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"table")
    (tmp_path / "b.parquet").mkdir()
    (tmp_path / "b.parquet" / "notes.txt").touch()
    for name, said in (("a", "is a file"), ("b", "holds other files, such as notes.txt")):
        with pytest.raises(SettingsError, match=said):
            sink_of(str(tmp_path / f"{name}.parquet")).begin()
    sink = sink_of(str(tmp_path / "c.parquet"))
    place = sink.write(rows(0, 1), sink.begin())
    part = tmp_path / "c.parquet" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(Unavailable, match=r"part-000000\.parquet: .*move it away"):
        sink.write(rows(1, 2), place)


# MQTT ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_arrive_at_a_broker_that_was_away_at_first() -> None:
    pytest.importorskip("paho.mqtt")
    broker = pytest.importorskip("amqtt.broker")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sink = sink_of(f"mqtt://127.0.0.1:{port}/line/results")
    with pytest.raises(Unavailable, match=rf"mqtt://127\.0\.0\.1:{port}/line/results"):
        sink.write(rows(0, 1), {})

    async def delivered() -> list[dict[str, Any]]:
        listener = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
        server = broker.Broker(
            {"listeners": listener, "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}}
        )
        await server.start()
        taken: list[bytes] = []
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        reader = mqtt_client.Client(mqtt_client.CallbackAPIVersion.VERSION2)

        def take(_: Any, __: Any, message: Any) -> None:
            taken.append(message.payload)
            if len(taken) == 5:
                loop.call_soon_threadsafe(heard.set)

        subscribed = threading.Event()
        reader.on_message, reader.on_subscribe = take, lambda *_: subscribed.set()
        await asyncio.to_thread(reader.connect, "127.0.0.1", port)
        reader.loop_start()
        reader.subscribe("line/#", qos=1)
        assert await asyncio.to_thread(subscribed.wait, 30)
        await asyncio.to_thread(sink.write, rows(0, 2), {})
        await asyncio.to_thread(sink.write, rows(2, 5), {})
        await asyncio.wait_for(heard.wait(), 30)
        await asyncio.to_thread(sink.close)
        reader.disconnect()
        reader.loop_stop()
        await server.shutdown()
        return [json.loads(one) for one in taken]

    from paho.mqtt import client as mqtt_client

    assert asyncio.run(delivered()) == rows(0, 5)


def test_a_broker_that_refuses_the_password_is_named() -> None:
    pytest.importorskip("paho.mqtt")

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"\x20\x02\x00\x05")  # CONNACK: not authorised

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, args=(listener,), daemon=True).start()
        sink = sink_of(f"mqtt://line:wrong@127.0.0.1:{listener.getsockname()[1]}/line/results")
        with pytest.raises(Unavailable, match=r"refuses the connection: Not authorized") as refusal:
            sink.write(rows(0, 1), {})
    assert "wrong" not in str(refusal.value)


# OPC UA --------------------------------------------------------------------------------------------------------------


def test_cells_are_of_the_type_of_their_variable() -> None:
    stamp = "2026-11-30T11:00:00.250+01:00"
    assert typed(stamp, "DateTime") == datetime(2026, 11, 30, 10, 0, 0, 250_000)
    assert typed(None, "DateTime") == datetime(1601, 1, 1)
    assert [typed(None, kind) for kind in ("String", "Boolean", "Int16")] == ["", False, 0]
    bounds = {"Byte": (0, 255), "SByte": (-128, 127), "UInt32": (0, 2**32 - 1), "Int64": (-(2**63), 2**63 - 1)}
    for kind, (low, high) in bounds.items():
        assert [typed(low, kind), typed(high, kind)] == [low, high]
        for beyond in (low - 1, high + 1):
            with pytest.raises(ValueError, match=str(beyond)):
                typed(beyond, kind)
    for value, kind in ((0.5, "DateTime"), ("1.png", "DateTime"), ("1.png", "Double"), ("a", "ByteString")):
        with pytest.raises((TypeError, ValueError)):
            typed(value, kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_latest_row_is_in_the_variables_of_an_object() -> None:
    sync = pytest.importorskip("asyncua.sync")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sink = sink_of(f"opc.tcp://127.0.0.1:{port}/ns=2;s=Inspection")
    with pytest.raises(Unavailable, match=rf"opc\.tcp://127\.0\.0\.1:{port}"):
        sink.write(rows(0, 1), {})
    server = sync.Server()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    server.register_namespace("https://line.example")
    place = server.nodes.objects.add_object("ns=2;s=Inspection", "2:Inspection")
    values: dict[str, Any] = {"id": "", "anomaly_score": 0.0, "is_anomalous": True, "error": "none", "speed": 7.0}
    values["time"] = datetime(2000, 1, 1)
    variables = {name: place.add_variable(f"ns=2;s={name}", f"2:{name}", value) for name, value in values.items()}
    for variable in variables.values():
        variable.set_writable()
    with server:
        with pytest.raises(Unavailable, match="no variable 'key'"):
            sink.write(rows(0, 1), {})
        variables["key"] = place.add_variable("ns=2;s=key", "2:key", "")
        variables["key"].set_writable()
        stamp = {"time": "2026-11-30T10:00:00.250+00:00"}
        sink.write([one | stamp for one in rows(0, 1)], {})
        sink.write([one | stamp for one in rows(1, 2)], {})
        found = {name: variable.read_value() for name, variable in variables.items()}
        sink.close()
        with pytest.raises(Unavailable, match="the variable time is a DateTime, which holds no 'noon'"):
            sink.write([one | {"time": "noon"} for one in rows(2, 3)], {})
    expected = {"id": "1.png", "anomaly_score": 1 / 3, "is_anomalous": False, "error": "", "speed": 7.0, "key": "k1"}
    assert found.pop("time").replace(tzinfo=None) == datetime(2026, 11, 30, 10, 0, 0, 250_000)
    assert found == expected


class Changes:
    """A subscription: the values that it received, in order."""

    def __init__(self) -> None:
        self.values: SimpleQueue[Any] = SimpleQueue()

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        self.values.put(value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_latest_row_is_served_with_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = pytest.importorskip("asyncua.sync")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"opc-server://127.0.0.1:{port}"
    sink, other = sink_of(url), sink_of(url)
    monkeypatch.setattr(sink, "every", 0.01)
    delivery = Delivery(Outbox(tmp_path / "state"), [sink])
    with closing(delivery), pytest.raises(Unavailable, match="does not run"):
        sink.write(rows(0, 1), {})
    delivery = Delivery(Outbox(tmp_path / "state"), [sink])
    with closing(delivery):
        delivery.start()
        with pytest.raises(SettingsError, match=rf"--to {url}: .*choose another port"):
            other.open()
        with sync.Client(f"opc.tcp://127.0.0.1:{port}") as client:
            at = client.get_namespace_index("urn:knowngood")
            place = client.nodes.objects.get_child([f"{at}:Inspection"])
            variables = {one.read_browse_name().Name: one for one in place.get_variables()}
            first = {name: variable.read_value() for name, variable in variables.items()}
            assert (first["result"], first["key"], first["count"], first["is_anomalous"]) == ("", "", 0, False)
            assert math.isnan(first["anomaly_score"])
            beats, keys = Changes(), Changes()
            for handler, name in ((beats, "heartbeat"), (keys, "key")):
                client.create_subscription(5, handler).subscribe_data_change(variables[name])
            assert beats.values.get(timeout=60) < beats.values.get(timeout=60)
            assert keys.values.get(timeout=60) == ""
            stamp = {"time": "2026-11-30T10:00:00.250+00:00", "model": "parts", "scored_by": "8d0c", "p_value": 0.25}
            for row, result in (
                (rows(0, 1)[0], "anomalous"),
                (rows(1, 2)[0], "normal"),
                ({**rows(2, 3)[0], "verdict": "unsure"}, "unsure"),
                (
                    {"id": "cut.png", "error": "cut", "anomaly_score": None, "is_anomalous": None, "key": "k3"},
                    "not read",
                ),
            ):
                delivery.add([row | stamp])
                assert keys.values.get(timeout=60) == row["key"]
                found = {name: variable.read_value() for name, variable in variables.items()}
                assert (found["result"], found["id"], found["model"]) == (result, row["id"], "parts")
                assert found["is_anomalous"] == bool(row["is_anomalous"])
                assert found["time"].replace(tzinfo=None) == datetime(2026, 11, 30, 10, 0, 0, 250_000)
            assert (found["count"], found["error"]) == (4, "cut")
            assert math.isnan(found["anomaly_score"])
            with pytest.raises(Exception, match=r"BadUserAccessDenied|BadNotWritable"):
                variables["result"].write_value("normal")
