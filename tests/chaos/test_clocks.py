"""A machine's clock jumps by an hour, back and forth, while it works: nothing is lost or late."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cluster import Cluster
from ledger import LedgerServer
from load import Load, check

from server_process import providers

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
JUMPS = (3600, -3600, 0)  # seconds from the true time
HELD_SECONDS = 2.5  # longer than from one heartbeat to the next
LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


class FalseClock:
    """A wall clock that can be set, for processes that are started with its environment."""

    def __init__(self, folder):
        found = [path for known in LIBRARIES for path in Path("/").glob(known.removeprefix("/"))]
        if not found:
            pytest.skip("libfaketime is not installed")
        self._file = folder / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds):
        """Let it be so many seconds before (or behind) the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.replace(self._file)


def test_a_clock_jumps_and_nothing_is_lost_or_late(url, tmp_path, capsys):
    clock = FalseClock(tmp_path)
    with LedgerServer() as outside:
        servers = 1 if url is None else 2
        cluster = Cluster(tmp_path, url=url, servers=servers, environment=providers(outside.url))
        cluster.servers[0].environment.update(clock.environment)
        with cluster:
            load = Load(cluster, tmp_path, outside, customers=8)
            delayed = []
            with load.running():
                for number in range(TIMES):
                    for jump in JUMPS:
                        load.await_ends(5)
                        delayed.append(delay(cluster, f"d{number}.{jump}"))
                        clock.set(jump)
                        time.sleep(HELD_SECONDS)
                load.await_ends(5)
            for name, task in delayed:
                load.ended.append((name, "plain", cluster.until_ended(task)))
            names = check(cluster, outside.ledger, load.ended)
            check_nothing_was_taken(cluster.query)
            check_times(cluster.query, [task for _, task in delayed])
    assert not cluster.refused
    with capsys.disabled():
        print(f"\n{len(names)} tasks over {len(JUMPS) * TIMES} jumps of a clock: 0 requeued")


def delay(cluster, name):
    """A task that is due in two seconds."""
    return name, cluster.created("plain", name, name, delay_seconds=2)["id"]


def check_nothing_was_taken(query):
    """No lease was lost or stolen: every task was run by whoever claimed it first."""
    moved = query("select id, epoch, crashes, losses from tasks where epoch <> 1")
    assert not moved, f"begun again, and nobody was killed: {moved[:5]}"


def check_times(query, delayed):
    """A task's events are in the order of their times, and none began before it was due."""
    last, first = {}, {}
    for row in query("select task_id, seq, kind, created_us from events order by task_id, seq"):
        task, at = row["task_id"], row["created_us"]
        assert at >= last.get(task, 0), f"{task}: event {row['seq']} was before the one before it"
        last[task] = at
        if row["kind"] == "started":
            first[task] = at
    rows = {row["id"]: row for row in query("select id, created_us, run_after_us from tasks")}
    spread = max(row["created_us"] for row in rows.values()) - min(
        row["created_us"] for row in rows.values()
    )
    assert spread < 1800e6, "half an hour has passed, and nobody has waited for it"
    for task in delayed:
        assert first[task] >= rows[task]["run_after_us"], f"{task} began before it was due"
        assert first[task] - rows[task]["created_us"] < 600e6, f"{task} began much too late"
