"""A server that is told to stop ten times in a second, and one that a task of its own kills."""

from __future__ import annotations

import os
import signal
import threading
import time

import history
import pytest
from cluster import Cluster
from ledger import LedgerServer
from load import Load, check
from small_agents import SmallAgent

from server_process import providers

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
SIGNALS = 10
PATIENCE_SECONDS = 60.0
MOST_LOSSES = 10  # see rules/tasks

POISON = """
import signal
import time
from pathlib import Path


def agent(given):
    note(given)
    if given == "poison":
        zygote = os.getppid()
        status = Path(f"/proc/{zygote}/status").read_text()
        os.kill(int(status.partition("PPid:")[2].split()[0]), signal.SIGKILL)
        time.sleep(60)
    return given
"""


def test_a_storm_of_sigterms_loses_nothing(url, tmp_path, capsys):
    servers = 1 if url is None else 2
    took = []
    with (
        LedgerServer() as outside,
        Cluster(tmp_path, url=url, servers=servers, environment=providers(outside.url)) as cluster,
    ):
        load = Load(cluster, tmp_path, outside, customers=12)
        with load.running():
            for number in range(TIMES):
                load.await_ends(10)
                server = cluster.servers[number % servers]
                pid, begun = server.process.pid, time.monotonic()
                for _ in range(SIGNALS):
                    server.process.send_signal(signal.SIGTERM)
                    time.sleep(0.9 / SIGNALS)
                assert server.process.wait(PATIENCE_SECONDS) == 0
                took.append(time.monotonic() - begun)
                check_handed_back(cluster.query, pid)
                server.start()
            load.await_ends(10)
        names = check(cluster, outside.ledger, load.ended)
        crashed = cluster.query("select id from tasks where crashes > 0 or losses > 0")
        assert not crashed, "an attempt that was handed back counts as one that was lost"
    assert cluster.refused.keys() <= {"unavailable"}
    with capsys.disabled():
        print(f"\n{len(names)} tasks; a server told {SIGNALS} times ended after {took[0]:.1f} s")


def check_handed_back(query, pid):
    """The server that has ended is no worker any more, and owns nothing."""
    assert not query(f"select id from workers where pid = {pid}")
    left = query(
        "select id, worker_id from tasks where state = 'running'"
        " and worker_id not in (select id from workers)"
    )
    assert not left, f"left behind: {left[:5]}"


@pytest.mark.skipif(TIMES == 1, reason="ten restarts take their time: make chaos")
def test_a_task_that_kills_its_server_is_a_dead_letter(tmp_path):
    with Cluster(tmp_path, url=None, servers=1, environment={}) as cluster:
        agent = SmallAgent(cluster, tmp_path, "bad", POISON)
        server = cluster.servers[0]
        with server.client() as client:
            session = client.create_session("bad")["id"]
        with Restarting(server) as restarting:
            tasks = [
                cluster.created("bad", one, one, session_id=session, close_session=one == "next")
                for one in ("first", "poison", "next")
            ]
            _, dead, ended = [cluster.until_ended(task["id"]) for task in tasks]
        assert dead["state"] == "dead_lettered", dead
        assert (ended["state"], ended["output"]) == ("completed", "next")
        assert agent.notes() == {"first": 1, "poison": MOST_LOSSES, "next": 1}
        assert restarting.number == MOST_LOSSES
        history.check_tasks(cluster.query, [task["id"] for task in tasks], expected=None)
        history.check_events(cluster.query)
        history.check_sessions(cluster.query)


class Restarting:
    """Starts a server again whenever it has been killed, as whoever watches over it does."""

    def __init__(self, server):
        self.number = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)

    def _watch(self):
        while not self._over.wait(0.02):
            if self._server.process.poll() is not None:
                self.number += 1
                self._server.start()
