"""Signed statements about releases, and the keys that signed them."""

from __future__ import annotations

from penstock.domain.attestations import Attestation, KeyState, PublicKey
from penstock.domain.errors import NotFound
from penstock.store.transaction import Row, Transaction


async def add(tx: Transaction, release: str, kind: str, key_id: str, content: bytes) -> None:
    """Keep a statement; one of the same kind and key that is there already stays as it is."""
    await tx.execute(
        "attestations.add", release_digest=release, kind=kind, key_id=key_id, content=content
    )


async def of_release(tx: Transaction, release: str) -> list[Attestation]:
    """The statements about a release."""
    return [
        Attestation(
            release=row["release_digest"],
            kind=row["kind"],
            key_id=row["key_id"],
            content=bytes(row["content"]),
            created_us=row["created_us"],
        )
        for row in await tx.fetch_all("attestations.of_release", release_digest=release)
    ]


async def unsigned(tx: Transaction, *, limit: int) -> list[str]:
    """Digests of releases that nobody has vouched for."""
    return [row["digest"] for row in await tx.fetch_all("attestations.unsigned", limit=limit)]


async def add_key(
    tx: Transaction, key_id: str, *, name: str, public_pem: str, state: KeyState
) -> None:
    """Know a public key; one that is known stays as it is."""
    await tx.execute(
        "attestations.add_key", id=key_id, name=name, public_pem=public_pem, state=state.value
    )


async def keys(tx: Transaction) -> dict[str, PublicKey]:
    """Every public key that is known, by its id."""
    return {row["id"]: _key(row) for row in await tx.fetch_all("attestations.keys")}


async def set_key_state(tx: Transaction, key_id: str, state: KeyState) -> None:
    """Change what a key is good for.

    Raises:
        NotFound: it is not known.
    """
    if not await tx.execute("attestations.set_key_state", id=key_id, state=state.value):
        raise NotFound(f"there is no signing key {key_id}", hint="List them: penstock signing list")


def _key(row: Row) -> PublicKey:
    return PublicKey(
        id=row["id"],
        name=row["name"],
        public_pem=row["public_pem"],
        state=KeyState(row["state"]),
        created_us=row["created_us"],
        changed_us=row["changed_us"],
    )
