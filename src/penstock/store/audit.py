"""The audit: who did what, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.domain.access import Actor, AuditEntry
from penstock.store.transaction import Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def add(
    tx: Transaction,
    actor: Actor,
    action: str,
    *,
    object_kind: str,
    object_id: str,
    detail: Mapping[str, Any],
) -> None:
    """Write an entry, in the transaction of what it is about."""
    await tx.execute(
        "audit.add",
        actor=actor.name,
        action=action,
        object_kind=object_kind,
        object_id=object_id,
        detail=_encode(detail).decode(),
    )


async def listing(
    tx: Transaction,
    *,
    object_kind: str | None = None,
    object_id: str | None = None,
    after: int = 0,
    limit: int = 200,
) -> list[AuditEntry]:
    """Entries behind the sequence number ``after``, in order."""
    rows = await tx.fetch_all(
        "audit.listing", object_kind=object_kind, object_id=object_id, after=after, limit=limit
    )
    return [
        AuditEntry(
            seq=row["seq"],
            at_us=row["at_us"],
            actor=row["actor"],
            action=row["action"],
            object_kind=row["object_kind"],
            object_id=row["object_id"],
            detail=_decode(row["detail"]),
        )
        for row in rows
    ]
