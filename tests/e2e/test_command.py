"""The real command: a stranger's first minutes, and what goes wrong in them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.client import Client
from penstock.domain.errors import Conflict, Forbidden, NotFound, Unauthenticated
from server_process import KEY, ServerProcess
from waiting import wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "support"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = ServerProcess(
        tmp_path_factory.mktemp("server") / "home",
        environment={"PENSTOCK_SIMULATED_LATENCY": "0.1", "OPENAI_API_KEY": ""},
    )
    found.start()
    yield found
    found.stop()


@pytest.fixture
def penstock(server, tmp_path):
    """Runs the command against the server."""

    def run(*arguments, key=KEY, stdin="", url=None, env=None):
        return subprocess.run(
            [sys.executable, "-m", "penstock", *map(str, arguments)],
            env={
                **os.environ,
                "PENSTOCK_HOME": str(tmp_path / "cli"),
                "PENSTOCK_URL": url or server.url,
                "PENSTOCK_KEY": key,
                **(env or {}),
            },
            input=stdin, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def support(server):
    """The example, released and deployed."""
    from penstock.cli.projects import packed  # noqa: PLC0415 - as the command does

    with server.client() as client:
        cut = client.cut_release(packed(EXAMPLE))
        client.deploy("support", ref=cut["release"]["digest"])
    return cut["release"]


def ok(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_project_answers_within_four_commands(penstock):
    assert "penstock up" in ok(penstock("init", "first-agent"))
    assert "first-agent v1" in ok(penstock("release", "first-agent"))
    assert "first-agent" in ok(penstock("deploy", "first-agent"))
    assert ok(penstock("chat", "first-agent", stdin="What is a penstock?\n")).strip()
    again = json.loads(ok(penstock("release", "first-agent", "--json")))
    assert again["created"] is False
    assert "first-agent" in ok(penstock("status"))


def test_the_example_uses_its_tools_and_is_recorded(penstock, support):
    question = json.dumps({"question": "Where is order 1042?"})
    task = json.loads(ok(penstock("task", "create", "support", question, "--close", "--json")))
    assert task["state"] == "completed"
    assert "2026-11-03" in task["output"]["answer"]
    exchanges = json.loads(ok(penstock("task", "exchanges", task["id"], "--json")))
    assert len(exchanges) == 2
    assert {exchange["provider"] for exchange in exchanges} == {"simulated"}
    assert task["cost_nanos"] == sum(exchange["cost_nanos"] for exchange in exchanges) > 0
    assert "completed" in ok(penstock("logs", task["id"]))
    assert "finished" in ok(penstock("task", "stream", task["id"]))


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(server, support):
    with server.client() as client:
        task = client.create_task(
            agent="support", input={"question": "Where is order 1001?"}, wait=60
        )
        every = [event["id"] for event in client.stream(task["id"]) if event["id"]]
        assert every == list(range(1, len(every) + 1))
        rest = [event["id"] for event in client.stream(task["id"], after=every[2]) if event["id"]]
        assert rest == every[3:]


def test_the_same_idempotency_key_is_the_same_task(server, support):
    with server.client() as client:
        given = {"agent": "support", "input": {"question": "x"}, "idempotency_key": "once"}
        assert client.create_task(**given)["id"] == client.create_task(**given)["id"]


def test_a_changed_prompt_changes_the_prompt_and_nothing_else(penstock, support, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "support")
    shutil.copy(EXAMPLE / "variants" / "better.prompt", tmp_path / "support/prompts/system.prompt")
    cut = json.loads(ok(penstock("release", "support", "--json")))
    before, after = support["components"], cut["release"]["components"]
    assert {kind for kind in before if before[kind] != after[kind]} == {"prompt"}
    deployed = json.loads(ok(penstock("deploy", "support", "--json")))
    assert deployed["rollout"]["phase"] == "ramping"
    refused = penstock("deploy", "support")
    assert refused.returncode == 1
    assert "being rolled out" in refused.stderr
    assert "completion" in ok(penstock("rollout", "support"))
    assert "rolled_back" in ok(penstock("abort", "support"))


BAD_PROJECTS = {
    "unknown key": ({"penstock.yaml": "agnt: x\nentrypoint: a:b\n"}, "penstock.yaml:1", "agent?"),
    "missing module": ({"penstock.yaml": "agent: x\nentrypoint: gone:b\n"}, "gone", "gone.py"),
    "missing yaml": ({"app.py": ""}, "penstock.yaml", "penstock init"),
    "import error": (
        {"penstock.yaml": "agent: x\nentrypoint: app:f\n", "app.py": "\nimport nowhere\n"},
        "app.py:2",
        "dependencies",
    ),
    "exits": (
        {"penstock.yaml": "agent: x\nentrypoint: app:f\n", "app.py": "import os; os._exit(4)\n"},
        "ended the process",
        "must not exit",
    ),
    "stale lock": (
        {
            "penstock.yaml": "agent: x\nentrypoint: app:f\n",
            "app.py": "def f(x): return x\n",
            "requirements.txt": "msgpack\n",
        },
        "penstock.lock",
        "commit penstock.lock",
    ),
}


@pytest.mark.parametrize("name", BAD_PROJECTS)
def test_a_bad_project_is_refused_in_words(penstock, tmp_path, name):
    files, where, what_to_do = BAD_PROJECTS[name]
    (tmp_path / "bad").mkdir()
    for path, text in files.items():
        (tmp_path / "bad" / path).write_text(text)
    done = penstock("release", "bad", "--ci")
    assert done.returncode == 1
    assert where in done.stderr
    assert what_to_do in done.stderr
    assert 'File "/' not in done.stderr.replace('File "/tmp', "")
    as_json = penstock("release", "bad", "--ci", "--json")
    assert json.loads(as_json.stdout)["error"]["code"]


def test_every_route_but_health_needs_a_key(server):
    with Client(server.url) as stranger:
        assert stranger.ready() == {"status": "ready"}
        for call in (stranger.agents, stranger.tasks, stranger.keys, stranger.audit):
            with pytest.raises(Unauthenticated):
                call()
    with Client(server.url, "psk_" + "0" * 64) as guesser, pytest.raises(Unauthenticated):
        guesser.agents()


def test_a_viewer_reads_and_changes_nothing(server):
    with server.client() as admin:
        made = admin.create_key("reader", role="viewer")
        with Client(server.url, made["key"]) as viewer:
            viewer.agents()
            with pytest.raises(Forbidden):
                viewer.create_task(agent="support", input="x")
            with pytest.raises(Forbidden):
                viewer.keys()
        with pytest.raises(Conflict):
            admin.create_key("reader")
        with pytest.raises(NotFound):
            admin.task("task_nothing")


def test_mistakes_end_in_a_sentence(penstock):
    assert "Did you mean status?" in penstock("statsu").stderr
    gone = penstock("status", url="http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "penstock up" in gone.stderr
    assert penstock("status", key="psk_wrong").returncode == 1
    assert "\n  penstock release [PROJECT] " in ok(penstock("release", "--help"))
    for command in ("up", "dev", "demo", "task", "keys", "deploy"):
        assert "Usage" in ok(penstock(command, "--help"))


def test_a_port_or_a_directory_in_use_is_named(server, penstock, tmp_path):
    port = server.url.rpartition(":")[2]
    taken = penstock("up", "--port", port)
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
    assert "PENSTOCK_PORT" in taken.stderr
    shared = penstock("up", "--port", "0", env={"PENSTOCK_HOME": str(server.home)})
    assert shared.returncode == 1
    assert str(server.process.pid) in shared.stderr


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "/proc/penstock"])
def test_a_data_directory_that_cannot_be_used_is_named(penstock, tmp_path, home):
    (tmp_path / "a-file").touch()
    place = str(tmp_path / home)
    done = penstock("up", "--port", "0", env={"PENSTOCK_HOME": place})
    assert done.returncode == 1
    assert f"the data directory {place} cannot be used" in done.stderr
    assert "PENSTOCK_HOME=" in done.stderr


def test_an_address_of_another_machine_is_named(penstock, tmp_path):
    env = {"PENSTOCK_HOME": str(tmp_path / "home"), "PENSTOCK_HOST": "192.0.2.1"}
    done = penstock("up", "--port", "0", env=env)
    assert done.returncode == 1
    assert "cannot listen on 192.0.2.1" in done.stderr
    assert "PENSTOCK_HOST is an address of this machine" in done.stderr


def test_data_of_a_newer_penstock_is_refused_and_left_alone(penstock, tmp_path):
    home = tmp_path / "newer"
    home.mkdir()
    with sqlite3.connect(home / "penstock.sqlite") as database:
        database.execute("create table migrations (version bigint primary key, name text)")
        database.execute("insert into migrations values (9999, 'future')")
    database.close()
    done = penstock("up", "--port", "0", env={"PENSTOCK_HOME": str(home)})
    assert done.returncode == 1
    assert "newer Penstock" in done.stderr


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    server = ServerProcess(tmp_path / "home", environment={"PENSTOCK_SIMULATED_LATENCY": "1"})
    project = tmp_path / "slow"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: slow\nentrypoint: app:f\n")
    (project / "app.py").write_text("import time\ndef f(x):\n    time.sleep(0.3)\n    return x\n")
    server.start()
    try:
        from penstock.cli.projects import packed  # noqa: PLC0415 - as the command does

        with server.client() as client:
            cut = client.cut_release(packed(project))
            client.deploy("slow", ref=cut["release"]["digest"])
            ids = [client.create_task(agent="slow", input=n)["id"] for n in range(40)]
        server.kill()
        server.start()
        with server.client() as client:
            done = [client.wait_for_task(task, seconds=60) for task in ids]
        assert [task["output"] for task in done] == list(range(40))
    finally:
        server.stop()


def test_whoever_waits_for_a_task_goes_on_over_a_restart(tmp_path):
    server = ServerProcess(tmp_path / "home", environment={"PENSTOCK_DRAIN_SECONDS": "0"})
    project = tmp_path / "held"
    project.mkdir()
    gate = tmp_path / "gate"
    (project / "penstock.yaml").write_text("agent: held\nentrypoint: app:f\n")
    (project / "app.py").write_text(
        "import os, time\ndef f(gate):\n"
        "    while not os.path.exists(gate):\n        time.sleep(0.02)\n    return 'through'\n"
    )
    server.start()
    try:
        from penstock.cli.projects import packed  # noqa: PLC0415 - as the command does

        with server.client() as client:
            cut = client.cut_release(packed(project))
            client.deploy("held", ref=cut["release"]["digest"])
        command = subprocess.Popen(
            [sys.executable, "-m", "penstock", "task", "create", "held", json.dumps(str(gate))],
            env={**os.environ, "PENSTOCK_URL": server.url, "PENSTOCK_KEY": KEY},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with server.client() as client, ThreadPoolExecutor() as threads:
            found = wait_until(lambda: client.tasks(state="running")["items"], 60)
            given = threads.submit(client.wait_for_task, found[0]["id"], seconds=60)
            made = threads.submit(client.create_task, agent="held", input=str(gate), wait=60)
            wait_until(lambda: len(client.tasks(state="running")["items"]) >= 2, 60)
            server.stop()
            # Both are given their task as it is, no error.
            assert {given.result()["state"], made.result()["state"]} <= {"queued", "running"}
        gate.touch()
        server.start()
        said, complaint = command.communicate(timeout=60)
        assert command.returncode == 0, said + complaint
        assert "through" in said
    finally:
        server.stop()


def test_workers_are_listed_with_what_they_run(server, penstock):
    (one,) = json.loads(penstock("workers", "--json").stdout)["items"]
    assert (one["pid"], one["running"], one["capacity"]) == (server.process.pid, 0, 32)
    assert one["lease_until_us"] > one["heartbeat_us"] > one["started_us"] - 1
    said = penstock("workers").stdout
    assert one["id"] in said
    assert "taking tasks" in said
