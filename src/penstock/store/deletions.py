"""Deletion: of a session or a task nothing but numbers is left.

What a rollout counts stays: the session's sums, its assignment, how its tasks ended. Contents of
model calls are kept once for all who sent the same, so a deletion only notes them; :func:`sweep`
removes those that no other record refers to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from penstock.store import checkpoints, endings
from penstock.store.transaction import Transaction

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")

# In this order: what is deleted by the tasks of a session goes before the tasks.
_OF_TASKS = (
    "delete_exchanges", "delete_events", "delete_logs", "delete_steps", "delete_tool_calls",
)  # fmt: skip
_OF_SESSION = ("doom_attachments", "delete_attachments", "empty_session")


async def live(tx: Transaction, session_id: str, *, task_id: str | None = None) -> list[str]:
    """The tasks of a session, or the one that is named, that have not ended."""
    rows = await tx.fetch_all("deletions.live", session_id=session_id, task_id=task_id)
    return [row["id"] for row in rows]


async def stop(tx: Transaction, session_id: str, *, task_id: str | None = None) -> bool:
    """End what has not ended and let it be deleted then; whether nothing runs any more."""
    if task_id is None:
        await tx.execute("deletions.request_session", id=session_id)
    else:
        await tx.execute("deletions.request_task", id=task_id)
    for one in await live(tx, session_id, task_id=task_id):
        await endings.cancel(tx, one)
    return not await live(tx, session_id, task_id=task_id)


async def delete_session(tx: Transaction, session_id: str) -> None:
    """Remove everything that was said and done in a session; nothing may run in it."""
    await _delete_tasks(tx, session_id, None)
    await checkpoints.delete_session(tx, session_id)
    for query in _OF_SESSION:
        await tx.execute(f"deletions.{query}", session_id=session_id)
    tx.notify("deleted", session_id)


async def delete_task(tx: Transaction, session_id: str, task_id: str) -> None:
    """Remove what was said and done in a task that has ended.

    The state that it left in its session stays: later tasks have gone on from it.
    """
    await _delete_tasks(tx, session_id, task_id)
    tx.notify("deleted", session_id)


async def gone(tx: Transaction, *, session_id: str, task_id: str) -> bool:
    """Whether a task was deleted: what is heard of it now must not be kept."""
    row = await tx.fetch_one("deletions.was_deleted", session_id=session_id, task_id=task_id)
    return row is not None


async def expired(tx: Transaction, *, limit: int) -> list[str]:
    """Sessions that are to be deleted now."""
    return [row["id"] for row in await tx.fetch_all("deletions.expired", limit=limit)]


async def due(tx: Transaction, session_id: str) -> bool:
    """Whether a session is to be deleted now."""
    return await tx.fetch_one("deletions.due", id=session_id) is not None


async def expired_tasks(tx: Transaction, *, limit: int) -> list[str]:
    """Tasks that are to be deleted now."""
    return [row["id"] for row in await tx.fetch_all("deletions.expired_tasks", limit=limit)]


async def doomed(tx: Transaction, *, quiet_seconds: float, after: str, limit: int) -> list[str]:
    """Contents that a deleted record referred to and that nobody has sent for so long."""
    rows = await tx.fetch_all(
        "deletions.doomed", quiet_us=int(quiet_seconds * 1_000_000), after=after, limit=limit
    )
    return [row["digest"] for row in rows]


async def sweep(
    tx: Transaction, digests: Iterable[str], *, recorded: set[str], quiet_seconds: float
) -> int:
    """Remove contents that are not ``recorded`` and were not sent again meanwhile; how many."""
    removed = 0
    for digest in digests:
        if digest not in recorded:
            removed += await tx.execute(
                "deletions.delete_blob", digest=digest, quiet_us=int(quiet_seconds * 1_000_000)
            )
        await tx.execute("deletions.spare", digest=digest)
    return removed


async def _delete_tasks(tx: Transaction, session_id: str, task_id: str | None) -> None:
    which = {"session_id": session_id, "task_id": task_id}
    found: set[str] = set()
    for row in await tx.fetch_all("deletions.exchanges", **which):
        found.update(_DIGEST.findall(row["request"]))
        found.update(_DIGEST.findall(row["response"] or ""))
    for digest in sorted(found):
        await tx.execute("deletions.doom", digest=digest)
    await tx.execute("deletions.retire_exchanges", **which)
    await tx.execute("deletions.retire_tasks", **which)
    for query in _OF_TASKS:
        await tx.execute(f"deletions.{query}", **which)
    await tx.execute("deletions.delete_tasks", **which)
