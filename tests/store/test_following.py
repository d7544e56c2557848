"""Following tasks on either database: pages, shared looks, and deltas of other servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest

from penstock.actions.sessions import Judges
from penstock.actions.streams import Following
from penstock.actions.tasks import TaskActions
from penstock.domain.errors import NotFound
from penstock.domain.tasks import Delta, Dropped, End, Event, TaskState
from penstock.runtime.deltas import Deltas
from penstock.store import Store, claims, endings, events, fences, logs, sessions, tasks
from rollout_world import ADA, AGENT, ENVIRONMENT, release

EVERY = ("events", "updates", "messages", "custom")
END = {"state": TaskState.COMPLETED, "outcome": "ok", "crashes": 0, "losses": 0}


@pytest.fixture
async def task(store):
    """A task that runs, in its first epoch."""
    digest = (await release(store, "one")).digest

    async def work(tx):
        await sessions.add(
            tx, session_id="ses_1", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        await tasks.add(
            tx, task_id="task_1", session_id="ses_1", agent=AGENT, environment=ENVIRONMENT,
            release=digest, given={},
        )  # fmt: skip

    await store.transact(work)
    await store.transact(partial(claims.claim, worker_id="w", limit=1))
    return "task_1"


def say(store, *said, epoch=1):
    return store.transact(partial(fences.advance, task_id="task_1", epoch=epoch, said=said))


def delta(data, mode="messages", **more):
    return Delta(task_id="task_1", epoch=1, step=0, data=data, mode=mode, **more)


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.embedded = True
        self.reads = 0

    def subscribe(self, channel, callback):
        return self._store.subscribe(channel, callback)

    async def read(self, work):
        self.reads += 1
        return await self._store.read(work)


async def all_of(reader):
    items = []
    while not reader.ended:
        items += await reader.take(5)
    reader.close()
    return items


async def test_pages_are_bounded_by_bytes_and_hold_one_event_at_least(store, task):
    await say(store, *(("update", "x" * 1000) for _ in range(9)), ("update", "y" * 9000))

    def page(after, most_bytes):
        return store.read(
            partial(events.after, task_id=task, after=after, limit=100, most_bytes=most_bytes)
        )

    assert [event.seq for event in await page(1, 2500)] == [2, 3, 4]
    assert [event.seq for event in await page(10, 100)] == [11]
    assert [event.seq for event in await page(0, 1 << 30)] == list(range(1, 12))


async def test_an_event_that_is_too_large_leaves_a_mark(store, task):
    await say(store, ("update", {"node": "é" * 1_000_000, "small": 1}))
    found = await store.read(partial(events.after, task_id=task, after=1, limit=1))
    assert found[0].data["small"] == 1
    assert found[0].data["node"]["bytes"] == 2_000_002


async def test_a_second_attempt_says_which_step_begins_anew(store, task):
    await store.transact(partial(fences.advance, task_id=task, epoch=1, steps=2))
    await store.transact(
        partial(
            endings.requeue, task_id=task, epoch=1, crashes=1, losses=0, delay_seconds=0, why={}
        )
    )
    await store.transact(partial(claims.claim, worker_id="w2", limit=1))
    found = await store.read(partial(events.after, task_id=task, after=0, limit=100))
    assert [(event.kind, event.seq, event.epoch) for event in found] == [
        ("started", 1, 1),
        ("requeued", 2, 1),
        ("started", 3, 2),
        ("step.restarted", 4, 2),
    ]
    assert found[-1].data == {"epoch": 2, "step": 2}


async def test_a_hundred_readers_share_each_look_at_the_store(store, task):
    counting = Counting(store)
    following = Following(counting, Deltas(counting))
    pulse = await following.pulse(task)
    readers = [following.reader(task, pulse, after=0, modes=EVERY) for _ in range(100)]
    reading = [asyncio.create_task(all_of(reader)) for reader in readers]
    for number in range(5):
        await say(store, ("update", number), ("update", number))
        await asyncio.sleep(0)
    await store.transact(partial(endings.finish, task_id=task, epoch=1, **END))
    stories = await asyncio.gather(*reading)
    assert all(story == stories[0] for story in stories)
    kinds = Counter(item.kind for item in stories[0] if isinstance(item, Event))
    assert kinds == {"started": 1, "update": 10, "finished": 1}
    assert stories[0][-1] == End(task_id=task, state="completed", outcome="ok", last=12)
    # Each look serves all: at the beginning, and behind each of seven commits and their echoes.
    assert counting.reads < 50


async def test_readers_that_wait_ask_nothing(store, task):
    counting = Counting(store)
    following = Following(counting, Deltas(counting))
    pulse = await following.pulse(task)
    readers = [following.reader(task, pulse, after=1, modes=EVERY) for _ in range(50)]
    assert await asyncio.gather(*(reader.take(0.05) for reader in readers)) == [[]] * 50
    asked = counting.reads
    assert await asyncio.gather(*(reader.take(0.05) for reader in readers)) == [[]] * 50
    assert counting.reads == asked
    for reader in readers:
        reader.close()
    assert following._tasks == {}
    assert following._polling is None


async def test_a_lost_notification_costs_a_poll(store, task, monkeypatch):
    monkeypatch.setattr("penstock.actions.streams._POLL_SECONDS", 0.05)
    counting = Counting(store)
    counting.subscribe = lambda *_: lambda: None
    following = Following(counting, Deltas(counting))
    reader = following.reader(task, await following.pulse(task), after=1, modes=EVERY)
    assert await reader.take(0.01) == []
    await say(store, ("update", 1))
    assert [item.seq for item in await reader.take(10)] == [2]
    reader.close()


async def test_a_reader_of_one_mode_gets_it_and_what_happens_to_the_task(store, task):
    deltas = Deltas(Counting(store))
    following = Following(store, deltas)
    pulse = await following.pulse(task)
    reader = following.reader(task, pulse, after=0, modes={"events", "custom"})
    assert [item.kind for item in await reader.take(5)] == ["started"]
    deltas.publish(delta("hidden"))
    deltas.publish(delta("seen", "custom"))
    [item] = await reader.take(5)
    assert (item.data, item.size_bytes) == ("seen", 6)
    await say(store, ("update", 1))
    await store.transact(partial(endings.finish, task_id=task, epoch=1, **END))
    assert [type(item) for item in await all_of(reader)] == [Event, End]


async def test_a_stalled_reader_keeps_little_and_delays_nobody(store, task):
    deltas = Deltas(Counting(store))
    following = Following(store, deltas)
    pulse = await following.pulse(task)
    stalled = following.reader(task, pulse, after=1, modes=EVERY)
    for number in range(5000):
        deltas.publish(delta({"number": number, "text": "x" * 1000}))
    items = await stalled.take(5)
    assert isinstance(items[0], Dropped)
    assert items[0].count + len(items) - 1 == 5000
    assert sum(item.size_bytes for item in items[1:]) <= 1 << 20
    assert items[-1].data["number"] == 4999
    stalled.close()


async def test_a_delta_that_is_too_large_leaves_a_mark(store, task, caplog):
    deltas = Deltas(Counting(store))
    heard = []
    deltas.subscribe(task, heard.append)
    deltas.publish(delta("x" * 100_000))
    assert heard[0].data["truncated"] is True
    assert "100002 bytes" in caplog.text


async def test_a_task_that_is_over_ends_its_stream_at_once(store, task):
    await store.transact(partial(endings.finish, task_id=task, epoch=1, **END))
    actions = TaskActions(store, Deltas(Counting(store)), Judges())
    for header, expected in (("2", [End]), ("1", [Event, End]), (None, [Event, Event, End])):
        reader = await actions.stream(ADA, task, last_event_id=header)
        assert [type(item) for item in await all_of(reader)] == expected
    with pytest.raises(NotFound):
        await actions.stream(ADA, "task_none")


async def test_printed_lines_behind_one(store, task):
    pieces = [("stdout", str(number)) for number in range(3)]
    for epoch in (1, 2):
        await store.transact(
            partial(logs.append, task_id=task, epoch=epoch, first=1, pieces=pieces)
        )
    found = await store.read(partial(logs.of_task, task_id=task, after=(1, 2)))
    assert [(line.epoch, line.number) for line in found] == [(1, 3), (2, 1), (2, 2), (2, 3)]


async def test_servers_pass_deltas_on_while_somebody_reads_elsewhere(database, store, task):
    if database.kind != "postgres":
        pytest.skip("one server has an embedded database for itself")
    other = await database.open()
    running, reading = Deltas(store), Deltas(other)
    running.publish(delta("nobody listens"))
    assert running._relay._outgoing == {}
    heard: list[Delta | Dropped] = []
    arrived = asyncio.Event()

    def listen(item):
        heard.append(item)
        arrived.set()

    stop = reading.subscribe(task, listen)
    try:
        async with asyncio.timeout(20):
            while not heard:  # until the running server has heard who listens
                running.publish(delta("first"))
                await asyncio.sleep(0.02)
            for number in range(300):
                running.publish(delta({"number": number, "text": "ü" * 20}, namespace=("a:1",)))
            while heard[-1].data == "first" or heard[-1].data["number"] < 299:
                arrived.clear()
                await arrived.wait()
        numbers = [item.data["number"] for item in heard if item.data != "first"]
        assert numbers == list(range(300))
        assert heard[-1].namespace == ("a:1",)
        stop()
        running._relay._wanted[task] = 0.0  # the reader's interest has run out
        running.publish(delta("nobody listens any more"))
        assert running._relay._outgoing == {}
    finally:
        await running.close()
        await reading.close()
