"""Workers: who runs tasks, and until when it may be believed to live."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.store.transaction import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """A server process that runs tasks."""

    id: str
    host: str
    pid: int
    started_us: int
    heartbeat_us: int
    lease_until_us: int
    draining: bool
    capacity: int  # attempts it runs at once


async def register(
    tx: Transaction, *, worker_id: str, host: str, pid: int, lease_seconds: float, capacity: int
) -> None:
    """Begin a worker's lease."""
    await tx.execute(
        "workers.register",
        id=worker_id,
        host=host,
        pid=pid,
        lease_us=int(lease_seconds * 1_000_000),
        capacity=capacity,
    )


async def beat(tx: Transaction, *, worker_id: str, lease_seconds: float, draining: bool) -> bool:
    """Renew a lease; False when it has gone by, and with it everything the worker owned."""
    renewed = await tx.execute(
        "workers.beat",
        id=worker_id,
        lease_us=int(lease_seconds * 1_000_000),
        draining=int(draining),
    )
    return bool(renewed)


async def remove(tx: Transaction, worker_id: str) -> None:
    """End a worker's lease; what it still owns is taken over at once."""
    await tx.execute("workers.remove", id=worker_id)


async def remove_all(tx: Transaction) -> None:
    """End every lease: of an embedded database, whose server has just started."""
    await tx.execute("workers.remove_all")


async def sweep(tx: Transaction, *, silent_seconds: float) -> None:
    """Forget workers that have been silent for so long."""
    await tx.execute("workers.sweep", silent_us=int(silent_seconds * 1_000_000))


async def listing(tx: Transaction) -> list[WorkerRow]:
    """Every worker known, the oldest first."""
    return [
        WorkerRow(
            id=row["id"],
            host=row["host"],
            pid=row["pid"],
            started_us=row["started_us"],
            heartbeat_us=row["heartbeat_us"],
            lease_until_us=row["lease_until_us"],
            draining=bool(row["draining"]),
            capacity=row["capacity"],
        )
        for row in await tx.fetch_all("workers.listing")
    ]


async def wanted_releases(tx: Transaction) -> list[tuple[str, str]]:
    """Digests of the releases that new sessions can begin on, each with the environment."""
    rows = await tx.fetch_all("workers.wanted_releases")
    return [(row["digest"], row["environment"]) for row in rows]
