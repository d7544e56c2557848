"""Principals and the keys they prove themselves with."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.access import Actor, Role
from penstock.store.transaction import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """A key, without its secret."""

    id: str
    name: str  # of its principal
    role: Role
    hint: str  # its first characters
    created_us: int
    revoked_us: int | None


async def count(tx: Transaction) -> int:
    """How many principals there are."""
    row = await tx.fetch_one("principals.count")
    return 0 if row is None else int(row["count"])


async def add(
    tx: Transaction,
    *,
    principal_id: str,
    name: str,
    role: Role,
    key_id: str,
    hashed: str,
    hint: str,
) -> None:
    """Make a principal with one key known.

    Raises:
        Conflict: the name is taken.
    """
    await tx.execute("principals.add", id=principal_id, name=name, role=role.value)
    await tx.execute(
        "principals.add_key", id=key_id, principal_id=principal_id, hash=hashed, hint=hint
    )


async def by_key(tx: Transaction, hashed: str) -> Actor | None:
    """Whose key has this hash, if it is valid."""
    row = await tx.fetch_one("principals.by_key", hash=hashed)
    return None if row is None else Actor(id=row["id"], name=row["name"], role=Role(row["role"]))


async def keys(tx: Transaction) -> list[KeyRecord]:
    """Every key, the oldest first."""
    return [
        KeyRecord(
            id=row["id"],
            name=row["name"],
            role=Role(row["role"]),
            hint=row["hint"],
            created_us=row["created_us"],
            revoked_us=row["revoked_us"],
        )
        for row in await tx.fetch_all("principals.keys")
    ]


async def revoke(tx: Transaction, key_id: str) -> bool:
    """End a key; whether it was valid."""
    return bool(await tx.execute("principals.revoke", id=key_id))


async def other_admin_keys(tx: Transaction, key_id: str) -> int:
    """How many valid keys of administrators there are beside this one."""
    row = await tx.fetch_one("principals.valid_admin_keys", id=key_id)
    return 0 if row is None else int(row["count"])
