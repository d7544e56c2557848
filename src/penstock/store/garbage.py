"""What nothing needs any more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.store.transaction import Transaction

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A content that may be garbage."""

    digest: str
    size: int  # bytes


async def users_of_release(tx: Transaction, digest: str) -> list[str]:
    """What still needs a release, as the end of a sentence that begins with "it is"."""
    rows = await tx.fetch_all("garbage.users_of_release", digest=digest)
    return [row["what"] for row in rows if row["what"] is not None]


async def delete_release(tx: Transaction, digest: str) -> None:
    """Delete a release and what is said about it; its contents become garbage."""
    for query in ("delete_release_blobs", "delete_release_components", "delete_attestations"):
        await tx.execute(f"garbage.{query}", digest=digest)
    await tx.execute("garbage.delete_release", digest=digest)


async def recorded(tx: Transaction, *, after: str, limit: int) -> tuple[set[str], str | None]:
    """Contents that recorded exchanges refer to, and where the next page begins, if there is one.

    Every digest that is written anywhere in a record counts, whatever it stands for.
    """
    rows = await tx.fetch_all("garbage.exchanges_page", after=after, limit=limit)
    found: set[str] = set()
    for row in rows:
        found.update(_DIGEST.findall(row["request"]))
        found.update(_DIGEST.findall(row["response"] or ""))
    return found, rows[-1]["id"] if len(rows) == limit else None


async def unreferenced(tx: Transaction, *, before_us: int, after: str, limit: int) -> list[Content]:
    """Contents older than a moment that no release and no component version needs."""
    rows = await tx.fetch_all("garbage.unreferenced", before_us=before_us, after=after, limit=limit)
    return [Content(digest=row["digest"], size=row["size"]) for row in rows]


async def delete_blob(tx: Transaction, digest: str, *, before_us: int) -> bool:
    """Delete a content, unless somebody has come to need it meanwhile; whether it is gone."""
    return bool(await tx.execute("garbage.delete_blob", digest=digest, before_us=before_us))
