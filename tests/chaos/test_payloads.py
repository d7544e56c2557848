"""Fifty megabytes where nobody expects them, and tasks that kill what they run in."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import history
import psutil
import pytest
from cluster import Cluster
from small_agents import SmallAgent

from penstock.domain.errors import Invalid

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
HUGE = 50 << 20
MEGABYTES = 1 << 20
NEIGHBOURS = 4

CODE = """
import os
import signal
import sys
from penstock.inside.context import current

HUGE = 50 << 20


def agent(given):
    step("begin", note, given)
    if given == "step":
        step("huge", lambda: "x" * HUGE)
    if given == "print":
        for _ in range(50):
            print("x" * (1 << 20))
    if given == "event":
        current().event("custom", "x" * HUGE)
    if given == "result":
        return "x" * HUGE
    if given == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return [given, step("end", note, given)]
"""


class Neighbours:
    """Small tasks of other customers, one after the other, and how long each of them took."""

    def __init__(self, cluster, name):
        self.took = []
        self.tasks = []
        self._cluster = cluster
        self._name = name
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(NEIGHBOURS)

    def __enter__(self):
        self._coming = [self._pool.submit(self._customer, n) for n in range(NEIGHBOURS)]
        return self

    def __exit__(self, *_):
        self._over.set()
        self._pool.shutdown()
        for one in self._coming:
            one.result()

    def _customer(self, number):
        for turn in range(1_000_000):
            if self._over.is_set():
                return
            key, begun = f"small {number} {turn}", time.monotonic()
            task = self._cluster.created(self._name, key, key)
            ended = self._cluster.until_ended(task["id"])
            assert ended["output"] == [key, key], ended
            self.took.append(time.monotonic() - begun)
            self.tasks.append(ended["id"])


@pytest.fixture
def world(url, tmp_path):
    """Servers with an agent that does as it is told."""
    servers = 1 if url is None else 2
    with Cluster(tmp_path, url=url, servers=servers, environment={}) as cluster:
        SmallAgent(cluster, tmp_path, "any", CODE, "limits: {attempts: 3}\n")
        yield cluster


def memory(cluster):
    return max(psutil.Process(one.process.pid).memory_info().rss for one in cluster.servers)


def check(cluster, tasks):
    history.check_tasks(cluster.query, tasks, expected=None)
    history.check_events(cluster.query)
    history.check_steps(cluster.query)
    history.check_sessions(cluster.query)


def test_what_is_huge_is_refused_or_cut_and_the_neighbours_go_on(world, capsys):
    cluster = world
    cluster.until_ended(cluster.created("any", "warm", "warm")["id"])
    before = memory(cluster)
    ended = {}
    with Neighbours(cluster, "any") as neighbours:
        for turn in range(TIMES):
            with cluster.servers[0].client() as client, pytest.raises(Invalid) as refused:
                client.create_task(agent="any", input="x" * HUGE)
            assert "32 MiB" in str(refused.value)
            for what in ("step", "result", "print", "event"):
                name = f"{what} {turn}"
                ended[what] = cluster.until_ended(cluster.created("any", what, name)["id"])
        grown = memory(cluster) - before
    for what in ("step", "result"):
        task = ended[what]
        assert (task["state"], task["outcome"]) == ("failed", "output"), task["error"]
        assert task["error"]["type"] == "OutputTooLarge"
        assert task["epoch"] == 1, "it was tried again, as if it could end otherwise"
    assert "step huge#1" in ended["step"]["error"]["message"]
    for what in ("print", "event"):
        assert ended[what]["state"] == "completed", ended[what]
    with cluster.servers[0].client() as client:
        printed = client.logs(ended["print"]["id"])["items"]
        said = client.events(ended["event"]["id"])["items"]
    assert sum(len(line["text"]) for line in printed) < 9 * MEGABYTES
    assert "the limit is reached" in printed[-1]["text"]
    assert len(json.dumps(said)) < MEGABYTES
    stored = cluster.query("select max(length(output)) as n from steps")[0]["n"]
    assert stored < MEGABYTES
    assert (
        cluster.query("select count(*) as n from tasks where length(input) > 1000000")[0]["n"] == 0
    )
    check(cluster, [task["id"] for task in ended.values()] + neighbours.tasks)
    assert grown < 6 * HUGE, f"a server has grown by {grown / MEGABYTES:.0f} MB"
    with capsys.disabled():
        print(
            f"\n{len(neighbours.took)} tasks beside {5 * TIMES} of 50 MB: the slowest took"
            f" {max(neighbours.took):.2f} s; a server grew by {grown / MEGABYTES:.0f} MB"
        )


def test_a_task_that_kills_its_process_is_a_dead_letter(world):
    cluster, what = world, "kill"
    with cluster.servers[0].client() as client:
        session = client.create_session("any")["id"]
    with Neighbours(cluster, "any") as neighbours:
        poison = cluster.created("any", what, "poison", session_id=session, close_session=False)
        behind = cluster.created("any", "next", "next", session_id=session)
        dead = cluster.until_ended(poison["id"])
        assert (dead["state"], dead["outcome"]) == ("dead_lettered", "crash"), dead
        assert cluster.until_ended(behind["id"])["output"] == ["next", "next"]
    assert dead["crashes"] == 3
    check(cluster, [poison["id"], behind["id"], *neighbours.tasks])
