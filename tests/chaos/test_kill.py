"""Nothing that was acknowledged is lost, and nothing that was committed is done again.

Tasks run while processes are killed with SIGKILL: servers, zygotes, attempts; most of the attempts
in the moment between the answer to a model call and the commit of the step that asked. What the
provider and the tools saw is compared with what the store has.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict

import history
import pytest
from cluster import Cluster
from killers import Killer, moments, recoveries
from ledger import LedgerServer
from load import Load, check
from projects import CALLS

from server_process import providers

KILLS = int(os.environ.get("PENSTOCK_CHAOS_KILLS", "100"))  # of each database
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED", "1"))
A_SECOND = 8.0
LEAST_AIMED_HITS = 0.3


@pytest.mark.timeout(2400)
def test_nothing_is_lost_or_repeated_under_kills(url, tmp_path, capsys):
    servers = 1 if url is None else 2
    with (
        LedgerServer() as outside,
        Cluster(tmp_path, url=url, servers=servers, environment=providers(outside.url)) as cluster,
    ):
        load = Load(cluster, tmp_path, outside)
        with (
            load.running(),
            Killer(cluster, outside.ledger, seed=SEED, kills=KILLS, a_second=A_SECOND) as killer,
        ):
            while not killer.done:
                time.sleep(0.1)
        names = check(cluster, outside.ledger, load.ended, killer.kills)
        report(cluster.query, outside.ledger, names, killer.kills, load.asked, capsys)


def report(query, ledger, names, kills, asked, capsys):
    """Print what was hit, and how long it took to go on elsewhere."""
    finished = {
        names[row["id"]][0]: row["finished_us"] / 1e6
        for row in query("select id, finished_us from tasks")
    }
    of_task = defaultdict(list)
    for (task, _), at in history.commits(query).items():
        of_task[names[task][0]].append(at)
    seen = moments(kills, ledger, CALLS, of_task, finished)
    slow = recoveries(kills, ledger, finished)
    with capsys.disabled():
        print(f"\n{len(names)} tasks, {len(kills)} kills: {dict(Counter(k.what for k in kills))}")
        for name, count in seen.most_common():
            print(f"  {name:34} {count:5}  {'#' * round(60 * count / len(kills))}")
        epochs = Counter(row["epoch"] for row in query("select epoch from tasks"))
        print(f"  attempts needed: {dict(sorted(epochs.items()))}")
        print(f"  calls that must not be repeated, of which a person was asked: {asked}")
        if slow:
            print(
                f"  from the kill of a server to its tasks' work elsewhere: median"
                f" {slow[len(slow) // 2]:.1f} s, longest {slow[-1]:.1f} s, of {len(slow)}"
            )
    hits = seen["between an answer and its commit"] / len(kills)
    assert hits >= LEAST_AIMED_HITS, f"only {hits:.0%} of the kills hit the moment that matters"
