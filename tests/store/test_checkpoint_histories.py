"""Whatever happens to a session's checkpoints, those that stay read back as they were written."""

from __future__ import annotations

import os

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"  # as in an agent's process, before the import

from dataclasses import replace
from functools import partial
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from penstock.domain.errors import Conflict
from penstock.inside.attempts import Stopped
from penstock.store import checkpoints, endings
from rollout_world import release
from saver_attempt import claim_again, claimed, finish, saver_of, session

_numbers = count(1)
_texts = st.sampled_from(["", "short", "x" * 300, "long and the same " * 60, "other " * 200])
_changes = st.one_of(
    st.tuples(st.just("append"), _texts),
    st.tuples(st.just("replace"), st.integers(0, 5), _texts),
    st.tuples(st.just("trim"), st.integers(1, 4)),
    st.tuples(st.just("clear")),
    st.tuples(st.just("scalar"), _texts),
)
_steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 3), _changes),
    st.tuples(st.just("put"), st.just(0), _changes),
    st.tuples(st.just("branch"), st.integers(0, 1000), _changes),
    st.tuples(st.just("write"), st.integers(0, 1000), _texts),
    st.tuples(st.just("next task")),
    st.tuples(st.just("steal"), _changes),
    st.tuples(st.just("take back")),
    st.tuples(st.just("forget"), st.sets(st.integers(0, 1000), max_size=4)),
    st.tuples(st.just("fork"), st.integers(0, 1000)),
)


class History:
    """A session of the store, and beside it what it should hold."""

    def __init__(self, store, digest):
        self.store, self.digest = store, digest
        self.session = f"ses_{next(_numbers)}"
        self.kept = {}  # (namespace, id): values, parent, task, writes
        self.latest = {"": None, "sub": None}

    async def begin(self):
        await session(self.store, self.digest, self.session)
        await self.next_task()

    async def next_task(self):
        self.task = next(_numbers)
        self.claim = await claimed(self.store, self.digest, self.task, name=self.session)
        self.saver = saver_of(self.store, self.claim)

    def config(self, namespace, checkpoint_id):
        known = {"thread_id": self.session, "checkpoint_ns": namespace}
        return {"configurable": known | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}

    def place(self, number):
        return sorted(self.kept)[number % len(self.kept)] if self.kept else None

    async def put(self, namespace, parent, change, saver=None):
        saver = saver or self.saver
        before = self.kept[namespace, parent][0] if parent else {"items": [], "text": ""}
        values = changed(before, change)
        number = next(_numbers)
        versions = {
            name: number if parent is None or values[name] != before[name] else 0 for name in values
        }
        checkpoint = {
            **empty_checkpoint(), "id": str(uuid6(clock_seq=number)), "channel_values": values,
            "channel_versions": versions, "versions_seen": {"n": versions},
        }  # fmt: skip
        new = {name: version for name, version in versions.items() if version}
        await saver.aput(self.config(namespace, parent), checkpoint, {"step": number}, new)
        self.kept[namespace, checkpoint["id"]] = (values, parent, self.claim.task.id, {})
        self.latest[namespace] = checkpoint["id"]

    async def check(self):
        """Everything reads back, by id and in the listing, and nothing else is there."""
        for (namespace, found), (values, parent, task, writes) in self.kept.items():
            read = await self.saver.aget_tuple(self.config(namespace, found))
            assert read.checkpoint["channel_values"] == values
            assert read.metadata["penstock_task"] == task
            above = read.parent_config
            assert (above and above["configurable"]["checkpoint_id"]) == parent
            assert read.pending_writes == sorted(writes.values())
        for namespace in self.latest:
            listed = [one async for one in self.saver.alist(self.config(namespace, None))]
            ids = sorted((i for n, i in self.kept if n == namespace), reverse=True)
            assert [one.checkpoint["id"] for one in listed] == ids
            assert [one.checkpoint["channel_values"] for one in listed] == [
                self.kept[namespace, one][0] for one in ids
            ]

    async def keys(self):
        return {
            bytes(row["key"])
            for row in await self.store.read(
                lambda tx: tx.fetch_all("checkpoints.keys", session_id=self.session)
            )
        }


