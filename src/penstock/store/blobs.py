"""Contents under their address: sha256 in lower-case hex."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.domain.errors import NotFound
from penstock.store.transaction import Transaction


async def put(tx: Transaction, contents: Mapping[str, bytes]) -> None:
    """Keep every content under its digest; those that are there already cost one lookup.

    The caller computed the digests; they are not checked again here.
    """
    for digest in sorted(contents):  # in one order everywhere, so that writers never deadlock
        content = contents[digest]
        await tx.execute("blobs.put", digest=digest, size=len(content), content=content)


async def get(tx: Transaction, digest: str) -> bytes:
    """One content.

    Raises:
        NotFound: there is none under this digest.
    """
    row = await tx.fetch_one("blobs.get", digest=digest)
    if row is None:
        raise NotFound(f"there is no content {digest}")
    return bytes(row["content"])


async def missing(tx: Transaction, digests: Iterable[str]) -> list[str]:
    """The digests under which nothing is kept, in the order given."""
    return [d for d in digests if await tx.fetch_one("blobs.exists", digest=d) is None]
