"""Checkpoints: a session's state at its steps, and what nodes wrote since.

Most checkpoints are differences to their parents, and what they refer to is kept once for the
session. What happens to whole histories is in ``checkpoint_histories``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.domain.errors import Conflict, Damaged
from penstock.rules.checkpoints import (
    DEEPEST,
    TABLE,
    Sealer,
    Slots,
    key_of,
    keys,
    snapshot,
)
from penstock.store import tasks
from penstock.store.checkpoint_histories import (
    THREAD,
    Place,
    adopt,
    copy,
    delete_session,
    forget,
    forget_task,
    forget_thread,
)
from penstock.store.checkpoint_rows import (
    Chains,
    Checkpoint,
    Sealed,
    Write,
    contents,
    insert,
    insert_contents,
    insert_write,
    keys_of,
    verified_write,
)
from penstock.store.transaction import Row, Transaction

__all__ = [
    "Checkpoint",
    "Write",
    "adopt",
    "copy",
    "delete_session",
    "forget",
    "forget_task",
    "forget_thread",
]

_MOST = 1000  # checkpoints in one listing


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A checkpoint as it is read: its table stands alone."""

    checkpoint: Checkpoint
    writes: Sequence[Write] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Checkpoints, and the contents that they and their writes refer to, by key."""

    found: Sequence[State]
    contents: Mapping[bytes, bytes]


def step_key(checkpoint: Checkpoint) -> str:
    """The key under which a checkpoint counts as a committed step of its task."""
    return f"{checkpoint.namespace}@{checkpoint.checkpoint_id}"


async def put(
    tx: Transaction,
    checkpoint: Checkpoint,
    *,
    sealer: Sealer,
    session_id: str,
    epoch: int,
    release: str,
    said: list[tuple[str, Any]],
    leans: bool = False,
    stored: Mapping[bytes, bytes] | None = None,
    writes: Sequence[Write] = (),
) -> int:
    """Keep a checkpoint under the fence, with the events and the writes before it.

    Args:
        tx: the transaction.
        checkpoint: to keep; its depth says whether it stands on its parent.
        sealer: seals it.
        session_id: whose it is.
        epoch: that owns the task.
        release: that wrote it.
        said: events that become true with it.
        leans: it refers to contents of its parent, even if it stands alone.
        stored: the other contents it refers to, and those of the writes.
        writes: what nodes wrote on top of its parent, if that is not on record yet.

    Returns:
        The task's committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
        Conflict: its parent is not there, or something stands on another checkpoint of its id.
        Damaged: a content is not what its key says.
    """
    number = await tasks.advance(tx, task_id=checkpoint.task_id, epoch=epoch, steps=1, said=said)
    base = await _base(tx, session_id, checkpoint) if leans or checkpoint.depth else None
    await _keep_contents(tx, session_id, stored or {})
    for write in writes:
        await insert_write(tx, sealer, session_id, write, task_id=checkpoint.task_id, epoch=epoch)
    one = Sealed(checkpoint=checkpoint, epoch=epoch, release=release, seal=b"")
    under = base if checkpoint.depth else None
    seal, changed = await insert(tx, sealer, session_id, one, under)
    if not changed and seal != await _seal_of(tx, session_id, checkpoint):
        raise Conflict(
            f"checkpoint {checkpoint.checkpoint_id} is on record, and others stand on it"
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
    sealer: Sealer,
    session_id: str,
    task_id: str,
    epoch: int,
    stored: Mapping[bytes, bytes] | None = None,
) -> None:
    """Keep what nodes wrote, under the fence.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
        Damaged: a content is not what its key says.
    """
    # Through the row and not only past it: a takeover must not slip in between fence and write.
    await tasks.advance(tx, task_id=task_id, epoch=epoch)
    await _keep_contents(tx, session_id, stored or {})
    for write in writes:
        await insert_write(tx, sealer, session_id, write, task_id=task_id, epoch=epoch)


async def get(
    tx: Transaction,
    *,
    sealer: Sealer,
    session_id: str,
    namespace: str,
    checkpoint_id: str | None,
) -> States:
    """A checkpoint (the latest, when no id is given) and the writes on top of it; or none.

    Raises:
        Damaged: it, or something it stands on, is not as it was written.
    """
    rows = await tx.fetch_all(
        "checkpoints.chain",
        session_id=session_id,
        namespace=namespace,
        checkpoint_id=checkpoint_id,
    )
    if not rows:
        return States(found=(), contents={})
    chains = Chains(sealer, session_id)
    chains.add(rows)
    found = rows[0]["checkpoint_id"]
    written = await tx.fetch_all(
        "checkpoints.writes",
        session_id=session_id,
        namespace=namespace,
        checkpoint_id=found,
    )
    return await _states(tx, sealer, session_id, chains, [(namespace, found)], written)


async def listing(
    tx: Transaction,
    *,
    sealer: Sealer,
    session_id: str,
    namespace: str | None,
    before: str | None,
    limit: int | None,
    within: str | None = None,
    checkpoint_id: str | None = None,
) -> States:
    """Checkpoints from the newest to the oldest, with the writes on top of each.

    ``namespace`` names one namespace; ``within`` those that begin with it, and when it is empty
    those of the session's own thread.

    Raises:
        Damaged: one, or something it stands on, is not as it was written.
    """
    rows = await tx.fetch_all(
        "checkpoints.listing",
        session_id=session_id,
        namespace=namespace,
        within=within,
        mark=THREAD,
        checkpoint_id=checkpoint_id,
        before=before,
        limit=_MOST if limit is None else min(limit, _MOST),
    )
    if not rows:
        return States(found=(), contents={})
    chains = Chains(sealer, session_id)
    chains.add(rows)
    for place in chains.missing():
        more = await tx.fetch_all(
            "checkpoints.chain",
            session_id=session_id,
            namespace=place[0],
            checkpoint_id=place[1],
        )
        chains.add(more)
    ids = [row["checkpoint_id"] for row in rows]
    written = await tx.fetch_all(
        "checkpoints.writes_between", session_id=session_id, first=min(ids), last=max(ids)
    )
    places = [(row["namespace"], row["checkpoint_id"]) for row in rows]
    return await _states(tx, sealer, session_id, chains, places, written)


async def _base(tx: Transaction, session_id: str, checkpoint: Checkpoint) -> bytes:
    """The seal of the parent that a checkpoint stands on or leans on."""
    row = await tx.fetch_one(
        "checkpoints.base",
        session_id=session_id,
        namespace=checkpoint.namespace,
        checkpoint_id=checkpoint.parent_id,
    )
    fits = row is not None and row["format"] == TABLE and row["seal"] is not None
    if row is None or not fits or checkpoint.depth not in (0, row["depth"] + 1):
        raise Conflict(
            f"checkpoint {checkpoint.checkpoint_id} stands on {checkpoint.parent_id},"
            " which is not there"
        )
    if checkpoint.depth > DEEPEST:
        raise Conflict(f"checkpoint {checkpoint.checkpoint_id} stands on too many others")
    return bytes(row["seal"])


async def _seal_of(tx: Transaction, session_id: str, checkpoint: Checkpoint) -> bytes:
    row = await tx.fetch_one(
        "checkpoints.base",
        session_id=session_id,
        namespace=checkpoint.namespace,
        checkpoint_id=checkpoint.checkpoint_id,
    )
    return b"" if row is None else bytes(row["seal"] or b"")


async def _keep_contents(tx: Transaction, session_id: str, stored: Mapping[bytes, bytes]) -> None:
    for key, data in stored.items():
        if key_of(data) != key:
            raise Damaged("a content is not what its key says")
    await insert_contents(tx, session_id, stored)


async def _states(
    tx: Transaction,
    sealer: Sealer,
    session_id: str,
    chains: Chains,
    places: Sequence[Place],
    written: Sequence[Row],
) -> States:
    """Checkpoints with their writes and all contents, verified."""
    writes: dict[Place, list[Write]] = {place: [] for place in places}
    for row in written:
        if (row["namespace"], row["checkpoint_id"]) in writes:
            write = verified_write(sealer, session_id, row)
            writes[write.namespace, write.checkpoint_id].append(write)
    for some in writes.values():  # as a run applies them, whatever the database's collation
        some.sort(key=lambda one: (one.path, one.node_task, one.number))
    found, used = [], []
    for place in places:
        sealed, slots = chains.folded(*place)
        checkpoint = sealed.checkpoint
        if checkpoint.depth:
            checkpoint = replace(checkpoint, data=snapshot(slots))
        found.append(State(checkpoint=checkpoint, writes=writes[place]))
        used += _used(slots, writes[place])
    wanted = list(dict.fromkeys(used))
    return States(found=found, contents=await contents(tx, session_id, wanted))


def _used(slots: Slots, writes: Iterable[Write]) -> list[bytes]:
    return [*keys(slots), *(key for write in writes for key in keys_of(write))]
