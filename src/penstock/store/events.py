"""Events: what happened to a task, in order and without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.domain.tasks import Event, TaskState
from penstock.rules.streams import EVENT_BYTES, bounded
from penstock.store.transaction import Transaction, Value

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

EventItem = tuple[str, Any]  # kind, data


def text(data: Any) -> str:
    """An event's data as it is kept."""
    return bounded(_encode(data), EVENT_BYTES).decode()


def finished(
    state: TaskState, outcome: str | None, *, output: Any = None, error: Any = None
) -> EventItem:
    """The last event of a task: its kind and its data."""
    said: dict[str, Any] = {"state": state.value, "outcome": outcome}
    if state is TaskState.COMPLETED:
        said["output"] = output
    elif error is not None:
        said["error"] = error
        if output is not None:
            said["output"] = output  # as far as it came
    return "finished", said


def rows(
    *, task_id: str, epoch: int, last: int, said: Sequence[EventItem]
) -> list[dict[str, Value]]:
    """What ``events.add`` is run with for events whose last one has the number ``last``."""
    return [
        {"task_id": task_id, "seq": seq, "epoch": epoch, "kind": kind, "data": text(data)}
        for seq, (kind, data) in enumerate(said, last - len(said) + 1)
    ]


async def append(
    tx: Transaction, *, task_id: str, epoch: int, last: int, said: Sequence[EventItem]
) -> None:
    """Keep events of (kind, data) whose last one has the sequence number ``last``.

    The caller has just raised the task's counter by their number, which is what makes the numbers
    gap-free; readers hear of them at the commit.
    """
    told = rows(task_id=task_id, epoch=epoch, last=last, said=said)
    await tx.execute_many("events.add", told)
    tx.notify("task", task_id)


async def last(tx: Transaction, *, task_id: str, kind: str) -> Any:
    """What the last event of a kind said; None if there was none."""
    row = await tx.fetch_one("events.last", task_id=task_id, kind=kind)
    return None if row is None else _decode(row["data"])


async def after(
    tx: Transaction, *, task_id: str, after: int, limit: int, most_bytes: int = 1 << 40
) -> list[Event]:
    """Up to ``limit`` events of a task behind the sequence number ``after``.

    They hold no more than ``most_bytes`` of data, unless the first one alone does.
    """
    found = await tx.fetch_all(
        "events.after", task_id=task_id, after=after, limit=limit, most_bytes=most_bytes
    )
    return [
        Event(
            task_id=row["task_id"],
            seq=row["seq"],
            epoch=row["epoch"],
            kind=row["kind"],
            data=_decode(row["data"]),
            created_us=row["created_us"],
        )
        for row in found
    ]
