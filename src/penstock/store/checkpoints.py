"""Checkpoints: a session's state at its last step, and what nodes wrote since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.store import tasks
from penstock.store.transaction import Row, Transaction

_MOST = 1000  # checkpoints in one listing


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A state as its framework packed it; nobody on this side reads it."""

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    task_id: str
    encoding: str
    data: bytes
    metadata: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """What a node wrote on top of a checkpoint, before the step it belongs to was committed."""

    node_task: str
    number: int  # below zero: a special channel, of which the last one counts
    channel: str
    path: str
    encoding: str
    data: bytes


def step_key(checkpoint: Checkpoint) -> str:
    """The key under which a checkpoint counts as a committed step of its task."""
    return f"{checkpoint.namespace}@{checkpoint.checkpoint_id}"


async def put(
    tx: Transaction,
    checkpoint: Checkpoint,
    *,
    session_id: str,
    epoch: int,
    said: list[tuple[str, Any]],
) -> int:
    """Keep a checkpoint under the fence, with the events before it; the committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    number = await tasks.advance(tx, task_id=checkpoint.task_id, epoch=epoch, steps=1, said=said)
    await tx.execute(
        "checkpoints.put",
        session_id=session_id,
        namespace=checkpoint.namespace,
        checkpoint_id=checkpoint.checkpoint_id,
        parent_id=checkpoint.parent_id,
        task_id=checkpoint.task_id,
        epoch=epoch,
        encoding=checkpoint.encoding,
        data=checkpoint.data,
        metadata=checkpoint.metadata,
    )
    await tx.execute(
        "steps.add",
        task_id=checkpoint.task_id,
        key=step_key(checkpoint),
        number=number,
        epoch=epoch,
        kind="checkpoint",
        output="null",
    )
    return number


async def put_writes(
    tx: Transaction,
    writes: Sequence[Write],
    *,
    session_id: str,
    namespace: str,
    checkpoint_id: str,
    task_id: str,
    epoch: int,
) -> None:
    """Keep what nodes wrote, under the fence.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    # Through the row and not only past it: a takeover must not slip in between fence and write.
    await tasks.advance(tx, task_id=task_id, epoch=epoch)
    for write in writes:
        await tx.execute(
            "checkpoints.overwrite" if write.number < 0 else "checkpoints.write",
            session_id=session_id,
            namespace=namespace,
            checkpoint_id=checkpoint_id,
            node_task=write.node_task,
            number=write.number,
            channel=write.channel,
            path=write.path,
            encoding=write.encoding,
            data=write.data,
            task_id=task_id,
            epoch=epoch,
        )


async def get(
    tx: Transaction, *, session_id: str, namespace: str, checkpoint_id: str | None
) -> tuple[Checkpoint, list[Write]] | None:
    """A checkpoint (the latest, when no id is given) and the writes on top of it."""
    if checkpoint_id is None:
        row = await tx.fetch_one("checkpoints.latest", session_id=session_id, namespace=namespace)
    else:
        row = await tx.fetch_one(
            "checkpoints.get",
            session_id=session_id,
            namespace=namespace,
            checkpoint_id=checkpoint_id,
        )
    if row is None:
        return None
    found = _record(row)
    writes = await tx.fetch_all(
        "checkpoints.writes",
        session_id=session_id,
        namespace=namespace,
        checkpoint_id=found.checkpoint_id,
    )
    return found, [_write(one) for one in writes]


async def listing(
    tx: Transaction,
    *,
    session_id: str,
    namespace: str | None,
    before: str | None,
    limit: int | None,
) -> list[Checkpoint]:
    """Checkpoints from the newest to the oldest; of all namespaces when none is named."""
    rows = await tx.fetch_all(
        "checkpoints.listing",
        session_id=session_id,
        namespace=namespace,
        before=before,
        limit=_MOST if limit is None else min(limit, _MOST),
    )
    return [_record(row) for row in rows]


def _record(row: Row) -> Checkpoint:
    return Checkpoint(
        namespace=row["namespace"],
        checkpoint_id=row["checkpoint_id"],
        parent_id=row["parent_id"],
        task_id=row["task_id"],
        encoding=row["encoding"],
        data=bytes(row["data"]),
        metadata=bytes(row["metadata"]),
    )


def _write(row: Mapping[str, Any]) -> Write:
    return Write(
        node_task=row["node_task"],
        number=row["number"],
        channel=row["channel"],
        path=row["path"],
        encoding=row["encoding"],
        data=bytes(row["data"]),
    )
