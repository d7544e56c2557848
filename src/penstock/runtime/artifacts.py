"""A stored release, proven before it is used."""

from __future__ import annotations

from penstock.domain.attestations import Attestation, PublicKey
from penstock.domain.errors import Damaged
from penstock.domain.releases import Release
from penstock.rules import provenance
from penstock.rules.releases import digest_bytes, verified
from penstock.store import Store, Transaction, attestations, releases


async def load(store: Store, digest: str) -> Release:
    """A release whose manifest is what its digest says and for which a good key vouches.

    Raises:
        Damaged: it is not, or nobody does; names what is wrong.
        NotFound: there is no such release.
    """

    async def work(
        tx: Transaction,
    ) -> tuple[Release, bytes, list[Attestation], dict[str, PublicKey]]:
        return (
            await releases.get(tx, digest),
            await releases.raw(tx, digest),
            await attestations.of_release(tx, digest),
            await attestations.keys(tx),
        )

    release, raw, statements, keys = await store.read(work)
    verified(raw, digest)
    prove(digest, statements, keys)
    return release


def prove(digest: str, statements: list[Attestation], keys: dict[str, PublicKey]) -> None:
    """Check what is said about a release; every statement must hold, and one must be signed.

    Raises:
        Damaged: one does not hold, or there is none.
    """
    signed = [item for item in statements if item.kind == "provenance"]
    if not signed:
        raise Damaged(
            f"nobody vouches for release {digest}",
            hint="Restart the server: it signs what was published before there were signatures.",
        )
    boms = {digest_bytes(item.content): item for item in statements if item.kind == "sbom"}
    for item in signed:
        what = f"the provenance of release {digest} (blob {digest_bytes(item.content)})"
        statement = provenance.verify(item.content, keys, subject=digest, what=what)
        named = provenance.byproduct(statement, "sbom")
        if named is not None and named not in boms:
            raise Damaged(f"the bill of materials of release {digest} is not blob {named}")
