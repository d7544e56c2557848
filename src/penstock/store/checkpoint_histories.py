"""Whole histories of checkpoints: copied, taken back, deleted, sealed after an upgrade.

A checkpoint goes only together with what stands on it, or after that has been made to stand alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from penstock.domain.errors import Conflict
from penstock.rules.checkpoints import TABLE, WHOLE, Sealer, keys, keys_of_value, snapshot
from penstock.store.checkpoint_rows import (
    Chains,
    Checkpoint,
    Write,
    checkpoint_fields,
    contents,
    contents_rows,
    insert,
    keys_of,
    verified_write,
    write_fields,
    write_row,
)
from penstock.store.transaction import Transaction

THREAD = "\x1f"  # begins the namespaces of threads that an agent runs inside its session

_BATCH = 200

Place = tuple[str, str]  # namespace, checkpoint id


async def copy(
    tx: Transaction,
    *,
    sealer: Sealer,
    session_id: str,
    to_session_id: str,
    until: str | None = None,
    pending: bool = True,
    within: tuple[str, str] | None = None,
) -> int:
    """Give another session the checkpoints of this one, with their contents; how many.

    Args:
        tx: the transaction.
        sealer: verifies the rows, and seals the copies.
        session_id: whose checkpoints are copied.
        to_session_id: who gets them; may be the same, with ``within``.
        until: the id of the last one that is copied; ids sort by time.
        pending: also what nodes have written on top of ``until``. Without it, the copy goes on
            from there as if nothing had been done since.
        within: copies a thread inside a session: the beginnings of its namespaces, and of those
            of the copies.

    Raises:
        Damaged: one of them is not as it was written; nothing was copied.
    """
    rows = await tx.fetch_all("checkpoints.of_session", session_id=session_id)
    chains = Chains(sealer, session_id)
    chains.add(rows)
    begin, target = within or (None, "")
    cut = len(begin or "")
    used: list[bytes] = []
    seals: dict[Place, bytes] = {}
    for row in rows:
        place = (row["namespace"], row["checkpoint_id"])
        if not _of_thread(place[0], begin) or (until is not None and place[1] > until):
            continue
        sealed, slots = chains.folded(*place)
        namespace = target + place[0][cut:]
        found = replace(sealed.checkpoint, namespace=namespace)
        under = seals[namespace, found.parent_id or ""] if found.depth else None
        seals[namespace, found.checkpoint_id] = await insert(
            tx, sealer, to_session_id, replace(sealed, checkpoint=found), under
        )
        used += keys(slots)
    written = await tx.fetch_all("checkpoints.writes_of_session", session_id=session_id)
    for row in written:
        write = verified_write(sealer, session_id, row)
        place = (target + write.namespace[cut:], write.checkpoint_id)
        if place not in seals or not _of_thread(write.namespace, begin):
            continue
        if write.checkpoint_id == until and not pending:
            continue
        write = replace(write, namespace=place[0])
        query, parameters = write_row(
            sealer, to_session_id, write, task_id=row["task_id"], epoch=row["epoch"]
        )
        await tx.execute(query, **parameters)
        used += keys_of(write)
    if used and to_session_id != session_id:
        stored = await contents(tx, session_id, list(dict.fromkeys(used)))
        await tx.execute_many("checkpoints.put_content", contents_rows(to_session_id, "", stored))
    return len(seals)


async def forget(
    tx: Transaction, *, sealer: Sealer, session_id: str, gone: Iterable[Place]
) -> None:
    """Remove checkpoints and what nodes wrote on top of them; what stood on them stands alone.

    Raises:
        Damaged: a checkpoint that stays is not as it was written; nothing was removed.
    """
    leaving = set(gone)
    rows = await tx.fetch_all("checkpoints.of_session", session_id=session_id)
    chains = Chains(sealer, session_id)
    chains.add(rows)
    changed: dict[Place, tuple[int, bytes]] = {}  # depth and seal
    for row in rows:
        place, parent = (
            (row["namespace"], row["checkpoint_id"]),
            (row["namespace"], row["parent_id"]),
        )
        touched = parent in leaving or parent in changed
        if place in leaving or not row["depth"] or not touched:
            continue
        sealed, slots = chains.folded(*place)
        if parent in leaving:
            found, under = replace(sealed.checkpoint, depth=0, data=snapshot(slots)), None
        else:
            depth, under = changed[parent]
            found = replace(sealed.checkpoint, depth=depth + 1)
        fields = checkpoint_fields(session_id, found, sealed.epoch, sealed.release, under)
        changed[place] = (found.depth, sealer.seal(*fields))
        await tx.execute(
            "checkpoints.change",
            session_id=session_id,
            namespace=place[0],
            checkpoint_id=place[1],
            depth=found.depth,
            data=found.data,
            seal=changed[place][1],
        )
    for namespace, checkpoint_id in leaving:
        at: dict[str, Any] = {"namespace": namespace, "checkpoint_id": checkpoint_id}
        await tx.execute("checkpoints.remove", session_id=session_id, **at)
        await tx.execute("checkpoints.remove_writes", session_id=session_id, **at)
    await _drop_unused(tx, sealer, session_id)


async def forget_task(tx: Transaction, *, sealer: Sealer, session_id: str, task_id: str) -> int:
    """Take back the checkpoints of a session's latest task, as if it had never run; how many.

    Raises:
        Conflict: another task went on from one of them; nothing was removed.
        Damaged: a checkpoint of the session is not as it was written; nothing was removed.
    """
    rows = await tx.fetch_all("checkpoints.of_session", session_id=session_id)
    gone = {(row["namespace"], row["checkpoint_id"]) for row in rows if row["task_id"] == task_id}
    for row in rows:
        if row["task_id"] != task_id and (row["namespace"], row["parent_id"]) in gone:
            raise Conflict(
                f"task {row['task_id']} went on from what task {task_id} has done",
                hint="Only the latest task of a session can be taken back.",
            )
    await tx.execute("checkpoints.remove_writes_of_task", session_id=session_id, task_id=task_id)
    await forget(tx, sealer=sealer, session_id=session_id, gone=gone)
    return len(gone)


async def forget_thread(
    tx: Transaction, *, sealer: Sealer, session_id: str, within: str, keep_latest: bool
) -> None:
    """Remove a thread that an agent runs inside its session, or all but its latest checkpoints.

    Raises:
        Damaged: a checkpoint that stays is not as it was written; nothing was removed.
    """
    rows = await tx.fetch_all("checkpoints.of_session", session_id=session_id)
    places = [
        (row["namespace"], row["checkpoint_id"])
        for row in rows
        if _of_thread(row["namespace"], within)
    ]
    latest = {namespace: "" for namespace, _ in places}
    for namespace, checkpoint_id in places:
        latest[namespace] = max(latest[namespace], checkpoint_id)
    gone = [one for one in places if not keep_latest or one[1] != latest[one[0]]]
    await forget(tx, sealer=sealer, session_id=session_id, gone=gone)


async def delete_session(tx: Transaction, session_id: str) -> None:
    """Remove everything that a session's frameworks have kept; nothing of it can be read again."""
    await tx.execute("checkpoints.remove_session", session_id=session_id)
    await tx.execute("checkpoints.remove_session_writes", session_id=session_id)
    await tx.execute("checkpoints.remove_session_contents", session_id=session_id)