def changed(before, change):
    items, text = list(before["items"]), before["text"]
    match change:
        case ("append", new):
            items.append(new)
        case ("replace", at, new) if items:
            items[at % len(items)] = new
        case ("trim", most):
            items = items[most:]
        case ("clear",):
            items = []
        case ("scalar", new):
            text = new
    return {"items": items, "text": text}


async def run(history, step):
    store, saver = history.store, history.saver
    named = {"sealer": store.sealer, "session_id": history.session}
    match step:
        case ("put", which, change):
            namespace = "sub" if which == 3 else ""
            await history.put(namespace, history.latest[namespace], change)
        case ("branch", number, change) if place := history.place(number):
            await saver.aget_tuple(history.config(*place))
            await history.put(place[0], place[1], change)
        case ("write", number, text) if place := history.place(number):
            node = f"node{next(_numbers):06}"
            await saver.aput_writes(history.config(*place), [("text", text)], node)
            history.kept[place][3][node, history.claim.task.id] = (node, "text", text)
        case ("next task",):
            await finish(store, history.claim)
            await history.next_task()
        case ("steal", change):
            requeue = partial(endings.requeue, crashes=0, losses=1, delay_seconds=0, why={})
            claim = history.claim
            await store.transact(partial(requeue, task_id=claim.task.id, epoch=claim.epoch))
            history.claim = await claim_again(store, "w2")
            history.saver = saver_of(store, history.claim)
            try:
                await history.put("", history.latest[""], change, saver=saver)
            except Stopped:
                return
            raise AssertionError("a stale epoch wrote a checkpoint")
        case ("take back",):
            await take_back(history, history.claim.task.id)
        case ("forget", numbers) if history.kept:
            gone = {history.place(number) for number in numbers}
            await store.transact(partial(checkpoints.forget, gone=gone, **named))
            history.saver = another(history)
            drop(history, gone)
        case ("fork", number) if place := history.place(number):
            await fork(history, place[1])


def another(history):
    """A saver that remembers nothing, of the same claim."""
    return saver_of(history.store, replace(history.claim, blank=False))


async def take_back(history, task):
    gone = {place for place, kept in history.kept.items() if kept[2] == task}
    goes_on = any(
        kept[2] != task and (place[0], kept[1]) in gone for place, kept in history.kept.items()
    )
    try:
        await history.store.transact(
            partial(
                checkpoints.forget_task, sealer=history.store.sealer, session_id=history.session,
                task_id=task,
            )
        )  # fmt: skip
    except Conflict:
        assert goes_on
        return
    assert not goes_on
    history.saver = another(history)
    for kept in history.kept.values():
        for node, by in [one for one in kept[3] if one[1] == task]:
            del kept[3][node, by]
    drop(history, gone)


def drop(history, gone):
    for place in gone:
        del history.kept[place]
    for namespace in history.latest:
        ids = [i for n, i in history.kept if n == namespace]
        history.latest[namespace] = max(ids, default=None)


async def fork(history, until):
    other = History(history.store, history.digest)
    await session(history.store, history.digest, other.session)
    await history.store.transact(
        partial(
            checkpoints.copy, sealer=history.store.sealer, session_id=history.session,
            to_session_id=other.session, until=until,
        )
    )  # fmt: skip
    await other.next_task()
    other.kept = {place: kept for place, kept in history.kept.items() if place[1] <= until}
    other.kept = {place: (*kept[:3], dict(kept[3])) for place, kept in other.kept.items()}
    await other.check()
    await history.store.transact(lambda tx: checkpoints.delete_session(tx, other.session))
    assert await other.keys() == set()
    await finish(history.store, other.claim)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(_steps, max_size=45))
async def test_what_stays_reads_back(store, steps):
    digest = (await release(store, f"r{next(_numbers)}")).digest
    history = History(store, digest)
    await history.begin()
    for step in steps:
        await run(history, step)
    await history.check()
    # Nothing is kept that nothing refers to, once everything has been taken away.
    everything = partial(
        checkpoints.forget, sealer=store.sealer, session_id=history.session, gone=set(history.kept)
    )
    await store.transact(everything)
    assert await history.keys() == set()
    await finish(store, history.claim)
