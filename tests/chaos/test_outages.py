"""The database goes away, in every way that one machine can bring about."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
from cluster import Cluster
from commit_proxy import CommitProxy
from killers import Kill
from ledger import LedgerServer
from load import STANDSTILL, Load, check

from postgres_server import PostgresServer
from server_process import providers
from waiting import wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(900)]

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "2"))
LEASE_SECONDS = 8.0


@pytest.fixture
def postgres():
    """A PostgreSQL of the test's own."""
    with PostgresServer() as server:
        yield server


@contextmanager
def under_load(folder, urls, *, customers=12, kills=()):
    """Servers at work, each with its own way to the database; checked once they are left alone."""
    with (
        LedgerServer() as outside,
        Cluster(folder, url=urls, servers=2, environment=providers(outside.url)) as cluster,
    ):
        load = Load(cluster, folder, outside, customers=customers)
        with load.running():
            yield cluster, outside.ledger
        names = check(cluster, outside.ledger, load.ended, kills)
    faults = {code: count for code, count in cluster.refused.items() if code != "unavailable"}
    assert not faults, f"clients were told {faults} instead of: come back later"
    assert names


def some_work(ledger, seconds=60):
    """Wait until more calls have been answered."""

    def answered():
        return sum(map(len, tuple(ledger.answered.values())))

    wanted = answered() + 10
    wait_until(lambda: answered() >= wanted, seconds, otherwise=STANDSTILL)


def test_postgresql_is_stopped_at_once_and_comes_back(postgres, tmp_path):
    with under_load(tmp_path, asyncio.run(postgres.database())) as (_, ledger):
        for number in range(TIMES):
            some_work(ledger)
            postgres.stop("immediate")
            time.sleep((0.0, LEASE_SECONDS + 4.0, 3.0)[number % 3])
            postgres.start()
        some_work(ledger)


def test_every_connection_is_cut_again_and_again(postgres, tmp_path):
    url = asyncio.run(postgres.database())
    with under_load(tmp_path, url) as (_, ledger):
        for _ in range(5 * TIMES):
            some_work(ledger)
            asyncio.run(postgres.cut(url))
        some_work(ledger)


def test_commits_are_lost_or_their_answers_are(postgres, tmp_path, capsys):
    with (
        CommitProxy(asyncio.run(postgres.database())) as proxy,
        under_load(tmp_path, proxy.url) as (_, ledger),
    ):
        some_work(ledger)
        proxy.share = 0.03
        for _ in range(5 * TIMES):
            some_work(ledger)
        proxy.share = 0.0
        some_work(ledger)
    with capsys.disabled():
        print(f"\ncommits that were harmed: {dict(proxy.done)}")
    assert proxy.done["lost"]
    assert proxy.done["unknown"]


def killed_in_a_commit(server, proxy, ledger):
    """Kill a server the moment a commit goes by, and start it again."""
    hit = threading.Event()

    def harm(_):
        if not hit.is_set():
            server.process.kill()
            hit.set()

    proxy.harm, proxy.share = harm, 0.05
    assert hit.wait(60)
    proxy.share = 0.0
    with ledger.lock:
        kill = Kill(time.time(), "server", tuple(ledger.seen))
    server.kill()
    server.start()
    return kill


def test_a_server_is_killed_in_a_commit(postgres, tmp_path, capsys):
    kills = []
    with (
        CommitProxy(asyncio.run(postgres.database())) as proxy,
        under_load(tmp_path, proxy.url, kills=kills) as (cluster, ledger),
    ):
        for number in range(2 * TIMES):
            some_work(ledger)
            kills.append(killed_in_a_commit(cluster.servers[number % 2], proxy, ledger))
        some_work(ledger)
    with capsys.disabled():
        print(f"\nservers killed in a commit: {len(kills)}; commits harmed: {dict(proxy.done)}")


def test_a_server_that_does_not_hear_its_database_stops_and_comes_back(postgres, tmp_path):
    url = asyncio.run(postgres.database())
    with (
        CommitProxy(url) as proxy,
        under_load(tmp_path, [url, proxy.url]) as (cluster, ledger),
    ):
        for _ in range(TIMES):
            some_work(ledger)
            proxy.deafen()
            time.sleep(LEASE_SECONDS + 4.0)
            _, attempts = cluster.servers[1].processes()
            assert not attempts, "it goes on with what is another's by now"
            proxy.heal()
        some_work(ledger)


def test_a_network_swallows_what_is_said_and_hangs_up_on_nobody(postgres, tmp_path):
    with (
        CommitProxy(asyncio.run(postgres.database())) as proxy,
        under_load(tmp_path, proxy.url) as (cluster, ledger),
    ):
        for _ in range(TIMES):
            some_work(ledger)
            proxy.swallow()
            told = cluster.refused["unavailable"]
            wait_until(
                lambda told=told: cluster.refused["unavailable"] > told,
                60,
                otherwise="nobody was told to come back later",
            )
            proxy.heal()
        some_work(ledger)


def test_a_server_that_was_stopped_past_its_lease_finds_everything_taken(postgres, tmp_path):
    with under_load(tmp_path, asyncio.run(postgres.database())) as (cluster, ledger):
        for number in range(TIMES):
            some_work(ledger)
            zombie = psutil.Process(cluster.servers[number % 2].process.pid)
            zombie.send_signal(signal.SIGSTOP)
            time.sleep(LEASE_SECONDS + 4.0)
            zombie.send_signal(signal.SIGCONT)
        some_work(ledger)