async def adopt(tx: Transaction, *, sealer: Sealer) -> int:
    """Seal some of the rows that were written before there were seals; how many.

    To be called until there are none: from then on, a row without a seal is refused.
    """
    rows = await tx.fetch_all("checkpoints.unsealed", limit=_BATCH)
    for row in rows:
        found = Checkpoint(
            namespace=row["namespace"],
            checkpoint_id=row["checkpoint_id"],
            parent_id=row["parent_id"],
            task_id=row["task_id"],
            data=bytes(row["data"]),
            metadata=bytes(row["metadata"]),
            format=WHOLE,
            encoding=row["encoding"],
        )
        fields = checkpoint_fields(row["session_id"], found, row["epoch"], row["release"], None)
        await tx.execute(
            "checkpoints.seal",
            session_id=row["session_id"],
            namespace=found.namespace,
            checkpoint_id=found.checkpoint_id,
            seal=sealer.seal(*fields),
        )
    written = await tx.fetch_all("checkpoints.unsealed_writes", limit=_BATCH)
    for row in written:
        write = Write(
            node_task=row["node_task"],
            number=row["number"],
            channel=row["channel"],
            path=row["path"],
            data=bytes(row["data"]),
            format=WHOLE,
            encoding=row["encoding"],
        )
        at = {"namespace": row["namespace"], "checkpoint_id": row["checkpoint_id"]}
        fields = write_fields(
            row["session_id"], write, **at, task_id=row["task_id"], epoch=row["epoch"]
        )
        await tx.execute(
            "checkpoints.seal_write",
            session_id=row["session_id"],
            node_task=write.node_task,
            number=write.number,
            seal=sealer.seal(*fields),
            **at,
        )
    return len(rows) + len(written)


def _of_thread(namespace: str, within: str | None) -> bool:
    """Whether a namespace is of a thread inside the session; of its own, when that is empty."""
    if within is None:
        return True
    return namespace.startswith(within) if within else not namespace.startswith(THREAD)


async def _drop_unused(tx: Transaction, sealer: Sealer, session_id: str) -> None:
    """Remove the contents that nothing of a session refers to any more."""
    rows = await tx.fetch_all("checkpoints.of_session", session_id=session_id)
    chains = Chains(sealer, session_id)
    chains.add(rows)
    used: set[bytes] = set()
    for row in rows:
        used.update(keys(chains.folded(row["namespace"], row["checkpoint_id"])[1]))
    for row in await tx.fetch_all("checkpoints.writes_of_session", session_id=session_id):
        if row["format"] == TABLE:
            used.update(keys_of_value(bytes(row["data"])))
    kept = await tx.fetch_all("checkpoints.keys", session_id=session_id)
    gone = [key for row in kept if (key := bytes(row["key"])) not in used]
    if gone:
        await tx.execute("checkpoints.drop_contents", session_id=session_id, keys=b"".join(gone))
