"""Streams of a real server: over cuts and restarts, to slow readers, and when nobody reads."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time

import httpx2
import psutil
import pytest

from cutting_proxy import CuttingProxy
from penstock.cli.projects import packed
from penstock.client import Client
from penstock.domain.errors import Invalid, NotFound
from postgres_database import fresh_database
from server_process import KEY, ServerProcess
from waiting import wait_until

CODE = """
import json, os, time, urllib.request
from pathlib import Path
from penstock import step


def agent(given):
    what = given["what"]
    if what == "steps":
        for number in range(given["count"]):
            step("walk", time.sleep, given["seconds"])
        return "walked"
    if what == "ask":
        base = os.environ["OPENAI_BASE_URL"]
        body = {"model": "main", "messages": [{"role": "user", "content": "?"}]}
        request = urllib.request.Request(
            base + "/chat/completions", json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": "Bearer x"},
        )
        return urllib.request.urlopen(request).read().decode()
    if what == "wait":
        time.sleep(600)


def talk(given):
    for number in range(given["count"]):
        time.sleep(given["seconds"])
        yield f"{number} "
    step("said", int)
    while not Path(given["go"]).exists():
        yield "."
        time.sleep(0.05)
"""


def deployed(server, folder, name, entrypoint, models=""):
    project = folder / name
    project.mkdir()
    (project / "penstock.yaml").write_text(f"agent: {name}\nentrypoint: app:{entrypoint}\n{models}")
    (project / "app.py").write_text(CODE)
    with server.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy(name, ref=cut["release"]["digest"])


@pytest.fixture(scope="module")
def hanging():
    """A provider that never answers; (its address, whether its last client has left)."""
    listening = socket.create_server(("127.0.0.1", 0))
    calls = []

    def serve():
        while True:
            try:
                end, _ = listening.accept()
            except OSError:
                return
            left = threading.Event()
            arrived = end.recv(65536)
            calls.append(left)

            def wait(end=end, left=left):
                with contextlib.suppress(OSError):
                    while end.recv(65536):
                        pass
                left.set()

            if arrived:
                threading.Thread(target=wait, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", calls
    listening.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, hanging):
    folder = tmp_path_factory.mktemp("streams")
    providers = json.dumps({"hanging": {"base_url": hanging[0]}})
    found = ServerProcess(folder / "home", environment={"PENSTOCK_PROVIDERS": providers})
    found.start()
    deployed(found, folder, "walker", "agent", "models: {main: [hanging/h-2026-01-01]}\n")
    deployed(found, folder, "talker", "talk")
    yield found
    found.stop()


def test_every_event_comes_once_over_twenty_cuts_and_a_restart(server):
    with server.client() as client:
        given = {"what": "steps", "count": 160, "seconds": 0.1}
        task = client.create_task(agent="walker", input=given)["id"]
    seen = []
    with CuttingProxy(server.port) as proxy, Client(proxy.url, KEY) as reader:
        over = threading.Event()

        def spoil():
            cuts = 0
            while not over.wait(0.25):
                if cuts == 10:
                    server.kill()
                    server.start()
                if seen and seen[-1]["event"] != "end":
                    proxy.cut()
                    cuts += 1

        spoiling = threading.Thread(target=spoil)
        spoiling.start()
        try:
            for item in reader.stream(task):
                seen.append(item)  # noqa: PERF402 - the other thread looks at it meanwhile
        finally:
            over.set()
            spoiling.join()
        assert proxy.connections > 20
    numbers = [item["id"] for item in seen if item["id"] is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    steps = [item["data"]["data"]["key"] for item in seen if item["event"] == "step"]
    assert steps == [f"walk#{number}" for number in range(1, 161)]
    assert seen[-1] == {
        "id": None,
        "event": "end",
        "data": {"state": "completed", "outcome": "ok", "last": numbers[-1]},
    }
    assert [item["event"] for item in seen].count("end") == 1
    restarts = [item["data"]["data"] for item in seen if item["event"] == "step.restarted"]
    assert [restart["epoch"] for restart in restarts] == [2]


def raw_lines(server, task, headers=None, **parameters):
    """The lines of a stream as they are on the wire."""
    with httpx2.stream(
        "GET",
        f"{server.url}/api/v1/tasks/{task}/stream",
        params=parameters,
        headers={"authorization": f"Bearer {KEY}", **(headers or {})},
        timeout=30,
        trust_env=False,
    ) as response:
        yield response
        yield from response.iter_lines()


def test_the_head_of_a_stream_says_where_it_is_and_a_heartbeat_that_it_lives(server):
    with server.client() as client:
        task = client.create_task(agent="walker", input={"what": "wait"})["id"]
        lines = raw_lines(server, task)
        response = next(lines)
        assert response.headers["location"] == f"/api/v1/tasks/{task}"
        assert response.headers["content-location"] == f"/api/v1/tasks/{task}/stream"
        assert response.headers["content-type"].startswith("text/event-stream")
        assert next(lines) == "retry: 1000"
        began = time.monotonic()
        assert next(line for line in lines if line == ": heartbeat")
        assert time.monotonic() - began < 15
        lines.close()
        client.cancel_task(task)


def test_rules_for_where_to_begin(server):
    with server.client() as client:
        given = {"what": "steps", "count": 2, "seconds": 0}
        task = client.create_task(agent="walker", input=given, wait=60)["id"]
        last = [item["id"] for item in client.stream(task)][-2]
        assert [item["event"] for item in client.stream(task, after=last)] == ["end"]
        assert [item["id"] for item in client.stream(task, after=last - 1)] == [last, None]
        for bad in ("x", "1.5", "-1", str(last + 1), "9" * 400):
            lines = raw_lines(server, task, {"last-event-id": bad})
            assert next(lines).status_code == 422, bad
            lines.close()
        lines = raw_lines(server, task, {"last-event-id": ""}, after=1)
        next(lines)
        assert "id: 2" in list(lines)
        with pytest.raises(Invalid, match="no event"):
            list(client.stream(task, after=last + 1))
        with pytest.raises(Invalid, match="does not stream debug"):
            list(client.stream(task, modes=["debug"]))
        with pytest.raises(Invalid, match="no stream mode"):
            client.create_task(agent="walker", input=given, stream_mode="everything")
        with pytest.raises(NotFound):
            list(client.stream("task_none"))


def test_a_task_says_only_what_it_was_asked_to_say(server, tmp_path):
    go = tmp_path / "go"
    go.touch()
    given = {"count": 3, "seconds": 0, "go": str(go)}
    with server.client() as client:
        told = list(client.stream_task(agent="talker", input=given))
        assert told[0]["event"] == "created"
        # What is said before a reader is there is gone; events are not.
        assert {item["event"] for item in told} >= {"created", "started", "step", "finished", "end"}
        quiet = list(client.stream_task(agent="talker", input=given, stream_mode=["updates"]))
        assert "delta" not in {item["event"] for item in quiet}
        only = list(client.stream(told[0]["data"]["task"], modes=["events"]))
        assert [item["event"] for item in only] == ["started", "step", "finished", "end"]


@pytest.mark.parametrize("policy", ["continue", "cancel"])
@pytest.mark.parametrize("path", ["?wait=60", "/stream"])
def test_what_becomes_of_a_task_whose_client_hangs_up(server, policy, path):
    key = f"hang-up {policy} {path}"
    body = json.dumps(
        {
            "agent": "walker",
            "input": {"what": "wait"},
            "on_disconnect": policy,
            "idempotency_key": key,
        }
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as end:
        end.sendall(
            b"POST /api/v1/tasks%s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), KEY.encode(), len(body), body)
        )
        with server.client() as client:
            task = running(client, key)
    with server.client() as client:
        if policy == "cancel":
            assert client.wait_for_task(task, seconds=20)["state"] == "cancelled"
        else:
            assert client.wait_for_task(task, seconds=1)["state"] == "running"
            client.cancel_task(task)


def running(client, key):
    """The task of an idempotency key, once it runs."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for task in client.tasks(agent="walker", state="running")["items"]:
            again = client.create_task(agent="walker", input={"what": "wait"}, idempotency_key=key)
            if again["id"] == task["id"]:
                return task["id"]
        time.sleep(0.05)
    raise AssertionError("the task does not run")


