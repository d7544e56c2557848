"""A task that waits for a person: its place, its fence, its one answer; on either database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from penstock.actions.tasks import TaskActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, Stale
from penstock.domain.tasks import TaskState, Wait
from penstock.rules.tasks import leave_after_edit
from penstock.store import claims, endings, events, fences, sessions, tasks, waiting
from rollout_world import AGENT, ENVIRONMENT, release

WAITS = (Wait(id="a", kind="interrupt", value={"refund": 3}), Wait(id="b", kind="tool", value=None))


@pytest.fixture
async def digest(store):
    return (await release(store, "one")).digest


async def begin(store, digest, *, close=False):
    """A session with two tasks, the first of which runs."""

    async def work(tx):
        await sessions.add(
            tx, session_id="ses_1", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        for number in (1, 2):
            await tasks.add(
                tx, task_id=f"task_{number}", session_id="ses_1", agent=AGENT,
                environment=ENVIRONMENT, release=digest, given=None, close_session=close,
            )  # fmt: skip

    await store.transact(work)
    (claimed,) = await claim(store)
    return claimed


async def claim(store, worker="w1"):
    return await store.transact(partial(claims.claim, worker_id=worker, limit=10))


async def wait(store, epoch=1, seconds=None, waits=WAITS):
    return await store.transact(
        partial(waiting.wait, task_id="task_1", epoch=epoch, waits=waits, wait_seconds=seconds)
    )


async def resume(store, **answers):
    async def work(tx):
        task = await tasks.get(tx, "task_1")
        return await waiting.resume(tx, task=task, answers=answers, said={"by": "somebody"})

    return await store.transact(work)


async def get(store, task_id="task_1"):
    return await store.read(lambda tx: tasks.get(tx, task_id))


async def said(store):
    found = await store.read(partial(events.after, task_id="task_1", after=0, limit=100))
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    return [(event.kind, event.data) for event in found]


async def test_a_waiting_task_keeps_its_place_and_gives_up_everything_else(store, digest):
    await begin(store, digest)
    task = await wait(store)
    assert (task.state, task.waits, task.worker_id) == (TaskState.WAITING, WAITS, None)
    assert await get(store) == task
    assert await claim(store) == []  # not the next one of the session, either
    assert await store.transact(partial(tasks.orphaned, limit=10)) == []
    assert await store.read(partial(tasks.of_worker, worker_id="w1")) == []
    assert await store.read(partial(tasks.live_in_session, session_id="ses_1")) == (1, 0)
    kinds = [kind for kind, _ in await said(store)]
    assert kinds == ["started", "waiting"]


async def test_what_it_was_answered_is_in_its_next_claims_until_it_has_got_on(store, digest):
    await begin(store, digest)
    await wait(store)
    await resume(store, a=True, b=[1, None])
    assert (await get(store)).waits == ()
    for epoch in (2, 3):
        (claimed,) = await claim(store)
        assert (claimed.task.id, claimed.epoch) == ("task_1", epoch)
        assert claimed.answers == {"a": True, "b": [1, None]}
        await store.transact(
            partial(
                endings.requeue, task_id="task_1", epoch=epoch, crashes=1, losses=0,
                delay_seconds=0, why={},
            )
        )  # fmt: skip
    await claim(store)
    await wait(store, epoch=4, waits=WAITS[:1])
    await resume(store, a="again")
    (claimed,) = await claim(store)
    assert claimed.answers == {"a": "again"}
    assert ("resumed", {"answers": {"a": "again"}, "by": "somebody"}) in await said(store)


async def test_a_resumed_task_goes_on_before_the_next_of_its_session(store, digest):
    await begin(store, digest)
    await wait(store)
    await resume(store, a=1)
    assert [one.task.id for one in await claim(store)] == ["task_1"]


async def test_of_many_who_answer_at_once_exactly_one_is_heard(store, digest):
    await begin(store, digest)
    await wait(store)
    tried = [resume(store, a=number) for number in range(8)]
    results = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 7
    (winner,) = [number for number, one in enumerate(results) if not isinstance(one, Conflict)]
    (claimed,) = await claim(store)
    assert claimed.answers == {"a": winner}
    assert [kind for kind, _ in await said(store)].count("resumed") == 1


async def test_the_same_answers_once_more_are_taken_as_heard(store, digest):
    actions = TaskActions(store, deltas=None, judges=None)
    other = replace(SYSTEM, name="another")

    async def answer(actor=SYSTEM, **given):
        return await actions.resume(actor, "task_1", **given)

    await begin(store, digest)
    await wait(store, waits=[Wait(id=name, kind="ask", value="?") for name in "ab"])
    assert (await answer(answers={"a": 1, "b": 2})).state is TaskState.QUEUED
    assert (await answer(answers={"a": 1, "b": 2})).state is TaskState.QUEUED
    for different in ({"a": 1}, {"a": 1, "b": 3}, {"a": True, "b": 2}):
        with pytest.raises(Conflict):
            await answer(answers=different)
    with pytest.raises(Conflict):
        await answer(other, answers={"a": 1, "b": 2})
    await claim(store)
    assert (await answer(answers={"a": 1, "b": 2})).state is TaskState.RUNNING
    await wait(store, epoch=2, waits=[Wait(id="c", kind="ask", value="?")])
    assert (await answer(answers={"a": 1, "b": 2})).state is TaskState.WAITING  # not for these
    await answer(answer="yes")
    assert (await answer(answer="yes")).state is TaskState.QUEUED
    with pytest.raises(Conflict):
        await answer(answer="no")
    assert [kind for kind, _ in await said(store)].count("resumed") == 2


async def test_a_task_that_asks_something_else_is_answered_only_that(store, digest):
    await begin(store, digest)
    before = await wait(store)
    leave = leave_after_edit("1ef")
    await store.transact(partial(waiting.ask_instead, task=before, waits=[leave]))
    assert (await get(store)).waits == (leave,)
    actions = TaskActions(store, deltas=None, judges=None)
    with pytest.raises(Conflict, match="does not wait for a") as refused:
        await actions.resume(SYSTEM, "task_1", answers={"a": 1})
    assert "edited" in refused.value.hint
    await actions.resume(SYSTEM, "task_1", answer="go on")
    (claimed,) = await claim(store)
    assert claimed.answers == {leave.id: "go on"}
    with pytest.raises(Conflict, match="no longer"):
        await store.transact(partial(waiting.ask_instead, task=before, waits=[leave]))
    assert [kind for kind, _ in await said(store)] == [
        "started", "waiting", "waiting", "resumed", "started", "step.restarted",
    ]  # fmt: skip


async def test_an_answer_to_an_earlier_wait_is_refused(store, digest):
    await begin(store, digest)
    before = await wait(store)
    await resume(store, a=1)
    await claim(store)
    await wait(store, epoch=2)
    with pytest.raises(Conflict):
        await store.transact(partial(waiting.resume, task=before, answers={"a": 2}, said={}))
    assert (await get(store)).state is TaskState.WAITING


async def test_a_late_attempt_cannot_make_its_task_wait(store, digest):
    await begin(store, digest)
    await store.transact(
        partial(
            endings.requeue, task_id="task_1", epoch=1, crashes=0, losses=1, delay_seconds=0, why={}
        )
    )
    await claim(store)
    with pytest.raises(Stale):
        await wait(store, epoch=1)
    assert (await get(store)).state is TaskState.RUNNING
    await wait(store, epoch=2)
    with pytest.raises(Stale):  # nor write anything while it waits
        await store.transact(partial(fences.advance, task_id="task_1", epoch=2, steps=1))


async def test_a_waiting_task_can_be_cancelled_and_its_session_goes_on(store, digest):
    await begin(store, digest)
    await wait(store)
    ended = await store.transact(lambda tx: endings.cancel(tx, "task_1"))
    assert (ended.state, ended.waits) == (TaskState.CANCELLED, ())
    with pytest.raises(Conflict):
        await resume(store, a=1)
    assert [one.task.id for one in await claim(store)] == ["task_2"]


async def test_a_cancel_that_came_before_the_wait_is_obeyed(store, digest):
    await begin(store, digest)
    await store.transact(lambda tx: endings.cancel(tx, "task_1"))
    assert (await wait(store)).state is TaskState.CANCELLED


async def test_the_time_a_person_took_is_not_the_releases(store, digest):
    await begin(store, digest)
    await wait(store)
    await asyncio.sleep(0.2)
    await resume(store, a=1)
    await claim(store)
    ended = await store.transact(
        partial(
            endings.finish, task_id="task_1", epoch=2, state=TaskState.COMPLETED, outcome="ok",
            crashes=0, losses=0,
        )
    )  # fmt: skip
    took = ended.finished_us - ended.started_us
    session = await store.read(lambda tx: sessions.get(tx, "ses_1"))
    assert session.busy_us <= took - 200_000


async def test_whoever_is_not_answered_in_time_fails(store, digest):
    await begin(store, digest, close=True)
    await wait(store, seconds=3600)
    assert await store.transact(partial(waiting.expire_waits, limit=10)) == []
    await resume(store, a=1)
    await claim(store)
    await wait(store, epoch=2, seconds=-1)
    (ended,) = await store.transact(partial(waiting.expire_waits, limit=10))
    assert (ended.id, ended.state, ended.outcome) == ("task_1", TaskState.FAILED, "timeout")
    assert await store.transact(partial(waiting.expire_waits, limit=10)) == []
    assert (await said(store))[-1][0] == "finished"
    session = await store.read(lambda tx: sessions.get(tx, "ses_1"))
    assert (session.tasks, session.failures, session.state) == (1, 1, "open")


async def test_a_client_that_hangs_up_ends_what_runs_and_not_what_waits_for_a_person(store, digest):
    await begin(store, digest)
    await wait(store)
    actions = TaskActions(store, deltas=None, judges=None)
    assert (await actions.abandon(SYSTEM, "task_1")).state is TaskState.WAITING
    await resume(store, a=1)
    await claim(store)
    assert (await actions.abandon(SYSTEM, "task_1")).cancel_requested
    assert (await actions.abandon(SYSTEM, "task_2")).state is TaskState.CANCELLED
