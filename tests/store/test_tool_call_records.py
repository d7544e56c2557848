"""The journal of tool calls on either database, and which recorded answer a model call finds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from penstock.domain.exchanges import Caller, Exchange
from penstock.domain.tool_calls import CallState, ToolCall
from penstock.store import claims, exchanges, sessions, tasks, tool_calls
from rollout_world import AGENT, ENVIRONMENT, release

CALL = ToolCall(
    task_id="task_1", place="a#1", request="r", number=1, tool="pay", effect="write",
    retry="never", arguments={"what": "rent"}, epoch=1, state=CallState.BEGUN,
)  # fmt: skip


@pytest.fixture
async def running(store):
    """A store in which task_1 runs under epoch 1."""
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
        return await claims.claim(tx, worker_id="w1", limit=1)

    await store.transact(work)
    return store


async def put(store, call):
    await store.transact(partial(tool_calls.put, call=call))


async def found(store, call=CALL):
    return await store.read(
        partial(
            tool_calls.find, task_id=call.task_id, place=call.place, request=call.request,
            number=call.number,
        )
    )  # fmt: skip


async def test_an_intent_and_its_result(running):
    assert await found(running) is None
    await put(running, CALL)
    begun = await found(running)
    assert begun == replace(CALL, begun_us=begun.begun_us)
    assert begun.begun_us > 0
    done = replace(CALL, state=CallState.DONE, encoding="json", result=b"\x00\xff")
    for _ in range(2):  # as when the answer to a commit was lost
        await put(running, done)
    ended = await found(running)
    assert ended == replace(done, begun_us=begun.begun_us, ended_us=ended.ended_us)
    assert ended.ended_us >= ended.begun_us
    assert len(await running.read(partial(tool_calls.of_task, task_id="task_1"))) == 1


async def test_equal_requests_are_kept_apart_and_in_order(running):
    for place, number in (("a#1", 1), ("a#1", 2), ("b#1", 1)):
        await put(running, replace(CALL, place=place, number=number))
    listed = await running.read(partial(tool_calls.of_task, task_id="task_1"))
    assert [(call.place, call.number) for call in listed] == [("a#1", 1), ("a#1", 2), ("b#1", 1)]


async def test_an_error_and_an_empty_result(running):
    raised = replace(CALL, state=CallState.RAISED, error={"type": "E", "message": "m"})
    await put(running, raised)
    assert (await found(running)).error == {"type": "E", "message": "m"}
    await put(running, replace(CALL, state=CallState.DONE, encoding="bytes", result=b""))
    again = await found(running)
    assert (again.result, again.error) == (b"", None)


def exchange(number, *, epoch, step=0, scope="", replayed_from=None):
    caller = Caller(
        task_id="task_1", session_id="ses_1", agent=AGENT, environment=ENVIRONMENT, release="r",
        epoch=epoch, step=step, scope=scope,
    )  # fmt: skip
    return Exchange(
        id=f"exc_{number}", caller=caller, alias="main", request_digest="d", request={},
        response={"body": f"b{number}"}, status=200, outcome="ok", streamed=False,
        provider=None, model=None, model_returned=None, fingerprint=None, attempts=(),
        replayed_from=replayed_from, started_us=number,
    )  # fmt: skip


async def test_a_model_call_with_a_scope_finds_what_was_recorded_there(running):
    """Steps side by side shift each other's count of steps, and never each other's scope."""
    for one in (
        exchange(1, epoch=1, step=0),
        exchange(2, epoch=1, step=0, scope="a"),
        exchange(3, epoch=1, step=1, scope="b"),
        exchange(4, epoch=1, step=1, scope="b"),
    ):
        await running.transact(partial(exchanges.add, exchange=one))

    async def repeatable(step, scope):
        rows = await running.read(
            partial(
                exchanges.repeatable, task_id="task_1", step=step, scope=scope,
                request_digest="d", epoch=2,
            )
        )  # fmt: skip
        return [row.id for row in rows]

    assert await repeatable(0, "") == ["exc_1"]
    assert await repeatable(1, "") == []
    assert await repeatable(7, "a") == ["exc_2"]
    assert await repeatable(0, "b") == ["exc_3", "exc_4"]
    used = exchange(5, epoch=2, step=0, scope="b", replayed_from="exc_3")
    await running.transact(partial(exchanges.add, exchange=used))
    assert await repeatable(0, "b") == ["exc_4"]
    (listed, *_) = [
        one
        for one in await running.read(partial(exchanges.of_task, task_id="task_1"))
        if one.id == "exc_3"
    ]
    assert listed.caller.scope == "b"
