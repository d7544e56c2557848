"""Real servers that are killed and stopped, on a real database that is stopped and restarted."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import PenstockError
from postgres_server import PostgresServer
from server_process import ServerProcess
from waiting import wait_until

CODE = """
import os
import time
from pathlib import Path
from penstock import step


def agent(given):
    folder = Path(given["folder"])

    def note(name):
        with (folder / "done").open("a") as file:
            file.write(f"{name} {os.getpid()} {time.time()}\\n")
        return name

    done = [step("first", note, "first")]
    while not (folder / "go").exists():
        time.sleep(0.02)
    return [*done, step("second", note, "second")]
"""


def deployed(server, folder):
    """The agent, served."""
    project = folder / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: slow\nentrypoint: app:agent\n")
    (project / "app.py").write_text(CODE)
    with server.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("slow", ref=cut["release"]["digest"])


def begun(server, folder):
    """A task that has committed its first step; its id."""
    with server.client() as client:
        task = client.create_task(agent="slow", input={"folder": str(folder)})["id"]
        assert next(e for e in client.stream(task) if e["event"] == "step")
    return task


def ended(server, task, seconds=60):
    until = time.monotonic() + seconds
    while True:
        try:
            with server.client() as client:
                found = client.wait_for_task(task, seconds=5)
            if found["state"] not in ("queued", "running"):
                return found
        except PenstockError:
            time.sleep(0.1)
        assert time.monotonic() < until, "the task has not ended"


def notes(folder):
    return [line.split() for line in (folder / "done").read_text().splitlines()]


def events(server, task):
    with server.client() as client:
        return client.events(task)["items"]


def check(server, task, folder):
    """It ended once, with each step once."""
    found = ended(server, task)
    assert (found["state"], found["output"]) == ("completed", ["first", "second"])
    assert [name for name, *_ in notes(folder)] == ["first", "second"]
    kinds = [event["kind"] for event in events(server, task)]
    assert kinds.count("finished") == 1
    assert [e["seq"] for e in events(server, task)] == list(range(1, len(kinds) + 1))
    return found


def lives(process):
    """Whether a process still runs; one that nobody has buried yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_begun_again(server, task, seconds=60):
    """Waits until another attempt runs; when it was begun."""
    until = time.monotonic() + seconds
    while True:
        started = [e for e in events(server, task) if e["kind"] == "started"]
        if len(started) > 1:
            return started[-1]["created_us"] / 1e6
        assert time.monotonic() < until, "the task was not begun again"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer(fsync="off") as found:
        yield found


@pytest.fixture
async def pair(postgres, tmp_path):
    """Two servers of one database, the first with the agent."""
    environment = {"PENSTOCK_DATABASE_URL": await postgres.database()}
    found = [ServerProcess(tmp_path / name, environment=environment) for name in ("one", "other")]
    found[0].start()
    deployed(found[0], tmp_path)
    yield found
    for server in found:
        if server.process is not None and server.process.poll() is None:
            os.kill(server.process.pid, signal.SIGCONT)
        server.stop()


@pytest.mark.postgres
def test_a_killed_servers_task_goes_on_at_its_neighbour_within_seconds(pair, tmp_path, capsys):
    one, other = pair
    task = begun(one, tmp_path)
    other.start()
    at = time.time()
    one.kill()
    took = until_begun_again(other, task) - at
    with capsys.disabled():
        print(f"\n  from kill -9 to the next attempt: {took:.1f} s")
    (tmp_path / "go").touch()
    assert check(other, task, tmp_path)["losses"] == 0  # a step since


@pytest.mark.postgres
def test_what_a_server_writes_that_was_stopped_beyond_its_lease_changes_nothing(pair, tmp_path):
    one, other = pair
    task = begun(one, tmp_path)
    other.start()
    attempts = one.processes()[1]
    assert attempts
    os.kill(one.process.pid, signal.SIGSTOP)
    until_begun_again(other, task)
    # Both attempts go on now: the old one in its own process, which nobody could stop.
    (tmp_path / "go").touch()
    found = ended(other, task)
    before = events(other, task)
    os.kill(one.process.pid, signal.SIGCONT)
    wait_until(
        lambda: not any(lives(attempt) for attempt in attempts),
        30,
        otherwise="an attempt outlives its lease",
    )
    one.await_answer()
    assert events(one, task) == before
    assert ended(one, task) == found
    steps = [event for event in before if event["kind"] == "step"]
    assert [step["data"]["key"] for step in steps] == ["first#1", "second#1"]
    assert {event["epoch"] for event in before if event["kind"] == "finished"} == {2}


@pytest.mark.postgres
def test_a_restart_of_postgres_during_recovery_strands_nothing(pair, postgres, tmp_path):
    one, other = pair
    task = begun(one, tmp_path)
    other.start()
    one.kill()
    postgres.restart("immediate")
    until_begun_again(other, task)
    (tmp_path / "go").touch()
    check(other, task, tmp_path)


def test_an_embedded_server_that_was_killed_goes_on_at_once_when_it_is_back(tmp_path):
    server = ServerProcess(tmp_path / "home")
    try:
        server.start()
        deployed(server, tmp_path)
        task = begun(server, tmp_path)
        server.kill()
        server.start()
        until_begun_again(server, task, 8)  # no lease is waited for
        (tmp_path / "go").touch()
        check(server, task, tmp_path)
    finally:
        server.stop()


def test_a_poisonous_task_is_a_dead_letter_and_the_next_message_is_accepted(tmp_path):
    server = ServerProcess(tmp_path / "home")
    try:
        server.start()
        deployed(server, tmp_path)
        (tmp_path / "agent" / "app.py").write_text(
            "import os\n\ndef agent(given):\n    return given if given == 'hello' else os.kill(os.getpid(), 9)\n"
        )
        with server.client() as client:
            cut = client.cut_release(packed(tmp_path / "agent"))
            client.deploy("slow", ref=cut["release"]["digest"], strategy="all_at_once")
            poison = client.create_task(agent="slow", input="die")
        assert ended(server, poison["id"])["state"] == "dead_lettered"
        with server.client() as client:
            after = client.create_task(
                agent="slow", input="hello", session_id=poison["session_id"], wait=30
            )
        assert (after["state"], after["output"]) == ("completed", "hello")
    finally:
        server.stop()
