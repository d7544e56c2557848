"""Endings: what becomes of a task when its attempt ends or it is stopped, and of its session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.domain.tasks import TERMINAL, WORKFLOWS, Ending, ResourceClass, Stop, Task, TaskState
from penstock.rules.tasks import because, stopped, undone
from penstock.store import contents, events, queues, sessions, tasks
from penstock.store.fences import stale
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode


async def finish(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    state: TaskState,
    outcome: str,
    output: Any = None,
    error: Mapping[str, Any] | None = None,
    crashes: int,
    losses: int,
    waited_us: int = 0,
) -> Task:
    """End a task under the fence, with its session's sums, in one commit.

    ``waited_us`` is what the attempt waited for its process: our time, not the release's.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.finish",
        id=task_id,
        epoch=epoch,
        state=state.value,
        outcome=outcome,
        output=None if output is None else _text(output),
        error=None if error is None else _text(error),
        crashes=crashes,
        losses=losses,
    )
    if row is None:
        raise stale(task_id, epoch)
    return await settle(tx, row, waited_us=waited_us)


async def requeue(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    crashes: int,
    losses: int,
    delay_seconds: float,
    why: Mapping[str, Any],
    resource_class: ResourceClass | None = None,
) -> None:
    """Give a task back to the queue under the fence, its next attempt in a resource class.

    One that somebody has cancelled meanwhile ends instead.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.requeue",
        id=task_id,
        epoch=epoch,
        crashes=crashes,
        losses=losses,
        delay_us=int(delay_seconds * 1_000_000),
        resource_class=None if resource_class is None else resource_class.value,
    )
    if row is None:
        raise stale(task_id, epoch)
    await events.append(
        tx, task_id=task_id, epoch=epoch, last=row["events"], said=[("requeued", dict(why))]
    )
    if row["cancel_requested"]:
        # Its owner has not heard, and there is nothing left to stop.
        await stop(tx, task_id, Stop(row["stop"] or "cancel"))
        return
    tx.notify("queue", "")


async def stop(tx: Transaction, task_id: str, why: Stop) -> Task:
    """End a task that waits, or ask the owner of one that runs to stop it.

    A task that has ended already is returned as it is.

    Raises:
        NotFound: there is none of this id.
    """
    ending = stopped(why)
    while True:
        row = await tx.fetch_one(
            "tasks.end_unowned",
            id=task_id,
            state=TaskState.CANCELLED.value,
            outcome=ending.value,
            stop=why.value,
            error=None if why is Stop.CANCEL else _text(because(ending)),
        )
        if row is not None:
            if row["epoch"] == 0:
                await queues.depart(tx, {tasks.queue_of(tasks.record(row)): 1})
            return await settle(tx, row)
        row = await tx.fetch_one("tasks.request_stop", id=task_id, stop=why.value)
        if row is not None:
            tx.notify("cancel", task_id)
            return tasks.record(row)
        task = await tasks.get(tx, task_id)
        if task.state in TERMINAL:
            return task  # else it has changed hands between the two looks


async def cancel(tx: Transaction, task_id: str) -> Task:
    """End a task because a person asked for it; see :func:`stop`."""
    return await stop(tx, task_id, Stop.CANCEL)


async def close_after(tx: Transaction, session_id: str) -> None:
    """Close the session when its last task that has not ended does."""
    await tx.execute("tasks.close_after", session_id=session_id)


async def close_with_last(tx: Transaction, session_id: str) -> None:
    """Close the session of a task that has ended and was to be its last."""
    if (await tasks.live_in_session(tx, session_id))[0]:
        # It was cancelled before its turn: the others end the session.
        await close_after(tx, session_id)
    else:
        await sessions.close(tx, session_id)


async def settle(tx: Transaction, row: Row, *, waited_us: int = 0) -> Task:
    """The last event of a task, and the session's account of it."""
    task = tasks.record(row)
    last = events.finished(task.state, task.outcome, output=task.output, error=task.error)
    await events.append(tx, task_id=task.id, epoch=task.epoch, last=task.events, said=[last])
    if task.environment == WORKFLOWS:  # its session holds nothing else, and was closed at once
        tx.notify("done", task.id)
        return task
    begun, ended = task.started_us, task.finished_us
    waited_us += row["waited_us"]  # for a person
    busy_us = ended - begun - waited_us if begun is not None and ended is not None else 0
    await sessions.account(
        tx,
        task.session_id,
        # A person's cancel is no failure of the release.
        failed=task.state in (TaskState.FAILED, TaskState.DEAD_LETTERED),
        cost_nanos=task.cost_nanos,
        busy_us=max(0, busy_us),
    )
    if undone(Ending(row["outcome"])):
        await contents.undo(tx, session_id=task.session_id, task_id=task.id)
    elif task.stateless:
        await contents.forget(tx, session_id=task.session_id, task_id=task.id)
    if await tx.execute("tasks.promote", session_id=task.session_id):
        tx.notify("queue", "")  # the next of this session may begin
    if row["close_session"]:
        await close_with_last(tx, task.session_id)
    tx.notify("done", task.id)
    return task


def _text(value: Any) -> str:
    return _encode(value).decode()
