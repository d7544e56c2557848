"""The rows below checkpoints: sealed when they are written, believed only when the seal holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain.errors import Damaged
from penstock.rules.checkpoints import TABLE, Sealer, Slots, folded, key_of, keys_of_value
from penstock.store.transaction import Row, Transaction, Value

_HINT = (
    "Restore the session from a backup, or begin a new one. Penstock alone writes these rows:"
    " somebody changed the database, or it was put together from several."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A state as its agent's process packed it; its values are read by nobody on this side.

    ``data`` is a table (see ``rules/checkpoints``), or the whole state in ``format`` 0.
    """

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    task_id: str
    data: bytes
    metadata: bytes
    format: int = TABLE
    depth: int = 0
    encoding: str = ""  # of format 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """What a node wrote on top of a checkpoint, before the step it belongs to was committed."""

    node_task: str
    number: int  # below zero: a special channel, of which the last one counts
    channel: str
    path: str
    data: bytes
    namespace: str = ""
    checkpoint_id: str = ""
    format: int = TABLE
    encoding: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A checkpoint, who wrote it, and the seal that proves it."""

    checkpoint: Checkpoint
    epoch: int
    release: str
    seal: bytes


def checkpoint_fields(
    session_id: str, found: Checkpoint, epoch: int, release: str, base: bytes | None
) -> tuple[Any, ...]:
    """What the seal of a checkpoint covers; ``base`` is the seal of the one it stands on."""
    return (
        "checkpoint", session_id, found.namespace, found.checkpoint_id, found.parent_id,
        found.task_id, epoch, release, found.format, found.depth, found.encoding, found.data,
        found.metadata, base,
    )  # fmt: skip


def write_fields(
    session_id: str, found: Write, namespace: str, checkpoint_id: str, task_id: str, epoch: int
) -> tuple[Any, ...]:
    """What the seal of a node's write covers."""
    return (
        "write", session_id, namespace, checkpoint_id, found.node_task, found.number,
        found.channel, found.path, task_id, epoch, found.format, found.encoding, found.data,
    )  # fmt: skip


def row_of(
    sealer: Sealer, session_id: str, one: Sealed, base: bytes | None
) -> tuple[bytes, dict[str, Value]]:
    """A checkpoint's new seal, and its row under it.

    ``base`` is the seal of the parent that it stands on, or whose contents it refers to.
    """
    found = one.checkpoint
    under = base if found.depth else None
    seal = sealer.seal(*checkpoint_fields(session_id, found, one.epoch, one.release, under))
    return seal, {
        "session_id": session_id,
        "namespace": found.namespace,
        "checkpoint_id": found.checkpoint_id,
        "parent_id": found.parent_id,
        "task_id": found.task_id,
        "epoch": one.epoch,
        "release": one.release,
        "encoding": found.encoding,
        "format": found.format,
        "depth": found.depth,
        "data": found.data,
        "metadata": found.metadata,
        "seal": seal,
        "base": base,
    }


async def insert(
    tx: Transaction, sealer: Sealer, session_id: str, one: Sealed, base: bytes | None
) -> bytes:
    """Write a checkpoint's row; its seal."""
    seal, row = row_of(sealer, session_id, one, base)
    await tx.execute("checkpoints.put", **row)
    return seal


def write_row(
    sealer: Sealer, session_id: str, one: Write, *, task_id: str, epoch: int
) -> tuple[str, dict[str, Value]]:
    """The query that keeps what a node wrote, and its parameters.

    What is there already stays, but for special channels.
    """
    fields = write_fields(session_id, one, one.namespace, one.checkpoint_id, task_id, epoch)
    return "checkpoints.overwrite" if one.number < 0 else "checkpoints.write", {
        "session_id": session_id,
        "namespace": one.namespace,
        "checkpoint_id": one.checkpoint_id,
        "node_task": one.node_task,
        "number": one.number,
        "channel": one.channel,
        "path": one.path,
        "encoding": one.encoding,
        "format": one.format,
        "data": one.data,
        "task_id": task_id,
        "epoch": epoch,
        "seal": sealer.seal(*fields),
    }


def contents_rows(
    session_id: str, task_id: str, stored: Mapping[bytes, bytes]
) -> list[dict[str, Value]]:
    """Contents by their keys, as rows of ``checkpoints.put_content``."""
    return [
        {"session_id": session_id, "task_id": task_id, "key": key, "data": data}
        for key, data in stored.items()
    ]


