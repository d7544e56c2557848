"""The disk of the database is full: nothing more is taken, what is there can be read, and it heals."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cluster import Cluster
from ledger import LedgerServer
from load import Load, check
from small_disks import SmallDisk

from penstock.domain.errors import Unavailable
from postgres_server import PostgresServer
from server_process import providers

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
FULL_SECONDS = 3.0
PATIENCE_SECONDS = 60.0


@pytest.fixture
def embedded(tmp_path):
    """The only server of an SQLite database, and the small disk that it lies on."""
    home = tmp_path / "home-0"
    with SmallDisk(home, megabytes=64) as disk:
        yield None, None, disk


@pytest.fixture
def tables():
    """Two servers of a PostgreSQL whose tables lie on a small disk, and its log on another."""
    yield from on_postgres(log_apart=True)


@pytest.fixture
def everything():
    """Two servers of a PostgreSQL that lies on a small disk as a whole: it goes down with it."""
    yield from on_postgres()


def on_postgres(**options):
    wal = {"min_wal_size": "32MB", "max_wal_size": "32MB"}
    with (
        TemporaryDirectory(prefix="penstock-disk-") as folder,
        SmallDisk(opened(folder) / "disk", megabytes=192) as disk,
        PostgresServer(disk.folder, **options, **wal) as server,
    ):
        yield asyncio.run(server.database()), server, disk


def opened(folder):
    """A folder that others may pass through: PostgreSQL does not run as root."""
    Path(folder).chmod(0o755)
    return Path(folder)


@pytest.mark.parametrize(
    "place",
    [
        "embedded",
        pytest.param("tables", marks=pytest.mark.postgres),
        pytest.param("everything", marks=pytest.mark.postgres),
    ],
)
def test_a_full_disk_refuses_what_is_new_and_heals(place, request, tmp_path, capsys):
    url, postgres, disk = request.getfixturevalue(place)
    with (
        LedgerServer() as outside,
        Cluster(
            tmp_path, url=url, servers=1 if url is None else 2, environment=providers(outside.url)
        ) as cluster,
    ):
        load = Load(cluster, tmp_path, outside, customers=8)
        with load.running():
            old = load.await_end_of("plain")
            visitor = Visitor(cluster, disk, load, old, may_be_down=place == "everything")
            for number in range(TIMES):
                load.await_ends(10)
                with full(disk, postgres):
                    visitor.visit(f"r{number}")
                load.await_ends(10)
        visitor.leave()
        names = check(cluster, outside.ledger, load.ended)
    faults = {code: count for code, count in cluster.refused.items() if code != "unavailable"}
    assert not faults, f"clients were told {faults} instead of: come back later"
    assert visitor.refused
    assert not visitor.said["ready"], "it takes nothing, and says that it is ready"
    assert visitor.read or place == "everything"
    with capsys.disabled():
        print(
            f"\n{place}: {len(names)} tasks; while the disk was full {visitor.refused} were"
            f" refused, {len(visitor.taken)} taken, {visitor.read} readings answered"
        )


@contextmanager
def full(disk, postgres):
    """No byte is left for as long as this lasts."""
    disk.fill()
    try:
        yield
    finally:
        disk.free()
        if postgres is not None and not postgres.alive:
            postgres.restart()  # it ends when it cannot write, and whoever watches starts it again


class Visitor:
    """Asks for new tasks, and for an old one, while the disk is full."""

    def __init__(self, cluster, disk, load, old, *, may_be_down):
        self.taken = []  # names of tasks that were acknowledged all the same
        self.refused = 0
        self.read = 0  # how often the old task could be read after a refusal
        self._old = old
        self.said = Counter()  # how the servers called themselves after a refusal
        self._names = []
        self._cluster = cluster
        self._disk = disk
        self._load = load
        self._may_be_down = may_be_down

    def visit(self, name):
        """Until something is refused, and then for a while."""
        by, until = time.monotonic() + PATIENCE_SECONDS, None
        for number in itertools.count():
            self._disk.fill()  # what somebody has let go meanwhile
            for server in self._cluster.servers:
                with server.client() as client:
                    refused = self._create(client, f"{name}.{server.port}.{number}")
                    read = self._read(client)
                    if refused:
                        self.said[self._ready(client)] += 1
                        self.read += read
                    if refused and until is None:
                        until = time.monotonic() + FULL_SECONDS
            if until is not None and time.monotonic() > until:
                return
            assert time.monotonic() < by, "the disk is full, and everything is taken"

    def leave(self):
        """What was asked for is asked for again, and seen to its end."""
        for name in self._names:
            task = self._cluster.created("plain", name, name)
            self._load.ended.append((name, "plain", self._cluster.until_ended(task["id"])))

    def _create(self, client, name):
        self._names.append(name)
        try:
            client.create_task(agent="plain", input=name, idempotency_key=name, close_session=True)
        except Unavailable as error:
            self.refused += bool(error.hint)  # who is refused is told what to do
            return True
        self.taken.append(name)
        return False

    def _read(self, client):
        """Whether the old task can be read, with all that is known of it."""
        task = self._old
        try:
            assert client.task(task["id"])["output"] == task["output"]
            assert client.tasks(limit=5)["items"]
            streamed = [event["event"] for event in client.stream(task["id"])]
        except Unavailable:
            if not self._may_be_down:
                raise
            return False
        assert streamed.count("step") == 5, streamed
        return True

    def _ready(self, client):
        """What it says of itself: it may be down, or can be read; it is not ready."""
        try:
            return client.ready()["status"]
        except Unavailable:
            assert self._may_be_down
            return "not ready"
