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
    contents_rows,
    keys_of,
    row_of,
    verified_write,
    write_row,
)
from penstock.store.commits import Commit, Step
from penstock.store.transaction import Row, Transaction, Value

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
    seal: bytes = b""
    writes: Sequence[Write] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Checkpoints, and the contents that they and their writes refer to, by key."""

    found: Sequence[State]
    contents: Mapping[bytes, bytes]


def step_key(checkpoint: Checkpoint) -> str:
    """The key under which a checkpoint counts as a committed step of its task."""
    return f"{checkpoint.namespace}@{checkpoint.checkpoint_id}"


def of(
    checkpoint: Checkpoint,
    *,
    sealer: Sealer,
    session_id: str,
    epoch: int,
    release: str,
    said: Sequence[tuple[str, Any]],
    base: bytes | None = None,
    stored: Mapping[bytes, bytes] | None = None,
    writes: Sequence[Write] = (),
) -> tuple[Commit, bytes]:
    """The commit of a checkpoint with the events and the writes before it, and its seal.

    Args:
        checkpoint: to keep; its depth says whether it stands on its parent.
        sealer: seals it.
        session_id: whose it is.
        epoch: that owns the task.
        release: that wrote it.
        said: events that become true with it.
        base: the seal of its parent, if it stands on that or refers to contents of its. The commit
            is refused as a conflict if the parent is not there, or is another by then.
        stored: the other contents it refers to, and those of the writes.
        writes: what nodes wrote on top of its parent, if that is not on record yet.

    Raises:
        Conflict: it stands on too many others, or on none.
        Damaged: a content is not what its key says.
    """
    if checkpoint.depth > DEEPEST or (checkpoint.depth and base is None):
        raise Conflict(f"checkpoint {checkpoint.checkpoint_id} has no base")
    one = Sealed(checkpoint=checkpoint, epoch=epoch, release=release, seal=b"")
    seal, row = row_of(sealer, session_id, one, base)
    before = _rows(sealer, session_id, checkpoint.task_id, epoch, writes, stored or {})
    step = Step(key=step_key(checkpoint), kind="checkpoint", output="null")
    rows = [*before, ("checkpoints.put", [row])]
    commit = Commit(task_id=checkpoint.task_id, epoch=epoch, said=said, step=step, rows=rows)
    return commit, seal


def of_writes(
    writes: Sequence[Write],
    *,
    sealer: Sealer,
    session_id: str,
    task_id: str,
    epoch: int,
    stored: Mapping[bytes, bytes] | None = None,
) -> Commit:
    """The commit of what nodes wrote.

    Raises:
        Damaged: a content is not what its key says.
    """
    rows = _rows(sealer, session_id, task_id, epoch, writes, stored or {})
    return Commit(task_id=task_id, epoch=epoch, rows=rows)


async def base(
    tx: Transaction, *, session_id: str, namespace: str, checkpoint_id: str | None
) -> tuple[int, bytes] | None:
    """The depth and the seal of a checkpoint that others may stand on."""
    row = await tx.fetch_one(
        "checkpoints.base",
        session_id=session_id,
        namespace=namespace,
        checkpoint_id=checkpoint_id,
    )
    if row is None or row["format"] != TABLE or row["seal"] is None:
        return None
    return int(row["depth"]), bytes(row["seal"])


async def latest(tx: Transaction, session_id: str) -> str | None:
    """The id of a session's latest checkpoint, of its own thread; none if it has no state."""
    row = await tx.fetch_one("checkpoints.newest", session_id=session_id)
    return None if row is None else row["checkpoint_id"]


async def exists(tx: Transaction, session_id: str, checkpoint_id: str) -> bool:
    """Whether a session has a checkpoint, of its own thread."""
    row = await tx.fetch_one(
        "checkpoints.base", session_id=session_id, namespace="", checkpoint_id=checkpoint_id
    )
    return row is not None


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


def _rows(
    sealer: Sealer,
    session_id: str,
    task_id: str,
    epoch: int,
    writes: Sequence[Write],
    stored: Mapping[bytes, bytes],
) -> list[tuple[str, list[dict[str, Value]]]]:
    """What keeps contents and writes: queries and their parameters."""
    for key, data in stored.items():
        if key_of(data) != key:
            raise Damaged("a content is not what its key says")
    rows: dict[str, list[dict[str, Value]]] = {}
    if stored:
        rows["checkpoints.put_content"] = contents_rows(session_id, task_id, stored)
    for write in writes:
        query, row = write_row(sealer, session_id, write, task_id=task_id, epoch=epoch)
        rows.setdefault(query, []).append(row)
    return list(rows.items())


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
        found.append(State(checkpoint=checkpoint, seal=sealed.seal, writes=writes[place]))
        used += _used(slots, writes[place])
    wanted = list(dict.fromkeys(used))
    return States(found=found, contents=await contents(tx, session_id, wanted))


def _used(slots: Slots, writes: Iterable[Write]) -> list[bytes]:
    return [*keys(slots), *(key for write in writes for key in keys_of(write))]
