"""Worker processes of their own: they take over from each other, and their number follows the load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psutil
import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import PenstockError
from postgres_database import fresh_database
from server_process import ServerProcess

CODE = """
import os
import time
from penstock import step


def agent(given):
    first = step("first", lambda: os.getpid())
    time.sleep(given["seconds"])
    return step("last", lambda: given["number"])
"""


@pytest.fixture
async def url():
    async with fresh_database() as url:
        yield url


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "agent"
    folder.mkdir()
    (folder / "penstock.yaml").write_text("agent: slow\nentrypoint: app:agent\n")
    (folder / "app.py").write_text(CODE)
    return folder


@pytest.fixture
def started():
    """Starts servers and workers; stops what still runs at the end."""
    running = []

    def start(*args, **options):
        process = ServerProcess(*args, **options)
        running.append(process)
        process.start()
        return process

    yield start
    for process in reversed(running):
        process.stop()


def deploy(server, project):
    with server.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("slow", ref=cut["release"]["digest"])


def submit(server, count, seconds):
    with server.client() as client:
        return [
            client.create_task(agent="slow", input={"number": number, "seconds": seconds})["id"]
            for number in range(count)
        ]


def outputs(server, ids):
    with server.client() as client:
        return [client.wait_for_task(task, seconds=90)["output"] for task in ids]


async def replicas(url):
    """Pids of the workers that run attempts and are not draining."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "select pid from workers where capacity > 0 and draining = 0"
            " and lease_until_us > extract(epoch from now()) * 1000000"
        )
    finally:
        await connection.close()
    return {row["pid"] for row in rows}


async def until(url, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition(found := await replicas(url)):
        assert time.monotonic() < deadline, f"replicas: {found}"
        time.sleep(0.1)
    return found


@pytest.mark.postgres
async def test_workers_do_a_servers_tasks_and_take_over_from_each_other(
    url, project, started, tmp_path
):
    environment = {"PENSTOCK_DATABASE_URL": url}
    server = started(tmp_path / "server", environment=environment, concurrency=0)
    deploy(server, project)
    ids = submit(server, 12, 2)
    one = started(tmp_path / "one", environment=environment, command="worker")
    with server.client() as client:
        begun = next(e for e in client.stream(ids[0]) if e["event"] == "step")
    assert begun
    other = started(tmp_path / "other", environment=environment, command="worker")
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(30) == 0
    assert outputs(server, ids[:6]) == list(range(6))
    more = submit(server, 6, 2)
    other.kill()
    started(tmp_path / "third", environment=environment, command="worker")
    assert outputs(server, [*ids, *more]) == [*range(12), *range(6)]


@pytest.mark.postgres
async def test_a_worker_is_drained_by_name(url, project, started, tmp_path):
    environment = {"PENSTOCK_DATABASE_URL": url}
    server = started(tmp_path / "server", environment=environment, concurrency=0)
    deploy(server, project)
    one = started(tmp_path / "one", environment=environment, command="worker")
    with server.client() as client:
        (name,) = [row["id"] for row in client.workers()["items"] if row["capacity"]]
        ids = submit(server, 6, 1)
        with pytest.raises(PenstockError, match="no worker"):
            client.drain_worker("wrk_nobody")
        client.drain_worker(name)
        assert one.process.wait(60) == 0
        assert name not in {row["id"] for row in client.workers()["items"]}
    started(tmp_path / "other", environment=environment, command="worker")
    assert outputs(server, ids) == list(range(6))


def test_whoever_waits_while_a_server_stops_is_given_the_task_as_it_is(project, started, tmp_path):
    server = started(tmp_path / "server", environment={"PENSTOCK_DRAIN_SECONDS": "1"})
    deploy(server, project)
    (task,) = submit(server, 1, 30)
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        waiting = pool.submit(client.wait_for_task, task, seconds=60)
        with server.client() as other:
            next(e for e in other.stream(task) if e["event"] == "step")
        server.process.send_signal(signal.SIGTERM)
        assert waiting.result()["state"] in ("running", "queued")
    assert server.process.wait(30) == 0


@pytest.mark.postgres
async def test_a_worker_answers_for_itself_and_for_nothing_else(url, started, tmp_path):
    environment = {"PENSTOCK_DATABASE_URL": url}
    started(tmp_path / "server", environment=environment, concurrency=0)
    worker = started(tmp_path / "worker", environment=environment, command="worker")
    with worker.client() as client:
        assert client.ready() == {"status": "ready"}
        with pytest.raises(PenstockError, match="Not Found"):
            client.whoami()


@pytest.mark.postgres
async def test_replicas_come_with_the_load_and_leave_with_it(url, project, started, tmp_path):
    scale = {"min": 0, "max": 3, "target": 4, "concurrency": 4, "down_seconds": 1}
    server = started(
        tmp_path / "server",
        environment={"PENSTOCK_DATABASE_URL": url, "PENSTOCK_SCALE": json.dumps(scale)},
        concurrency=None,
    )
    deploy(server, project)
    assert await replicas(url) == set()
    ids = submit(server, 24, 1.5)
    await until(url, lambda found: len(found) == 3)
    assert outputs(server, ids) == list(range(24))
    await until(url, lambda found: not found)
    assert outputs(server, submit(server, 1, 0)) == [0]  # and back from zero


@pytest.mark.postgres
async def test_replicas_do_not_outlive_a_server_that_was_killed(url, project, started, tmp_path):
    scale = {"min": 1, "max": 1}
    server = started(
        tmp_path / "server",
        environment={"PENSTOCK_DATABASE_URL": url, "PENSTOCK_SCALE": json.dumps(scale)},
        concurrency=None,
    )
    (pid,) = await until(url, lambda found: len(found) == 1)
    replica = psutil.Process(pid)
    server.kill()
    replica.wait(30)
    assert not await replicas(url)


@pytest.mark.parametrize(
    ("command", "environment", "what"),
    [
        ("worker", {}, "a worker needs PostgreSQL"),
        ("up", {"PENSTOCK_SCALE": '{"max": 2}'}, "PENSTOCK_SCALE needs PostgreSQL"),
        ("up", {"PENSTOCK_CONCURRENCY": "0"}, "PENSTOCK_CONCURRENCY=0 needs PostgreSQL"),
        ("up", {"PENSTOCK_SCALE": '{"min": 3, "max": 2}'}, "min ≤ max"),
        ("up", {"PENSTOCK_SCALE": '{"max": "2"}'}, "whole numbers"),
        ("up", {"PENSTOCK_SCALE": "2"}, "JSON object"),
    ],
)
def test_what_cannot_be_scaled_is_refused_in_a_sentence(tmp_path, command, environment, what):
    done = subprocess.run(
        [sys.executable, "-m", "penstock", command, "--port", "0"],
        env={**os.environ, "PENSTOCK_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert what in done.stderr
    assert "Traceback" not in done.stderr
