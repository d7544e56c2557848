"""Whoever lost a task changes nothing any more, on either database."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from penstock.domain.errors import Conflict, Stale
from penstock.domain.tasks import TaskState
from penstock.domain.tool_calls import CallState, ToolCall
from penstock.rules.checkpoints import Sealer, key_of, snapshot
from penstock.store import (
    Commit,
    checkpoints,
    claims,
    endings,
    events,
    fences,
    sessions,
    steps,
    tasks,
    tool_calls,
)
from penstock.store.checkpoints import Checkpoint, Write
from rollout_world import AGENT, ENVIRONMENT, release

CHECKPOINT = Checkpoint(
    namespace="", checkpoint_id="1", parent_id=None, task_id="task_1", data=snapshot({}),
    metadata=b"{}",
)  # fmt: skip
CALL = ToolCall(
    task_id="task_1", place="0", request="r", number=1, tool="pay", effect="write", retry="never",
    arguments={"what": "rent"}, epoch=1, state=CallState.BEGUN,
)  # fmt: skip
WRITE = Write(node_task="n", number=0, channel="c", path="", data=b"1", checkpoint_id="1")
SEALER = Sealer(b"key")
CONTENTS = {key_of(b"\0text"): b"\0text"}
END = {"state": TaskState.COMPLETED, "outcome": "ok", "crashes": 0, "losses": 0}


@pytest.fixture
async def digest(store):
    return (await release(store, "one")).digest


async def begin(store, digest, *, session="ses_1", close=False, judge=None):
    async def work(tx):
        await sessions.add(
            tx, session_id=session, agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=judge,
        )  # fmt: skip

    await store.transact(work)
    return close


async def submit(store, digest, number, *, session="ses_1", **more):
    return await store.transact(
        partial(
            tasks.add, task_id=f"task_{number}", session_id=session, agent=AGENT,
            environment=ENVIRONMENT, release=digest, given={"n": number}, **more,
        )
    )  # fmt: skip


async def claim(store, worker="w1", limit=10):
    return await store.transact(partial(claims.claim, worker_id=worker, limit=limit))


async def everything(store):
    async def work(tx):
        return (
            await tasks.get(tx, "task_1"),
            await sessions.get(tx, "ses_1"),
            await events.after(tx, task_id="task_1", after=0, limit=100),
            await steps.journal(tx, "task_1"),
            await checkpoints.listing(
                tx, sealer=SEALER, session_id="ses_1", namespace=None, before=None, limit=None
            ),
            await tx.fetch_all("checkpoints.writes_of_session", session_id="ses_1"),
            await tx.fetch_all("checkpoints.keys", session_id="ses_1"),
            await tool_calls.of_task(tx, "task_1"),
        )

    return await store.read(work)


FENCED = {
    "advance": partial(fences.advance, task_id="task_1", epoch=1, steps=1, said=[("x", 1)]),
    "ensure_owned": partial(fences.ensure_owned, task_id="task_1", epoch=1),
    "finish": partial(endings.finish, task_id="task_1", epoch=1, **END),
    "requeue": partial(
        endings.requeue, task_id="task_1", epoch=1, crashes=1, losses=1, delay_seconds=0, why={}
    ),
    "step": partial(steps.commit, task_id="task_1", epoch=1, key="a#1", output=1, said=[("x", 1)]),
    "checkpoint": checkpoints.of(
        CHECKPOINT, sealer=SEALER, session_id="ses_1", epoch=1, release="one", said=[("x", 1)],
        stored=CONTENTS, writes=[WRITE],
    )[0],
    "writes": checkpoints.of_writes(
        [WRITE], sealer=SEALER, session_id="ses_1", task_id="task_1", epoch=1, stored=CONTENTS
    ),
    "tool_call": partial(tool_calls.put, call=CALL),
}  # fmt: skip


async def fenced(store, write):
    """What may share a transaction with others goes as it does in an attempt."""
    return await (store.commit(write) if isinstance(write, Commit) else store.transact(write))


@pytest.mark.parametrize("write", FENCED)
async def test_a_stale_epoch_writes_nothing(store, digest, write):
    await begin(store, digest)
    await submit(store, digest, 1)
    await claim(store, "w1")
    await store.transact(
        partial(
            endings.requeue, task_id="task_1", epoch=1, crashes=0, losses=1, delay_seconds=0, why={}
        )
    )
    assert (await claim(store, "w2"))[0].epoch == 2
    before = await everything(store)
    with pytest.raises(Stale):
        await fenced(store, FENCED[write])
    assert await everything(store) == before


@pytest.mark.parametrize("write", [name for name in FENCED if name != "ensure_owned"])
async def test_nothing_is_written_to_a_task_that_has_ended(store, digest, write):
    await begin(store, digest)
    await submit(store, digest, 1)
    await claim(store)
    await store.transact(partial(endings.finish, task_id="task_1", epoch=1, output="x", **END))
    before = await everything(store)
    with pytest.raises(Stale):
        await fenced(store, FENCED[write])
    assert await everything(store) == before


async def test_a_sessions_tasks_run_one_after_the_other_in_their_order(store, digest):
    await begin(store, digest)
    for number in (1, 2, 3):
        await submit(store, digest, number)
    order = []
    while taken := await claim(store):
        (only,) = taken
        assert await claim(store, "w2") == []
        order.append(only.task.id)
        await store.transact(partial(endings.finish, task_id=only.task.id, epoch=1, **END))
    assert order == ["task_1", "task_2", "task_3"]


async def test_a_begun_task_that_waits_is_not_overtaken(store, digest):
    await begin(store, digest)
    await submit(store, digest, 1)
    await claim(store)
    await submit(store, digest, 2)
    await store.transact(
        partial(
            endings.requeue,
            task_id="task_1",
            epoch=1,
            crashes=1,
            losses=0,
            delay_seconds=60,
            why={},
        )
    )
    assert await claim(store) == []


async def test_workers_that_claim_at_once_never_share_a_task(store, digest):
    for number in range(40):
        await begin(store, digest, session=f"ses_{number}")
        await submit(store, digest, number, session=f"ses_{number}")

    async def worker(name):
        found = []
        while True:
            try:
                taken = await claim(store, name, limit=3)
            except Conflict:
                continue
            if not taken:
                return found
            found += [one.task.id for one in taken]

    claimed = await asyncio.gather(*(worker(f"w{number}") for number in range(6)))
    flat = [task for found in claimed for task in found]
    assert len(flat) == len(set(flat)) == 40


async def test_events_have_no_gaps_however_many_write(store, digest):
    await begin(store, digest)
    await submit(store, digest, 1)
    await claim(store)
    await asyncio.gather(
        *(
            store.transact(
                partial(fences.advance, task_id="task_1", epoch=1, said=[("x", n), ("y", n)])
            )
            for n in range(30)
        )
    )
    found = await store.read(partial(events.after, task_id="task_1", after=0, limit=1000))
    assert [event.seq for event in found] == list(range(1, 62))


async def test_the_end_of_a_task_is_counted_in_its_session_once(store, digest):
    await begin(store, digest, judge=digest)
    await submit(store, digest, 1, close_session=True)
    await claim(store)
    await store.transact(
        partial(
            endings.finish, task_id="task_1", epoch=1, state=TaskState.FAILED, outcome="error",
            error={"type": "E"}, crashes=0, losses=0,
        )
    )  # fmt: skip
    session = await store.read(lambda tx: sessions.get(tx, "ses_1"))
    assert (session.tasks, session.failures, session.state) == (1, 1, "closed")
    ((waiting, judge),) = await store.read(partial(sessions.to_judge, limit=10))
    assert (waiting.id, judge) == ("ses_1", digest)
    judged = partial(sessions.judged, session_id="ses_1", error=None)
    assert await store.transact(partial(judged, score=0.5)) is True
    assert await store.transact(partial(judged, score=0.9)) is False
    assert (await store.read(lambda tx: sessions.get(tx, "ses_1"))).score == 0.5


async def test_a_committed_step_ends_the_count_of_losses(store, digest):
    await begin(store, digest)
    await submit(store, digest, 1)
    await claim(store)
    await store.transact(
        partial(
            endings.requeue, task_id="task_1", epoch=1, crashes=2, losses=5, delay_seconds=0, why={}
        )
    )
    await claim(store)
    await store.transact(
        partial(steps.commit, task_id="task_1", epoch=2, key="a#1", output=1, said=[])
    )
    task = await store.read(lambda tx: tasks.get(tx, "task_1"))
    assert (task.losses, task.crashes) == (0, 2)


async def test_cancelling_ends_what_waits_and_asks_what_runs(store, digest):
    await begin(store, digest)
    await submit(store, digest, 1)
    await submit(store, digest, 2)
    await claim(store)
    asked = await store.transact(lambda tx: endings.cancel(tx, "task_1"))
    assert (asked.state, asked.cancel_requested) == (TaskState.RUNNING, True)
    ended = await store.transact(lambda tx: endings.cancel(tx, "task_2"))
    assert ended.state is TaskState.CANCELLED
    assert (await store.transact(lambda tx: endings.cancel(tx, "task_2"))).state is ended.state


async def test_one_failing_unit_of_work_does_not_harm_the_others(store, digest):
    async def fails(tx):
        await sessions.add(
            tx, session_id="ses_bad", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        raise ValueError("on purpose")

    good = [begin(store, digest, session=f"ses_{number}") for number in range(20)]
    results = await asyncio.gather(*good, store.transact(fails), return_exceptions=True)
    assert sum(isinstance(result, ValueError) for result in results) == 1
    found = await store.read(partial(sessions.listing, limit=100))
    assert {session.id for session in found} == {f"ses_{number}" for number in range(20)}


async def test_a_text_that_is_hard_to_keep_comes_back_as_it_was(store, digest):
    await begin(store, digest)
    given = {"text": 'quotes " and \\ and ümläute 🎈', "deep": [[[1.5, None, True]]]}
    await store.transact(
        partial(
            tasks.add, task_id="task_1", session_id="ses_1", agent=AGENT,
            environment=ENVIRONMENT, release=digest, given=given,
        )
    )  # fmt: skip
    assert (await store.read(lambda tx: tasks.get(tx, "task_1"))).input == given
