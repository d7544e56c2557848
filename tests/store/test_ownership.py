"""Who owns a task: a worker's row says so, and burying the worker is what ends it."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from penstock.domain.tasks import TaskState
from penstock.runtime.reapers import Reaper, _take_batch
from penstock.store import claims, endings, events, sessions, tasks, workers
from rollout_world import AGENT, ENVIRONMENT, release

LEASE = 8.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def registered(store, worker="w1", *, lease_seconds=LEASE, process=""):
    await store.transact(
        partial(
            workers.register, worker_id=worker, host="h", pid=1, lease_seconds=lease_seconds,
            capacity=1, process=process,
        )
    )  # fmt: skip


async def beat(store, worker="w1", *, lease_seconds=LEASE):
    return await store.transact(
        partial(workers.beat, worker_id=worker, lease_seconds=lease_seconds, draining=False)
    )


async def owned(store, number=1, *, worker="w1", losses=0):
    """Tasks of so many sessions, all owned by a worker; their ids."""
    digest = (await release(store, "one")).digest

    async def work(tx):
        for n in range(number):
            await sessions.add(
                tx, session_id=f"ses_{n}", agent=AGENT, environment=ENVIRONMENT, release=digest,
                user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
            )  # fmt: skip
            await tasks.add(
                tx, task_id=f"task_{n:05d}", session_id=f"ses_{n}", agent=AGENT,
                environment=ENVIRONMENT, release=digest, given={},
            )  # fmt: skip
        return [claim.task.id for claim in await claims.claim(tx, worker_id=worker, limit=number)]

    return await store.transact(work)


async def task(store, task_id):
    return await store.read(lambda tx: tasks.get(tx, task_id))


def reaper(store, clock, *, is_gone=lambda _: False):
    return Reaper(store, chance=random.Random(1), clock=clock, is_gone=is_gone)


async def rounds(reaper, clock, seconds):
    for _ in range(int(seconds)):
        await reaper._round()
        clock.now += 1


async def test_a_lapsed_lease_is_renewed_as_long_as_nobody_was_given_the_tasks(store):
    await registered(store, lease_seconds=-1)
    (task_id,) = await owned(store)
    assert [w.overdue for w in await store.read(workers.registered)] == [True]
    assert await store.transact(partial(tasks.orphaned, limit=10)) == []
    assert await beat(store) is True
    assert [w.overdue for w in await store.read(workers.registered)] == [False]
    assert (await task(store, task_id)).state is TaskState.RUNNING


async def test_a_buried_worker_renews_nothing_and_what_it_owned_is_taken_over(store):
    await registered(store, lease_seconds=-1)
    (task_id,) = await owned(store)
    (seen,) = await store.read(workers.registered)
    assert await store.transact(partial(workers.bury, worker_id="w1", as_of_us=seen.as_of_us))
    assert await beat(store) is False
    assert [t.id for t in await store.transact(partial(tasks.orphaned, limit=10))] == [task_id]


async def test_a_beat_between_the_look_and_the_burial_saves_the_worker(store):
    await registered(store, lease_seconds=-1)
    (seen,) = await store.read(workers.registered)
    assert await beat(store, lease_seconds=0.001)
    bury = partial(workers.bury, worker_id="w1", as_of_us=seen.as_of_us)
    assert await store.transact(bury) is False


async def test_a_reaper_buries_only_what_has_lapsed_while_the_database_answered_all_along(database):
    if database.kind == "sqlite":
        pytest.skip("an embedded database has one server, and its reaper buries nobody")
    store = await database.open()
    clock = Clock()
    await registered(store, lease_seconds=-1)
    (task_id,) = await owned(store)
    one = reaper(store, clock)
    await rounds(one, clock, LEASE)
    assert (await task(store, task_id)).state is TaskState.RUNNING, "before one full lease"
    clock.now += 30  # the database was away, or this process stood still
    await rounds(one, clock, LEASE)
    assert (await task(store, task_id)).state is TaskState.RUNNING, "after an outage"
    one.disturb()
    await rounds(one, clock, LEASE)
    assert (await task(store, task_id)).state is TaskState.RUNNING, "after a failed claim"
    await rounds(one, clock, 1)
    found = await task(store, task_id)
    assert (found.state, found.losses) == (TaskState.QUEUED, 1)


async def test_a_neighbour_whose_process_has_ended_is_buried_at_once(database):
    if database.kind == "sqlite":
        pytest.skip("an embedded database has one server")
    store = await database.open()
    clock = Clock()
    await registered(store, "w1", process="here/1/1")
    await registered(store, "w2", process="here/2/2")
    (task_id,) = await owned(store)
    await rounds(reaper(store, clock, is_gone=lambda name: name == "here/1/1"), clock, 1)
    assert (await task(store, task_id)).state is TaskState.QUEUED
    assert [w.id for w in await store.read(workers.registered)] == ["w2"]


async def test_many_due_leases_are_taken_over_by_many_servers_each_task_once(database):
    store = await database.open()
    stores = [store]
    if database.kind == "postgres":
        stores += [await database.open() for _ in range(2)]
    ids = await owned(store, 1000)  # of a worker that never registered
    clock = Clock()
    await asyncio.gather(*(reaper(one, clock)._take_over() for one in stores))
    assert await store.transact(partial(tasks.orphaned, limit=10)) == []
    found = [await task(store, task_id) for task_id in ids[::50]]
    assert {(t.state, t.losses) for t in found} == {(TaskState.QUEUED, 1)}
    for one in found:
        kinds = [
            e.kind
            for e in await store.read(partial(events.after, task_id=one.id, after=0, limit=10))
        ]
        assert kinds == ["started", "requeued"]


async def test_what_was_cancelled_while_its_worker_died_ends_and_frees_its_session(store):
    (task_id,) = await owned(store)
    await store.transact(partial(endings.cancel, task_id=task_id))
    assert await store.transact(_take_batch) == 1
    found = await task(store, task_id)
    assert (found.state, found.outcome) == (TaskState.CANCELLED, "cancelled")
    kinds = [
        e.kind for e in await store.read(partial(events.after, task_id=task_id, after=0, limit=9))
    ]
    assert kinds == ["started", "finished"]
    assert (await store.read(lambda tx: tasks.live_in_session(tx, "ses_0")))[0] == 0


async def test_a_task_that_takes_every_worker_down_is_a_dead_letter_and_frees_its_session(
    store, database
):
    (task_id,) = await owned(store)
    for number in range(50):
        assert await store.transact(_take_batch) == 1
        found = await task(store, task_id)
        if found.state is not TaskState.QUEUED:
            break
        await database.execute("update tasks set run_after_us = 0")  # it waits longer each time
        taken = await store.transact(partial(claims.claim, worker_id=f"gone_{number}", limit=1))
        assert [claim.task.id for claim in taken] == [task_id]
    assert (found.state, found.outcome, found.losses) == (TaskState.DEAD_LETTERED, "lost", 10)
    assert found.epoch == 10
    await store.transact(
        partial(
            tasks.add, task_id="next", session_id="ses_0", agent=AGENT, environment=ENVIRONMENT,
            release=found.release, given={},
        )
    )  # fmt: skip
    (claim,) = await store.transact(partial(claims.claim, worker_id="w9", limit=1))
    assert claim.task.id == "next"


async def test_a_list_of_workers_says_what_each_owns(store):
    await registered(store, "w1")
    await registered(store, "w2")
    await owned(store, 3)
    found = await store.read(workers.listing)
    assert [(w.id, w.running, w.draining) for w in found] == [("w1", 3, False), ("w2", 0, False)]
