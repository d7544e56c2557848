"""What every server of one database must agree on."""

from __future__ import annotations

from penstock.store.transaction import Transaction


async def agree(tx: Transaction, name: str, proposal: str) -> str:
    """The value kept under a name; the first proposal is kept for ever."""
    await tx.execute("settings.put_if_absent", name=name, value=proposal)
    row = await tx.fetch_one("settings.get", name=name)
    return proposal if row is None else str(row["value"])


async def get(tx: Transaction, name: str) -> str | None:
    """The value kept under a name, if there is one."""
    row = await tx.fetch_one("settings.get", name=name)
    return None if row is None else str(row["value"])


async def change(tx: Transaction, name: str, value: str, *, seen: str) -> bool:
    """Replace a value that is still the one that was seen; whether it was."""
    return bool(await tx.execute("settings.change", name=name, value=value, seen=seen))
