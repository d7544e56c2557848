"""Every worker is replaced, ten times, under load, while a new release is deployed.

What must not show: no task fails or is lost, none changes its id, no client is answered with an
error of the server's, and a conversation is carried on by the release it began with.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import history
import pytest
from cluster import Cluster
from projects import SUPPORT

from penstock.domain.errors import PenstockError
from server_process import ServerProcess
from waiting import wait_until

ROUNDS = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "2"))
DRAIN_SECONDS = 3.0
WORKERS = 3
CUSTOMERS = 12
TURNS = 4
DRAIN = {"PENSTOCK_DRAIN_SECONDS": str(DRAIN_SECONDS)}

CODE = """
import operator
import time
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

VERSION = "{version}"


class State(TypedDict, total=False):
    asked: str
    said: Annotated[list[str], operator.add]


def pause(asked):
    # Some take longer than a drain has time for: they must go on elsewhere.
    time.sleep(4.0 if int(asked.partition(".")[0]) % 4 == 0 else 0.2)


def think(state):
    pause(state["asked"])
    return {{"said": [VERSION + " thinks of " + state["asked"]]}}


def answer(state):
    pause(state["asked"])
    return {{"said": [VERSION + " answers " + state["asked"]]}}


builder = StateGraph(State)
builder.add_node("think", think)
builder.add_node("answer", answer)
builder.add_edge(START, "think")
builder.add_edge("think", "answer")
builder.add_edge("answer", END)
graph = builder.compile()
"""


def write(folder, version):
    """A release that says which one it is."""
    folder.mkdir()
    (folder / "work.py").write_text(CODE.format(version=version))
    (folder / "penstock.yaml").write_text("agent: talker\nentrypoint: work:graph\n")
    for name in ("requirements.txt", "penstock.lock"):
        (folder / name).write_bytes((SUPPORT / name).read_bytes())
    return folder


class Customers:
    """Conversations, many at a time, until they are told to stop."""

    def __init__(self, cluster):
        self.over = threading.Event()
        self.done = []  # (ids of the tasks, their states, what was said)
        self.refused = Counter()  # errors that clients saw
        self._cluster = cluster
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __call__(self, _):
        while not self.over.is_set():
            conversation = self._talk(next(self._numbers))
            with self._lock:
                self.done.append(conversation)

    def await_release(self, release):
        """Wait until a conversation with a release has ended."""

        def talked_with():
            return any(talked[0][1]["release"] == release for _, talked in tuple(self.done))

        wait_until(talked_with, 120)

    def _talk(self, number):
        session = self._ask(lambda client: client.create_session("talker"))["id"]
        tasks = []
        for turn in range(TURNS):
            created = self._ask(
                lambda client, turn=turn: client.create_task(
                    agent="talker",
                    input={"asked": f"{number}.{turn}"},
                    session_id=session,
                    idempotency_key=f"{number}.{turn}",
                    close_session=turn == TURNS - 1,
                )
            )
            ended = created
            while ended["state"] in ("queued", "running"):
                ended = self._ask(lambda client, task=created["id"]: client.wait_for_task(task))
            tasks.append((created["id"], ended))
        return number, tasks

    def _ask(self, ask):
        while True:
            try:
                with random.choice(self._cluster.servers).client() as client:
                    return ask(client)
            except PenstockError as error:
                with self._lock:
                    self.refused[error.code] += 1
                time.sleep(0.05)


def rolled(cluster, tmp_path, replace, capsys):
    """Talk while ``replace(round)`` replaces everything that runs tasks; then look back."""
    first = cluster.deploy("talker", write(tmp_path / "v1", "v1"))
    customers = Customers(cluster)
    with ThreadPoolExecutor(CUSTOMERS) as pool:
        talking = [pool.submit(customers, number) for number in range(CUSTOMERS)]
        try:
            for number in range(ROUNDS):
                if number == ROUNDS // 2:
                    second = cluster.deploy("talker", write(tmp_path / "v2", "v2"))
                replace(number)
            customers.await_release(second)
        finally:
            customers.over.set()
        for one in talking:
            one.result()
    check(cluster, customers, first, second, capsys)
    return customers


def check(cluster, customers, first, second, capsys):
    tasks = [task for _, talked in customers.done for task in talked]
    history.check_tasks(cluster.query, [task for task, _ in tasks])
    history.check_events(cluster.query)
    history.check_steps(cluster.query)
    history.check_sessions(cluster.query)
    releases = Counter()
    for number, talked in customers.done:
        assert all(created == ended["id"] for created, ended in talked)
        assert len({ended["release"] for _, ended in talked}) == 1
        said = talked[-1][1]["output"]["said"]
        version = said[0].split()[0]
        expected = []
        for turn in range(TURNS):
            expected += [f"{version} thinks of {number}.{turn}"]
            expected += [f"{version} answers {number}.{turn}"]
        assert said == expected, f"conversation {number} is not of one piece"
        assert talked[0][1]["release"] == {"v1": first, "v2": second}[version]
        releases[version] += 1
    assert releases.keys() == {"v1", "v2"}
    crashed = cluster.query("select count(*) as n from tasks where crashes > 0")[0]["n"]
    assert crashed == 0
    moved = cluster.query("select count(*) as n from tasks where epoch > 1")[0]["n"]
    assert moved
    with capsys.disabled():
        print(
            f"\n{ROUNDS} rolling restarts: {len(tasks)} tasks in {len(customers.done)}"
            f" conversations {dict(releases)}, {moved} of them handed on; 0 lost, 0 failed"
        )


@pytest.mark.postgres
@pytest.mark.timeout(1200)
def test_workers_are_replaced_under_load(postgres_url, tmp_path, capsys):
    environment = {"PENSTOCK_DATABASE_URL": postgres_url, **DRAIN}

    def worker(number):
        found = ServerProcess(
            tmp_path / f"worker-{number}", environment=environment, command="worker"
        )
        found.start()
        return found

    with Cluster(tmp_path, url=postgres_url, servers=1, environment={}, concurrency=0) as cluster:
        workers = [worker(number) for number in range(WORKERS)]

        def replace(_):
            for number in range(WORKERS):
                workers[number].process.send_signal(signal.SIGTERM)
                assert workers[number].process.wait(60) == 0
                workers[number] = worker(number)

        try:
            customers = rolled(cluster, tmp_path, replace, capsys)
        finally:
            for one in workers:
                one.stop()
        assert not customers.refused, f"clients saw errors: {customers.refused}"


@pytest.mark.timeout(1200)
def test_the_one_server_of_an_embedded_database_is_replaced_under_load(tmp_path, capsys):
    with Cluster(tmp_path, url=None, servers=1, environment=DRAIN) as cluster:

        def replace(_):
            server = cluster.servers[0]
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            server.start()

        customers = rolled(cluster, tmp_path, replace, capsys)
        # Nobody answers while the only server is away; whatever else is said would be a fault.
        assert customers.refused.keys() <= {"unavailable"}
