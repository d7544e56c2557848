"""Nothing that was acknowledged is lost, and nothing that was committed is done again.

Tasks run while processes are killed with SIGKILL: servers, zygotes, attempts; most of the attempts
in the moment between the answer to a model call and the commit of the step that asked. What the
provider and the tools saw is compared with what the store has.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import history
import pytest
from cluster import Cluster
from killers import Killer, moments, recoveries
from ledger import LedgerServer
from projects import CALLS, STEPS, TOOLS, write

from server_process import providers

KILLS = int(os.environ.get("PENSTOCK_CHAOS_KILLS", "120"))  # of each database
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED", "1"))
A_SECOND = 8.0
CUSTOMERS = 24
LEAST_AIMED_HITS = 0.3
LONGEST_RECOVERY_SECONDS = 10.0


@pytest.mark.timeout(2400)
def test_nothing_is_lost_or_repeated_under_kills(url, tmp_path, capsys):
    with LedgerServer() as outside:
        cluster = Cluster(
            tmp_path, url=url, servers=1 if url is None else 2, environment=providers(outside.url)
        )
        with cluster:
            for agent in ("graph", "plain"):
                cluster.deploy(agent, write(tmp_path / agent, agent, ledger=outside.url))
            with Killer(
                cluster, outside.ledger, seed=SEED, kills=KILLS, a_second=A_SECOND
            ) as killer:
                ended = customers(cluster, killer)
        check(cluster, outside.ledger, ended, killer, capsys)


def customers(cluster, killer):
    """Tasks one after the other, from many customers at once, until there were enough kills."""
    numbers = itertools.count()
    ended, lock = [], threading.Lock()

    def customer(_):
        while not killer.done:
            number = next(numbers)
            agent, name = ("graph", "plain")[number % 2], f"n{number}"
            task = cluster.created(agent, {"task": name} if agent == "graph" else name, name)
            found = (name, agent, cluster.until_ended(task["id"]))
            with lock:
                ended.append(found)

    random.seed(SEED)
    with ThreadPoolExecutor(CUSTOMERS) as pool:
        list(pool.map(customer, range(CUSTOMERS)))
    return ended


def check(cluster, ledger, ended, killer, capsys):
    """Compare what the outside saw with what the store has, and print the figures."""
    query = cluster.query
    names = {task["id"]: (name, agent) for name, agent, task in ended}
    history.check_tasks(query, names)
    assert query("select count(*) as n from tasks")[0]["n"] == len(names), "created twice"
    history.check_events(query)
    history.check_steps(query)
    history.check_sessions(query)
    committed = history.commits(query)
    check_shapes(committed, names)
    history.check_not_repeated(used(ledger, names), committed, "a tool was used")
    check_calls(query, ledger, names, killer.kills)

    finished = {
        names[row["id"]][0]: row["finished_us"] / 1e6
        for row in query("select id, finished_us from tasks")
    }
    of_task = defaultdict(list)
    for (task, _), at in committed.items():
        of_task[names[task][0]].append(at)
    seen = moments(killer.kills, ledger, CALLS, of_task, finished)
    kinds = Counter(kill.what for kill in killer.kills)
    hits = seen["between an answer and its commit"] / len(killer.kills)
    slow = recoveries(killer.kills, ledger, finished)
    with capsys.disabled():
        print(f"\n{len(names)} tasks, {len(killer.kills)} kills: {dict(kinds)}")
        for name, count in seen.most_common():
            print(f"  {name:34} {count:5}  {'#' * round(60 * count / len(killer.kills))}")
        epochs = Counter(row["epoch"] for row in query("select epoch from tasks"))
        print(f"  attempts needed: {dict(sorted(epochs.items()))}")
        if slow:
            print(
                f"  from the kill of a server to its tasks' work elsewhere: median"
                f" {slow[len(slow) // 2]:.1f} s, longest {slow[-1]:.1f} s, of {len(slow)}"
            )
    assert hits >= LEAST_AIMED_HITS, f"only {hits:.0%} of the kills hit the moment that matters"


def check_shapes(committed, names):
    """Every task has the steps of its kind: one that repeated some would have more."""
    keys = defaultdict(set)
    for task, key in committed:
        keys[task].add(key)
    sizes = defaultdict(set)
    for task, (_, agent) in names.items():
        sizes[agent].add(len(keys[task]))
        if STEPS[agent] is not None:
            assert keys[task] == STEPS[agent]
    assert all(len(of_agent) == 1 for of_agent in sizes.values()), sizes


def used(ledger, names):
    """(task, step key) → when a tool of the plain agent was used in that step."""
    found = {}
    for task, (name, agent) in names.items():
        for tool in TOOLS[agent]:
            assert ledger.tools[name, tool], f"{name} never used {tool}"
        if agent == "plain":
            for tool, key in (("a1", "a1#1"), ("b1", "b1#1"), ("c1", "last#1")):
                found[task, key] = ledger.tools[name, tool]
    return found


def check_calls(query, ledger, names, kills):
    """What was recorded was paid for once, and never asked for again.

    A call that was under way at a kill is made again, as it must be. Should the first one come to
    the provider's notice late, it is known by its record, or by the server that died with it.
    """
    paid = defaultdict(list)
    for row in query(
        "select task_id, started_us, duration_us, outcome, request_digest from exchanges"
        " where replayed_from is null order by started_us"
    ):
        begun = row["started_us"] / 1e6
        end = begun + row["duration_us"] / 1e6
        paid[row["task_id"]].append((row["request_digest"], begun, end, row["outcome"] == "ok"))
    for task, (name, _) in names.items():
        recorded = sorted((end, digest) for digest, _, end, ok in paid[task] if ok)
        assert len(recorded) == CALLS, f"{name}: {len(recorded)} recorded calls, not {CALLS}"
        for number, (end, digest) in enumerate(recorded, 1):
            others = [begun for known, begun, _, ok in paid[task] if known == digest and not ok]
            again = [begun for begun in others if begun > end]
            assert not again, f"{name}: call {number} was made again after it was recorded"
            late = [at for at in ledger.asked[f"task {name} call {number}"] if at > end]
            excused = len(others) + sum(
                kill.what == "server" and name in kill.tasks and kill.at < end for kill in kills
            )
            assert len(late) <= excused, f"{name}: call {number} came again, and nobody made it"
