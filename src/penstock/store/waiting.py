"""Waiting: a task lets go of its worker until a person has answered, or nobody has in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.domain.errors import Conflict
from penstock.domain.tasks import Task, Wait
from penstock.store import endings, events, tasks
from penstock.store.fences import stale
from penstock.store.transaction import Transaction

_encode = msgspec.json.Encoder().encode


async def wait(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    waits: Sequence[Wait],
    wait_seconds: float | None = None,
) -> Task:
    """Let a task wait for a person, under the fence; at most for ``wait_seconds``.

    One that somebody has asked to stop meanwhile is cancelled instead.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.wait",
        id=task_id,
        epoch=epoch,
        waits=_text(waits),
        wait_us=None if wait_seconds is None else int(wait_seconds * 1_000_000),
    )
    if row is None:
        raise stale(task_id, epoch)
    task = tasks.record(row)
    await events.append(
        tx, task_id=task_id, epoch=epoch, last=task.events, said=[("waiting", {"waits": waits})]
    )
    if task.stop is not None:
        return await endings.stop(tx, task_id, task.stop)
    tx.notify("done", task_id)
    return task


async def ask_instead(tx: Transaction, *, task: Task, waits: Sequence[Wait]) -> Task:
    """Let a waiting task ask something else: what it asked is void.

    Raises:
        Conflict: it waits no longer.
    """
    row = await tx.fetch_one("tasks.ask_instead", id=task.id, epoch=task.epoch, waits=_text(waits))
    if row is None:
        raise Conflict(f"task {task.id} waits no longer")
    asking = tasks.record(row)
    await events.append(
        tx,
        task_id=task.id,
        epoch=task.epoch,
        last=asking.events,
        said=[("waiting", {"waits": waits})],
    )
    return asking


async def resume(
    tx: Transaction, *, task: Task, answers: Mapping[str, Any], said: Mapping[str, Any]
) -> Task:
    """Queue a waiting task again, with the answers that its next attempt is given.

    Raises:
        Conflict: it does not wait any more, or for something else by now.
    """
    row = await tx.fetch_one(
        "tasks.resume", id=task.id, epoch=task.epoch, answers=_text(dict(answers))
    )
    if row is None:
        raise Conflict(
            f"somebody else was faster: task {task.id} waits no longer",
            hint="Its events say what was answered, and by whom.",
        )
    resumed = tasks.record(row)
    await events.append(
        tx,
        task_id=task.id,
        epoch=task.epoch,
        last=resumed.events,
        said=[("resumed", {"answers": dict(answers), **said})],
    )
    tx.notify("queue", "")
    return resumed


async def expire_waits(tx: Transaction, *, limit: int) -> list[Task]:
    """End tasks that have waited for a person as long as they may."""
    rows = await tx.fetch_all("tasks.waited_out", limit=limit)
    ended = []
    for row in rows:
        error = {"type": "Timeout", "message": "nobody answered in time", "traceback": ""}
        late = await tx.fetch_one("tasks.expire_wait", id=row["id"], error=_text(error))
        if late is not None:
            ended.append(await endings.settle(tx, late))
    return ended


def _text(value: Any) -> str:
    return _encode(value).decode()
