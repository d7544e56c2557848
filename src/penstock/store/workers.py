"""Workers: who runs tasks, and until when it may be believed to live."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from penstock.store.transaction import Transaction


class WorkerKind(StrEnum):
    """What a process that runs tasks is."""

    SERVER = "server"
    PROGRAM = "program"  # runs workflows of its own (``penstock.library``)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """A process that runs tasks."""

    id: str
    kind: WorkerKind
    host: str
    pid: int
    started_us: int
    heartbeat_us: int
    lease_until_us: int
    draining: bool
    capacity: int  # attempts it runs at once
    running: int  # tasks it owns


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A worker as a reaper sees it."""

    id: str
    host: str
    process: str  # see kit/presence; empty where it cannot be told
    overdue: bool  # its lease had gone by at ``as_of_us``
    as_of_us: int  # by the database's clock


async def register(
    tx: Transaction,
    *,
    worker_id: str,
    host: str,
    pid: int,
    lease_seconds: float,
    capacity: int,
    process: str = "",
    kind: WorkerKind = WorkerKind.SERVER,
) -> None:
    """Begin a worker's lease."""
    await tx.execute(
        "workers.register",
        id=worker_id,
        host=host,
        pid=pid,
        lease_us=int(lease_seconds * 1_000_000),
        capacity=capacity,
        process=process,
        kind=kind.value,
    )


async def beat(tx: Transaction, *, worker_id: str, lease_seconds: float, draining: bool) -> bool:
    """Renew a lease, also one that has gone by; False when the worker was buried.

    Who buries a worker deletes its row, and only what no row owns is taken over. So a row that is
    still there says that nobody has been given the worker's tasks.
    """
    renewed = await tx.execute(
        "workers.beat",
        id=worker_id,
        lease_us=int(lease_seconds * 1_000_000),
        draining=int(draining),
    )
    return bool(renewed)


async def remove(tx: Transaction, worker_id: str) -> None:
    """End a worker; what it still owns is taken over at once."""
    await tx.execute("workers.remove", id=worker_id)


async def remove_all(tx: Transaction) -> None:
    """End every worker: of an embedded database, whose server has just started."""
    await tx.execute("workers.remove_all")


async def registered(tx: Transaction) -> list[Registered]:
    """Every worker there is, and whose lease has gone by at this moment."""
    return [
        Registered(
            id=row["id"],
            host=row["host"],
            process=row["process"],
            overdue=row["lease_until_us"] < row["as_of_us"],
            as_of_us=row["as_of_us"],
        )
        for row in await tx.fetch_all("workers.registered")
    ]


async def kind(tx: Transaction, worker_id: str) -> WorkerKind | None:
    """What a worker is; None when there is none of this name."""
    row = await tx.fetch_one("workers.kind", id=worker_id)
    return None if row is None else WorkerKind(row["kind"])


async def ask_to_drain(tx: Transaction, worker_id: str) -> bool:
    """Let a worker leave; False when there is none of this name."""
    asked = bool(await tx.execute("workers.ask_to_drain", id=worker_id))
    if asked:
        tx.notify("drain", worker_id)
    return asked


async def is_draining(tx: Transaction, worker_id: str) -> bool:
    """Whether a worker leaves, or should."""
    row = await tx.fetch_one("workers.is_draining", id=worker_id)
    return row is not None and bool(row["draining"])


async def bury(tx: Transaction, worker_id: str, *, as_of_us: int | None) -> bool:
    """End a worker that is gone, unless it has renewed its lease since ``as_of_us``.

    None means that it is certainly dead, whatever its lease says.
    """
    return bool(await tx.execute("workers.bury", id=worker_id, as_of_us=as_of_us))


async def listing(tx: Transaction) -> list[WorkerRow]:
    """Every worker known, the oldest first."""
    return [
        WorkerRow(
            id=row["id"],
            kind=WorkerKind(row["kind"]),
            host=row["host"],
            pid=row["pid"],
            started_us=row["started_us"],
            heartbeat_us=row["heartbeat_us"],
            lease_until_us=row["lease_until_us"],
            draining=bool(row["draining"]),
            capacity=row["capacity"],
            running=row["running"],
        )
        for row in await tx.fetch_all("workers.listing")
    ]


async def wanted_releases(tx: Transaction) -> list[tuple[str, str]]:
    """Digests of the releases that new sessions can begin on, each with the environment."""
    rows = await tx.fetch_all("workers.wanted_releases")
    return [(row["digest"], row["environment"]) for row in rows]
