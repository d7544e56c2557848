"""Leases: which server does what only one may do."""

from __future__ import annotations

from penstock.store.transaction import Transaction


async def acquire(tx: Transaction, *, name: str, holder: str, seconds: float) -> int | None:
    """Take or renew a lease by the database's clock; its epoch, or nothing if another has it."""
    row = await tx.fetch_one(
        "leases.acquire", name=name, holder=holder, lease_us=int(seconds * 1_000_000)
    )
    return None if row is None else int(row["epoch"])


async def release(tx: Transaction, *, name: str, holder: str) -> None:
    """Give a lease back, if it is one's own."""
    await tx.execute("leases.release", name=name, holder=holder)