def test_a_cancelled_call_leaves_its_provider_at_once(server, hanging):
    _, calls = hanging
    with server.client() as client:
        before = len(calls)
        task = client.create_task(agent="walker", input={"what": "ask"})["id"]
        wait_until(lambda: len(calls) > before, 30)
        client.cancel_task(task)
        assert calls[-1].wait(10)
        assert client.wait_for_task(task, seconds=20)["state"] == "cancelled"
        [exchange] = client.exchanges(task)["items"]
        assert (exchange["outcome"], exchange["status"]) == ("cut", 499)
        assert client.task(task)["state"] == "cancelled"


def test_readers_that_take_nothing_cost_little_memory(tmp_path):
    """Forty stalled readers of 15 MB of events each: 600 MB, if somebody kept them."""
    server = ServerProcess(tmp_path / "home")
    server.start()
    deployed(server, tmp_path, "walker", "agent")
    server.stop()
    fill(tmp_path / "home" / "penstock.sqlite", events=150, size=100_000)
    server.start()
    stalled = []
    try:
        process = psutil.Process(server.process.pid)
        with server.client() as client:  # the database's own cache fills once
            for _ in range(2):
                assert sum(1 for _ in client.stream("task_1")) == 152
        before = process.memory_info().rss
        for _ in range(40):
            end = socket.create_connection(("127.0.0.1", server.port))
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            end.sendall(
                b"GET /api/v1/tasks/task_1/stream HTTP/1.1\r\nhost: x\r\n"
                b"authorization: Bearer %s\r\n\r\n" % KEY.encode()
            )
            assert end.recv(16).startswith(b"HTTP/1.1 200")
            stalled.append(end)
        with server.client() as client:
            numbers = [item["id"] for item in client.stream("task_1")]
        assert numbers == [*range(1, 152), None]
        grown = process.memory_info().rss - before
        assert grown < 64 << 20, f"{grown >> 20} MiB"
    finally:
        for end in stalled:
            end.close()
        server.stop()


