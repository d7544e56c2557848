"""Customers who send tasks the whole time, and what must be true once they have stopped."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import history
from cluster import Cluster
from ledger import Ledger
from projects import CALLS, STEPS, TOOLS, write

from waiting import wait_until

CUSTOMERS = 24
PATIENCE_SECONDS = 60.0
STANDSTILL = "nothing gets on any more"
PERSON_SECONDS = 2.0  # that a person takes; what is on its way arrives meanwhile


class Load:
    """Tasks of two agents, one after the other, from many customers at once."""

    def __init__(self, cluster: Cluster, folder, outside, *, customers: int = CUSTOMERS):
        self.ended = []  # (name, agent, the task as it ended)
        self.asked = 0  # calls of tools of which a person was asked
        self._ledger = outside.ledger
        self._cluster = cluster
        self._customers = customers
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._over = threading.Event()
        for agent in ("graph", "plain"):
            cluster.deploy(agent, write(folder / agent, agent, ledger=outside.url))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Customers come and go for as long as this lasts; all of them are served at its end."""
        with ThreadPoolExecutor(self._customers) as pool:
            coming = [pool.submit(self._customer) for _ in range(self._customers)]
            try:
                yield
            finally:
                self._over.set()
            for one in coming:
                one.result()

    def await_ends(self, number: int) -> None:
        """Wait until more tasks have ended."""
        wanted = len(self.ended) + number
        wait_until(lambda: len(self.ended) >= wanted, PATIENCE_SECONDS, otherwise=STANDSTILL)

    def await_end_of(self, agent: str) -> dict:
        """The first task of an agent that has ended, as it ended."""

        def first():
            return next((task for _, of, task in tuple(self.ended) if of == agent), None)

        return wait_until(first, PATIENCE_SECONDS, otherwise=STANDSTILL)

    def _judge(self, name: str, question) -> dict:
        """What a person says of an interrupted call: whoever was called knows whether it was."""
        time.sleep(PERSON_SECONDS)
        tool = question["tool"]
        happened = self._ledger.tools[name, tool]
        with self._lock:
            self.asked += 1
        return {"result": f"{tool} happened"} if happened else {"retry": True}

    def _customer(self) -> None:
        while not self._over.is_set():
            number = next(self._numbers)
            agent, name = ("graph", "plain")[number % 2], f"n{number}"
            given = {"task": name} if agent == "graph" else name
            task = self._cluster.created(agent, given, name)
            found = (name, agent, self._cluster.until_ended(task["id"], partial(self._judge, name)))
            with self._lock:
                self.ended.append(found)


def check(cluster, ledger: Ledger, ended, kills=()) -> dict:
    """Compare what the outside saw with what the store has (I1 to I6); task id → (name, agent)."""
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
    check_calls(query, ledger, names, kills)
    check_tools(ledger, names)
    return names


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


def check_tools(ledger, names):
    """I4: an effect under a key is seen once, and a tool that must not be repeated acts once."""
    for name, _ in names.values():
        keys = ledger.effects[name, "charge"]
        assert len(keys) == 1, f"{name}: charged under {len(keys)} keys"
        sent = ledger.tools[name, "send"]
        assert len(sent) == 1, f"{name}: sent {len(sent)} times"


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
            assert not again, f"{name}: call {number} was made again: {story(query, task, digest)}"
            late = [at for at in ledger.asked[f"task {name} call {number}"] if at > end]
            excused = len(others) + sum(
                kill.what == "server" and name in kill.tasks and kill.at < end for kill in kills
            )
            assert len(late) <= excused, f"{name}: call {number} came again, and nobody made it"


def story(query, task, digest):
    """What was recorded of one call, and of its task, in the order of time."""
    calls = query(
        "select started_us, duration_us, epoch, step, outcome, response, replayed_from"
        f" from exchanges where task_id = '{task}' and request_digest = '{digest}'"
    )
    events = query(f"select created_us, epoch, kind, data from events where task_id = '{task}'")
    rows = [(row.pop("started_us"), row) for row in calls]
    rows += [(row.pop("created_us"), row) for row in events]
    return "\n".join(f"{at / 1e6:.3f} {row}" for at, row in sorted(rows, key=lambda one: one[0]))
