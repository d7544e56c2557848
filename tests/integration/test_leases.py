"""What a worker owns while its event loop is blocked, and while the database is away.

A reaper of another server, in a thread and with connections of its own, would take over whatever
looks lost. Beat, self-stop and lease are a quarter of what they are, so that nobody waits long.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from functools import partial

import pytest
from test_runtime import World, at_second_step
from zygote_harness import is_alive

from penstock.actions.signing import SigningActions
from penstock.domain.tasks import TaskState
from penstock.drivers.signing.files import FileKeys
from penstock.runtime import heartbeats, reapers, workers
from penstock.runtime.reapers import Reaper
from penstock.store import Store, endings
from penstock.store import workers as rows
from postgres_server import PostgresServer
from rollout_world import release
from waiting import wait_until

BEAT, SELF_STOP, LEASE = 0.5, 1.5, 2.0


class Elsewhere(threading.Thread):
    """Another server's reaper."""

    def __init__(self, home, url):
        super().__init__(daemon=True)
        self._home, self._url = home, url
        self._over = threading.Event()
        self.steady = threading.Event()  # it would bury now

    def run(self):
        asyncio.run(self._reap())

    async def _reap(self):
        store = Store(home=self._home, url=self._url)
        await store.open()
        reaper = Reaper(store, chance=random.Random(1))
        reaper.start()
        while not self._over.is_set():
            await asyncio.sleep(0.05)
            if reaper._answered_at is not None and reaper._steady():
                self.steady.set()
        await reaper.stop()
        await store.close()

    def stop(self):
        self._over.set()
        self.join(20)
        assert not self.is_alive()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    for module in (heartbeats, reapers, workers):
        for name, value in (
            ("BEAT_SECONDS", BEAT),
            ("SELF_STOP_SECONDS", SELF_STOP),
            ("LEASE_SECONDS", LEASE),
            ("_LEAST_PATIENCE_SECONDS", 0.25),
            ("_ROUND_SECONDS", 0.25),
            ("_GAP_SECONDS", 0.75),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def server():
    with PostgresServer(fsync="off") as found:
        yield found


@pytest.fixture
async def world(tmp_path, server):
    url = await server.database()
    found = World(tmp_path)
    found.store = Store(home=tmp_path / "home", url=url)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    elsewhere = found.elsewhere = Elsewhere(tmp_path / "other", url)
    elsewhere.start()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    elsewhere.stop()
    await found.store.close()


async def running(world):
    """A task that has committed two steps and waits, the pid of its attempt, and its worker."""
    worker = await world.worker()
    task = await world.submit("steps")
    await at_second_step(world, task)
    (attempt,) = worker._attempts.values()
    await asyncio.to_thread(world.elsewhere.steady.wait, 30)
    return task, attempt.pid, worker


async def finish(world, task):
    """Let the task end; its epoch."""
    (world.folder / "go").touch()
    done = await world.ended(task)
    assert (done.state, done.output) == (TaskState.COMPLETED, ["first", "third"])
    assert (done.crashes, done.losses) == (0, 0)
    assert (world.folder / "done").read_text() == "first\nsecond\nthird\n"
    return done.epoch


pytestmark = pytest.mark.postgres


async def test_a_blocked_event_loop_loses_nothing_and_repeats_nothing(world):
    task, _, worker = await running(world)
    name = worker.id
    time.sleep(2 * LEASE)  # the loop of the worker stands still; its heart does not
    assert await finish(world, task) == 1
    assert worker.id == name


async def test_attempts_go_on_through_a_short_outage(world, server):
    task, pid, _ = await running(world)
    server.pause()
    await asyncio.sleep(SELF_STOP / 2)
    server.resume()
    assert is_alive(pid)
    assert await finish(world, task) == 1


async def test_attempts_are_stopped_in_time_although_the_loop_is_blocked(world, server):
    _, pid, _ = await running(world)
    server.stop()
    try:
        wait_until(lambda: not is_alive(pid))  # this blocks the loop
    finally:
        server.start()


async def test_after_an_outage_longer_than_the_lease_nothing_was_taken_for_dead(world, server):
    task, pid, worker = await running(world)
    name = worker.id
    server.stop()
    await asyncio.sleep(LEASE + 1)
    assert not is_alive(pid)
    assert not worker.ready
    server.start()
    # It goes on behind its second step, under a new epoch, and no loss is counted.
    assert await finish(world, task) >= 2
    assert worker.id == name


async def test_a_stalled_database_takes_nobody_for_dead(world, server):
    task, _, worker = await running(world)
    name = worker.id
    server.pause()  # connections stay open: queries that were under way end when it goes on
    await asyncio.sleep(LEASE + 1)
    server.resume()
    # A claim that was under way may come before the first beat, and is handed back once more.
    assert await finish(world, task) >= 2
    assert worker.id == name


async def test_a_worker_that_was_buried_stops_and_goes_on_under_a_new_name(world):
    task, pid, worker = await running(world)
    name = worker.id
    await world.store.transact(partial(rows.bury, worker_id=name, as_of_us=None))

    async def begun_again():
        return worker.id != name and worker.ready

    await world.until(begun_again)
    wait_until(lambda: not is_alive(pid))
    (world.folder / "go").touch()
    done = await world.ended(task)
    assert done.output == ["first", "third"]
    assert done.epoch >= 2
    assert (world.folder / "done").read_text() == "first\nsecond\nthird\n"


async def test_without_any_notification_a_task_begins_at_the_next_poll(world):
    worker = await world.worker()
    world.store._deliver = lambda *_: None
    for channel in ("queue", "cancel"):
        world.store._subscribers[channel].clear()
    task = await world.submit("hang")

    async def state(wanted):
        return (await world.task(task)).state is wanted

    await world.until(lambda: state(TaskState.RUNNING))
    await world.store.transact(partial(endings.cancel, task_id=task))
    await world.until(lambda: state(TaskState.CANCELLED))
    worker._unsubscribe.clear()


async def test_a_process_holds_no_more_than_ten_connections(world):
    await world.worker()
    busy = [world.store.transact(_slow) for _ in range(40)]
    counts, *_ = await asyncio.gather(world.store.transact(_connections), *busy)
    elsewhere = 2  # that reaper uses one of its pool, and listens with another
    assert counts <= 10 + elsewhere


async def _slow(tx):
    await tx.fetch_all("workers.registered")


async def _connections(tx):
    (found,) = await tx._connection.fetch(
        "select count(*) as n from pg_stat_activity where datname = current_database()"
    )
    return found["n"]
