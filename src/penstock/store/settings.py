"""What every server of one database must agree on."""

from __future__ import annotations

from penstock.store.transaction import Transaction


async def agree(tx: Transaction, name: str, proposal: str) -> str:
    """The value kept under a name; the first proposal is kept for ever."""
    await tx.execute("settings.put_if_absent", name=name, value=proposal)
    row = await tx.fetch_one("settings.get", name=name)
    return proposal if row is None else str(row["value"])
