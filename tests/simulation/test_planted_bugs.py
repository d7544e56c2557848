"""The simulation finds the bugs that other systems have had, when they are planted here.

Each is one change to a query or a function. The first three are the root causes behind what users
of task queues and agent servers report: the owner's identity instead of an epoch, one recovery at
launch instead of a continuous one, and a task and its session written in two transactions.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from simulated_world import World
from virtual_time import WHO

from penstock.domain.errors import Stale
from penstock.runtime import heartbeats, reapers
from penstock.runtime.journals import Journal
from penstock.runtime.landings import Landings
from penstock.runtime.workers import Worker
from penstock.store import fences, sessions, tasks, workers
from penstock.store.queries import load

MOST_SEEDS = 1000  # the slowest to be found takes about 150


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def changed(*changes):
    """The queries of the store, some with another text: (name, old, new)."""
    queries = dict(load("sqlite"))
    for name, old, new in changes:
        query = queries[name]
        assert old in query.sql, f"{name} does not say {old!r} any more"
        queries[name] = replace(query, sql=query.sql.replace(old, new))
    return queries


def identity_instead_of_epoch(patch):
    """A server keeps its name over a restart, and whoever has the owner's name may write."""
    patch.setattr(heartbeats, "new_id", lambda _: WHO.get().partition(".")[0])
    fence = ("epoch = :epoch", "worker_id = owner_of(:id, :epoch)")
    return changed(
        ("tasks.advance", *fence),
        ("tasks.finish", *fence),
        ("tasks.requeue", *fence),
        ("tasks.owned", *fence),
        ("workers.register", "insert into", "insert or replace into"),
    )


def one_recovery_at_launch(patch):
    """Who is gone is looked for once, when a server starts."""

    def start(self):
        async def once():
            self._steady = lambda: True
            await self._round()

        self._once = asyncio.get_running_loop().create_task(once())

    patch.setattr(reapers.Reaper, "start", start)


def two_transactions(patch):
    """A task ends in one transaction, and its session hears of it in the next."""
    later, state = [], {"splits": False}
    account, end = sessions.account, Journal.end

    async def put_off(tx, session_id, **sums):
        if not state["splits"]:
            await account(tx, session_id, **sums)
            return
        later.append((session_id, sums))

    async def split(self, *arguments, **more):
        store, mine = self._store, []

        class Splitting:
            read = staticmethod(store.read)

            async def transact(self, work):
                async def first(tx):
                    later.clear()
                    state["splits"] = True
                    try:
                        result = await work(tx)
                    finally:
                        state["splits"] = False
                    mine[:] = later
                    return result

                return await store.transact(first)

        self._store = Splitting()
        await end(self, *arguments, **more)
        for session_id, sums in mine:
            await store.transact(lambda tx, s=session_id, m=sums: account(tx, s, **m))

    patch.setattr(sessions, "account", put_off)
    patch.setattr(Journal, "end", split)


def a_claim_keeps_the_epoch(_):
    return changed(("tasks.claim", "epoch = epoch + 1", "epoch = max(epoch, 1)"))


def a_step_beside_the_fence(patch):
    """The fence is asked, and its answer is not heeded."""
    advance = fences.advance

    async def heedless(tx, *, task_id, epoch, steps=0, said=()):
        try:
            return await advance(tx, task_id=task_id, epoch=epoch, steps=steps, said=said)
        except Stale:
            return (await tasks.get(tx, task_id)).steps + 1

    patch.setattr(fences, "advance", heedless)


def events_with_gaps(_):
    return changed(
        ("tasks.advance", "events = events + :events", "events = events + :events + (steps = 2)")
    )


def a_blind_retry(patch):
    """A commit whose answer was lost is tried again, and what is in its way is an error."""
    land = Landings.land
    patch.setattr(Landings, "land", lambda self, write, _: land(self, write, None))


def a_buried_worker_that_does_not_notice(patch):
    """The heartbeat does not look at whether there was a lease to renew."""
    beat = workers.beat

    async def heedless(tx, **more):
        await beat(tx, **more)
        return True

    patch.setattr(heartbeats.workers, "beat", heedless)


BUGS = [
    identity_instead_of_epoch,
    one_recovery_at_launch,
    two_transactions,
    a_claim_keeps_the_epoch,
    a_step_beside_the_fence,
    events_with_gaps,
    a_blind_retry,
    a_buried_worker_that_does_not_notice,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug, monkeypatch, capsys):
    queries = bug(monkeypatch)
    for seed in range(MOST_SEEDS):
        if found := World(seed, queries=queries).run():
            with capsys.disabled():
                print(f"\n  {bug.__name__}: found by seed {seed}: {found[0]}")
            return
    pytest.fail(f"{MOST_SEEDS} seeds, and nobody noticed")


def test_a_reaper_that_does_not_wait_after_an_outage_is_found(monkeypatch):
    monkeypatch.setattr(reapers.Reaper, "_steady", lambda _: True)
    for seed in range(MOST_SEEDS):
        world = World(seed, only=("refuse", "stall"))
        world.run()
        if world.history.buried:
            return
    pytest.fail("nobody noticed")


def test_a_server_that_slept_and_lets_its_attempts_go_on_is_found(monkeypatch):
    """It asks only after the next beat whether they are its own."""
    monkeypatch.setattr(heartbeats.Heartbeat, "trusted", property(lambda self: not self._silent))
    assert any(World(seed, only=("pause",)).run() for seed in range(MOST_SEEDS))


def test_claims_whose_answer_was_lost_and_that_are_forgotten_are_found(monkeypatch):
    async def nothing(self):
        self._doubtful = False

    monkeypatch.setattr(Worker, "_look_for_unknown", nothing)
    lost = [World(0, calm=True, plan={number: "answer lost"}).run() for number in range(5, 60)]
    assert any(lost)
