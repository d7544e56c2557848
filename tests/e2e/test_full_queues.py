"""A queue that nobody drains, through the HTTP API and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx2
import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import Conflict, Exhausted, Invalid
from server_process import KEY, ServerProcess

LIMIT = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose only place is taken."""
    folder = tmp_path_factory.mktemp("full")
    project = folder / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: slow\nentrypoint: app:agent\n")
    (project / "app.py").write_text("import time\n\ndef agent(given):\n    time.sleep(1000)\n")
    found = ServerProcess(
        folder / "home",
        environment={"PENSTOCK_QUEUE_LIMIT": str(LIMIT), "PENSTOCK_DRAIN_SECONDS": "1"},
        concurrency=1,
    )
    found.start()
    with found.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("slow", ref=cut["release"]["digest"])
        task = client.create_task(agent="slow", input="takes the only place")["id"]
        assert next(event for event in client.stream(task) if event["event"] == "started")
    yield found
    found.stop()


@pytest.fixture
def client(server):
    """Leaves the queue empty."""
    with server.client() as found:
        yield found
        for task in found.tasks(state="queued", limit=500)["items"]:
            found.cancel_task(task["id"])


def post(server, body, **headers):
    return httpx2.post(
        f"{server.url}/api/v1/tasks", json={"agent": "slow", "input": 1, **body},
        headers={"authorization": f"Bearer {KEY}", **headers}, trust_env=False,
    )  # fmt: skip


def test_a_full_queue_says_when_to_come_back(server, client):
    made = [client.create_task(agent="slow", input=number) for number in range(LIMIT)]
    answer = post(server, {})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "exhausted")
    assert 1 <= int(answer.headers["retry-after"]) == error["retry_after_seconds"] <= 300
    assert f"{LIMIT} tasks wait" in error["message"]
    with pytest.raises(Exhausted) as refused:
        client.create_task(agent="slow", input=1)
    assert refused.value.retry_after_seconds >= 1
    client.cancel_task(made[0]["id"])
    assert client.create_task(agent="slow", input=1)["state"] == "queued"


def test_a_key_may_stand_in_the_header_and_stands_for_one_request(server, client):
    first = post(server, {}, **{"Idempotency-Key": "k1"})
    again = post(server, {"idempotency_key": "k1"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    other = post(server, {"input": 2}, **{"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert first.json()["id"] in other.json()["error"]["message"]
    both = post(server, {"idempotency_key": "k2"}, **{"Idempotency-Key": "k3"})
    assert both.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"priority": 101},
        {"priority": 1.5},
        {"multitask_strategy": "shout"},
        {"run_at": "soon"},
        {"run_at": "2030-01-01T00:00:00Z", "delay_seconds": 1},
        {"stateless": True, "session_id": "ses_1"},
        {"multitask_strategy": "reject", "delay_seconds": 1},
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(server, client, body):
    answer = post(server, body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["message"]
    assert client.tasks(state="queued")["items"] == []


def test_the_openapi_document_shows_what_may_be_asked(server):
    found = httpx2.get(
        f"{server.url}/api/v1/openapi.json", headers={"authorization": f"Bearer {KEY}"},
        trust_env=False,
    ).json()  # fmt: skip
    body = found["components"]["schemas"]["CreateTask"]["properties"]
    assert {"priority", "multitask_strategy", "run_at", "stateless"} <= body.keys()
    strategies = found["components"]["schemas"]["MultitaskStrategy"]["enum"]
    assert sorted(strategies) == ["enqueue", "interrupt", "reject", "rollback"]
    parameters = found["paths"]["/api/v1/tasks"]["post"]["parameters"]
    assert "idempotency-key" in {parameter["name"] for parameter in parameters}


def test_the_command_asks_for_it_all(server, client, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "penstock", "task", "create", "slow", "1", "--no-wait", *arguments],
            env={
                **os.environ, "PENSTOCK_HOME": str(tmp_path), "PENSTOCK_URL": server.url,
                "PENSTOCK_KEY": KEY,
            },
            capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
        )  # fmt: skip

    made = json.loads(run("--priority", "7", "--stateless", "--json").stdout)
    assert (made["priority"], made["stateless"]) == (7, True)
    late = json.loads(run("--at", "2026-12-24T18:00:00+01:00", "--json").stdout)
    assert late["due_us"] >= 1_798_131_600_000_000
    session = client.create_task(agent="slow", input=1)["session_id"]
    refused = run("--session", session, "--multitask-strategy", "reject")
    assert refused.returncode != 0
    assert "is busy" in refused.stderr
    rolled = run("--session", session, "--multitask-strategy", "rollback", "--json")
    outcomes = [task["outcome"] for task in client.tasks(session_id=session)["items"]]
    assert json.loads(rolled.stdout)["state"] == "queued"
    assert sorted(map(str, outcomes)) == ["None", "rolled_back"]
    with pytest.raises((Conflict, Invalid)):
        client.create_task(agent="slow", input=1, session_id=session, stateless=True)