async def contents(tx: Transaction, session_id: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Contents by their keys.

    Raises:
        Damaged: one is missing, or is not what its key says.
    """
    if not keys:
        return {}
    rows = await tx.fetch_all("checkpoints.contents", session_id=session_id, keys=b"".join(keys))
    found = {bytes(row["key"]): bytes(row["data"]) for row in rows}
    for key in keys:
        if key not in found or key_of(found[key]) != key:
            raise Damaged(
                f"session {session_id}: a value that its checkpoints refer to"
                f" ({key.hex()}) {'was changed' if key in found else 'is gone'}",
                hint=_HINT,
            )
    return found


def verified(sealer: Sealer, session_id: str, row: Row, base: bytes | None) -> Sealed:
    """A row as the checkpoint it claims to be.

    Raises:
        Damaged: its seal says that it is not.
    """
    found = Checkpoint(
        namespace=row["namespace"],
        checkpoint_id=row["checkpoint_id"],
        parent_id=row["parent_id"],
        task_id=row["task_id"],
        data=bytes(row["data"]),
        metadata=bytes(row["metadata"]),
        format=row["format"],
        depth=row["depth"],
        encoding=row["encoding"],
    )
    epoch, release, seal = row["epoch"], row["release"], row["seal"]
    fields = checkpoint_fields(session_id, found, epoch, release, base)
    if seal is None or not sealer.holds(seal, *fields):
        raise Damaged(
            f"session {session_id}: checkpoint {found.checkpoint_id} is not as it was written",
            hint=_HINT,
        )
    return Sealed(checkpoint=found, epoch=epoch, release=release, seal=bytes(seal))


def verified_write(sealer: Sealer, session_id: str, row: Row) -> Write:
    """A row as the write it claims to be.

    Raises:
        Damaged: its seal says that it is not.
    """
    found = Write(
        node_task=row["node_task"],
        number=row["number"],
        channel=row["channel"],
        path=row["path"],
        data=bytes(row["data"]),
        namespace=row["namespace"],
        checkpoint_id=row["checkpoint_id"],
        format=row["format"],
        encoding=row["encoding"],
    )
    fields = write_fields(
        session_id, found, found.namespace, found.checkpoint_id, row["task_id"], row["epoch"]
    )
    if not sealer.holds(row["seal"], *fields):
        raise Damaged(
            f"session {session_id}: what a node wrote on checkpoint {found.checkpoint_id}"
            " is not as it was written",
            hint=_HINT,
        )
    return found


def keys_of(write: Write) -> list[bytes]:
    """The contents that a write refers to."""
    return keys_of_value(write.data) if write.format == TABLE else []


class Chains:
    """The checkpoints of one session as they are read: each verified and folded once."""

    def __init__(self, sealer: Sealer, session_id: str) -> None:
        self._sealer = sealer
        self._session = session_id
        self._rows: dict[tuple[str, str], Row] = {}
        self._known: dict[tuple[str, str], tuple[Sealed, Slots]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Learn of rows."""
        for row in rows:
            self._rows.setdefault((row["namespace"], row["checkpoint_id"]), row)

    def missing(self) -> list[tuple[str, str]]:
        """What the rows stand on and is not among them."""
        wanted = (
            (row["namespace"], row["parent_id"]) for row in self._rows.values() if row["depth"]
        )
        return [one for one in dict.fromkeys(wanted) if one not in self._rows]

    def folded(self, namespace: str, checkpoint_id: str) -> tuple[Sealed, Slots]:
        """A checkpoint, and the slots of its table with all that it stands on.

        Raises:
            Damaged: it, or something below it, is not as it was written.
        """
        path: list[tuple[tuple[str, str], Row]] = []
        at = (namespace, checkpoint_id)
        while at not in self._known:
            row = self._rows.get(at)
            if row is None or len(path) > len(self._rows):
                raise Damaged(
                    f"session {self._session}: checkpoint {at[1]} is gone, and others stand on it",
                    hint=_HINT,
                )
            path.append((at, row))
            if not row["depth"]:
                break
            at = (namespace, row["parent_id"])
        below = self._known.get(at)
        for key, row in reversed(path):
            under = below if row["depth"] else None
            sealed = verified(self._sealer, self._session, row, under[0].seal if under else None)
            if under and sealed.checkpoint.depth != under[0].checkpoint.depth + 1:
                raise Damaged(
                    f"session {self._session}: checkpoint {key[1]} stands on the wrong one"
                )
            found = sealed.checkpoint
            slots = folded(under[1] if under else {}, found.data) if found.format == TABLE else {}
            below = self._known[key] = (sealed, slots)
        assert below is not None
        return below
