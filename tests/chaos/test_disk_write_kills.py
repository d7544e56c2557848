"""The server dies at its n-th write to the disk, or at its n-th flush, for several n."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from cluster import Cluster
from killers import Kill
from ledger import LedgerServer
from load import Load, check

from server_process import providers

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED", "1"))
CALLS = ("fdatasync", "pwrite64")
PATIENCE_SECONDS = 60.0


def test_the_server_is_killed_in_its_commits(tmp_path, capsys):
    chance = random.Random(SEED)
    kills, where = [], Counter()
    with (
        LedgerServer() as outside,
        Cluster(tmp_path, url=None, servers=1, environment=providers(outside.url)) as cluster,
    ):
        load = Load(cluster, tmp_path, outside, customers=8)
        with load.running():
            for number in range(4 * TIMES):
                call = CALLS[number % 2]
                nth = chance.randint(1, 40)
                load.await_ends(3)
                kills.append(killed_at(cluster.servers[0], call, nth, outside.ledger))
                where[call] += 1
            load.await_ends(3)
        names = check(cluster, outside.ledger, load.ended, kills)
    with capsys.disabled():
        print(f"\n{len(names)} tasks, the server killed as it began a system call: {dict(where)}")


@contextmanager
def tracing(pid, call, nth):
    """Trace a process, and kill it as one of its threads begins its n-th such call."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={call}",
         "-e", f"inject={call}:signal=KILL:when={nth}"],
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield tracer
    finally:
        tracer.terminate()
        tracer.communicate()


def killed_at(server, call, nth, ledger):
    """Let the kernel kill a server as it begins its n-th such call; then start it again."""
    with tracing(server.process.pid, call, nth) as tracer:
        by = time.monotonic() + PATIENCE_SECONDS
        while server.process.poll() is None:
            assert time.monotonic() < by, f"no {nth} calls of {call}"
            if tracer.poll() is not None and server.process.poll() is None:
                pytest.skip(f"strace may not trace here: {tracer.stderr.read().strip()}")
            time.sleep(0.01)
        with ledger.lock:
            kill = Kill(time.time(), "server", tuple(ledger.seen))
    server.start()
    return kill
