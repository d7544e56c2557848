"""The fence: only the epoch that owns a task writes to it. A late writer changes zero rows."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.domain.errors import Stale
from penstock.domain.tasks import Stop
from penstock.store import events
from penstock.store.events import EventItem
from penstock.store.transaction import Transaction


async def advance(
    tx: Transaction, *, task_id: str, epoch: int, steps: int = 0, said: Sequence[EventItem] = ()
) -> int:
    """Pass the fence, count ``steps`` more and append events; the task's committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.advance", id=task_id, epoch=epoch, steps=steps, events=len(said)
    )
    if row is None:
        raise stale(task_id, epoch)
    if said:
        await events.append(tx, task_id=task_id, epoch=epoch, last=row["events"], said=said)
    return int(row["steps"])


async def wished_stop(tx: Transaction, *, task_id: str, epoch: int) -> Stop | None:
    """Pass the fence and hold the task until the commit; what it is to be stopped for.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one("tasks.advance", id=task_id, epoch=epoch, steps=0, events=0)
    if row is None:
        raise stale(task_id, epoch)
    return None if row["stop"] is None else Stop(row["stop"])


async def ensure_owned(tx: Transaction, *, task_id: str, epoch: int) -> None:
    """Pass the fence without changing anything.

    Raises:
        Stale: the epoch no longer owns the task.
    """
    if await tx.fetch_one("tasks.owned", id=task_id, epoch=epoch) is None:
        raise stale(task_id, epoch)


def stale(task_id: str, epoch: int) -> Stale:
    """What is raised when a write has changed zero rows, because it was made under a past epoch."""
    return Stale(f"epoch {epoch} no longer owns task {task_id}; nothing was written")