def fill(database, *, events, size):
    """A finished task with many events."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        [(release,)] = connection.execute("select digest from releases").fetchall()
        connection.execute(
            "insert into sessions (id, agent, environment, release, metadata, state, tasks,"
            " failures, cost_nanos, busy_us, thumb, created_us)"
            " values ('ses_1', 'walker', 'production', ?, '{}', 'open', 0, 0, 0, 0, 0, 1)",
            (release,),
        )
        connection.execute(
            "insert into tasks (id, session_id, agent, environment, release, state, outcome, input,"
            " epoch, crashes, losses, run_after_us, close_session, cancel_requested, events,"
            " steps, cost_nanos, created_us, finished_us)"
            " values ('task_1', 'ses_1', 'walker', 'production', ?, 'completed', 'ok', '{}', 1, 0,"
            " 0, 0, 0, 0, ?, 0, 0, 1, 2)",
            (release, events + 1),
        )
        data = json.dumps("x" * size)
        rows = [("task_1", number, 1, "update", data, 1) for number in range(1, events + 1)]
        rows.append(
            ("task_1", events + 1, 1, "finished", '{"state": "completed", "outcome": "ok"}', 1)
        )
        connection.executemany(
            "insert into events (task_id, seq, epoch, kind, data, created_us)"
            " values (?, ?, ?, ?, ?, ?)",
            rows,
        )
        connection.commit()


@pytest.mark.postgres
async def test_deltas_reach_a_reader_on_another_server(tmp_path):
    async with fresh_database() as url:
        environment = {"PENSTOCK_DATABASE_URL": url}
        reading = ServerProcess(tmp_path / "reading", environment=environment, concurrency=0)
        first, second = (
            ServerProcess(tmp_path / name, environment=environment, command="worker")
            for name in ("first", "second")
        )
        go = tmp_path / "go"
        try:
            reading.start()
            deployed(reading, tmp_path, "talker", "talk")
            first.start()
            with reading.client() as client:
                given = {"count": 30, "seconds": 0.1, "go": str(go)}
                said = []
                for item in client.stream_task(agent="talker", input=given):
                    said.append(item)
                    if item["event"] == "delta" and is_tenth(item["data"]):
                        first.kill()
                        second.start()
                    if item["event"] == "step":
                        go.touch()
            check_story(said)
        finally:
            for server in (first, second, reading):
                server.stop()


def is_tenth(delta):
    return (delta["epoch"], delta["data"]) == (1, "9 ")


def check_story(said):
    """What one reader heard: a first try, its end, and a second that began anew."""
    names = [item["event"] for item in said]
    restarted = names.index("step.restarted")
    assert said[restarted]["data"]["data"] == {"epoch": 2, "step": 0}
    deltas = [item["data"] for item in said if item["event"] == "delta"]
    before = [delta["data"] for delta in deltas if delta["epoch"] == 1]
    after = [delta["data"] for delta in deltas if delta["epoch"] == 2 and delta["data"] != "."]
    assert "9 " in before
    assert before == [f"{number} " for number in range(int(before[0]), int(before[-1]) + 1)]
    # Without any loss when its server knew of the reader from the start.
    assert after == [f"{number} " for number in range(int(after[0]), 30)]
    assert {delta["mode"] for delta in deltas} == {"messages"}
    assert names[-1] == "end"
    numbers = [item["id"] for item in said if item["id"] is not None]
    assert numbers == list(range(1, len(numbers) + 1))
