"""Signing: with which key releases are vouched for, whose keys are believed, and what is signed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import penstock
from penstock.actions import boms
from penstock.domain.access import SYSTEM, Actor
from penstock.domain.attestations import KeyState, PublicKey
from penstock.domain.errors import Conflict, Invalid, NotFound, Unavailable
from penstock.domain.releases import Manifest
from penstock.drivers.signing import PrivateKeys
from penstock.kit.clock import BootClock, Clock
from penstock.rules import provenance, signatures
from penstock.rules.access import check
from penstock.rules.releases import digest_bytes
from penstock.store import Store, Transaction, attestations, audit, blobs, releases

_LEAST_PREFIX = 8
_BATCH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Signer:
    """The key that signs now."""

    key_id: str
    public_pem: str
    _private: Ed25519PrivateKey

    def sign(self, payload: bytes) -> bytes:
        """A payload in a signed envelope."""
        return signatures.seal(payload, key_id=self.key_id, sign=self._private.sign)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vouched:
    """What is kept beside a release."""

    key_id: str
    provenance: bytes
    sbom: bytes

    async def keep(self, tx: Transaction, release: str) -> None:
        """Keep it."""
        await attestations.add(tx, release, "provenance", self.key_id, self.provenance)
        await attestations.add(tx, release, "sbom", "", self.sbom)


class SigningActions:
    """What may be done with signing keys, and the signing itself."""

    def __init__(self, store: Store, keys: PrivateKeys, clock: Clock | None = None) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock or BootClock()

    # ------------------------------------------------------------ keys

    async def listing(self, actor: Actor) -> list[PublicKey]:
        """Every key that is known; the active one signs."""
        check(actor, "release.read")
        await self.signer()
        return list((await self._store.read(attestations.keys)).values())

    async def rotate(self, actor: Actor) -> PublicKey:
        """Sign with a new key from now on; what the old one signed stays valid."""
        check(actor, "signing.write")
        old = await self.signer()
        seen = await self._keys.read()
        made = _new_pem()
        if await self._keys.write(made, seen=seen) != made:
            raise Conflict("another server has just rotated the key", hint="Look: signing list")
        signer = _signer(made)

        async def work(tx: Transaction) -> PublicKey:
            await attestations.set_key_state(tx, old.key_id, KeyState.RETIRED)
            await _know(tx, signer)
            await _audit(tx, actor, "signing.rotate", signer.key_id, {"retired": old.key_id})
            return (await attestations.keys(tx))[signer.key_id]

        return await self._store.transact(work)

    async def trust(self, actor: Actor, public_pem: str, *, name: str) -> PublicKey:
        """Believe another installation's key.

        Raises:
            Invalid: it is no ed25519 public key.
        """
        check(actor, "signing.write")
        try:
            key_id = signatures.key_id(public_pem)
        except signatures.SignatureError as error:
            raise Invalid(str(error), hint="Export it there: penstock signing show") from None

        async def work(tx: Transaction) -> PublicKey:
            known = await attestations.keys(tx)
            if key_id in known and known[key_id].state is KeyState.REVOKED:
                await attestations.set_key_state(tx, key_id, KeyState.TRUSTED)
            await attestations.add_key(
                tx, key_id, name=name, public_pem=public_pem, state=KeyState.TRUSTED
            )
            await _audit(tx, actor, "signing.trust", key_id, {"name": name})
            return (await attestations.keys(tx))[key_id]

        return await self._store.transact(work)

    async def revoke(self, actor: Actor, key_id: str) -> PublicKey:
        """Believe nothing that a key has signed; what it alone vouches for is not loaded again.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the one that signs now.
        """
        check(actor, "signing.write")

        async def work(tx: Transaction) -> PublicKey:
            key = _one(await attestations.keys(tx), key_id)
            if key.state is KeyState.ACTIVE:
                raise Conflict(f"{key.id} signs now", hint="Rotate first: penstock signing rotate")
            await attestations.set_key_state(tx, key.id, KeyState.REVOKED)
            await _audit(tx, actor, "signing.revoke", key.id, {"name": key.name})
            return replace(key, state=KeyState.REVOKED)

        return await self._store.transact(work)

    # ------------------------------------------------------------ signing

    async def signer(self) -> Signer:
        """The key that signs now; the first call makes it.

        Raises:
            Unavailable: it cannot be read.
        """
        pem = await self._keys.read()
        if pem is None:
            pem = await self._keys.write(_new_pem(), seen=None)
        signer = _signer(pem)

        async def work(tx: Transaction) -> None:
            known = await attestations.keys(tx)
            if known.get(signer.key_id) is None or (
                known[signer.key_id].state is not KeyState.ACTIVE
            ):
                # A mounted key was replaced: the one before it has signed and signs no more.
                for key in known.values():
                    if key.state is KeyState.ACTIVE:
                        await attestations.set_key_state(tx, key.id, KeyState.RETIRED)
                await _know(tx, signer)
                await attestations.set_key_state(tx, signer.key_id, KeyState.ACTIVE)

        known = await self._store.read(attestations.keys)
        if signer.key_id not in known or known[signer.key_id].state is not KeyState.ACTIVE:
            await self._store.transact(work)
        return signer

    async def vouch(
        self,
        digest: str,
        pinned: Manifest,
        *,
        lock: str,
        by: str,
        source: Mapping[str, Any],
        started_us: int | None = None,
    ) -> Vouched:
        """Provenance and bill of materials of a release, the first signed and naming the other."""
        signer = await self.signer()
        now_us = self._clock.now_us()
        sbom = boms.bill(pinned, digest, lock, serial=uuid.uuid4(), made=_time(now_us))
        statement = provenance.of_release(
            digest,
            pinned,
            self._built(signer, by=by, source=source, started_us=started_us or now_us),
            packages=[package.url for package in boms.packages(lock)],
            sbom_digest=digest_bytes(sbom),
        )
        return Vouched(key_id=signer.key_id, provenance=signer.sign(statement), sbom=sbom)

    async def vouch_for_artifact(self, manifest_digest: str, release: str, *, by: str) -> bytes:
        """A signed statement about an exported artifact."""
        signer = await self.signer()
        built = self._built(signer, by=by, source={"release": release})
        return signer.sign(provenance.of_artifact(manifest_digest, release, built))

    async def vouch_for_all(self) -> int:
        """Vouch for what was published before there were signatures; how many releases."""
        count = 0
        while True:

            async def find(tx: Transaction) -> list[str]:
                return await attestations.unsigned(tx, limit=_BATCH)

            digests = await self._store.read(find)
            for digest in digests:
                await self._vouch_late(digest)
            count += len(digests)
            if len(digests) < _BATCH:
                return count

    async def _vouch_late(self, digest: str) -> None:
        async def load(tx: Transaction) -> tuple[Manifest, bytes]:
            release = await releases.get(tx, digest)
            return release.manifest, await blobs.get(tx, release.manifest.lock.digest)

        pinned, lock = await self._store.read(load)
        source = {"upgrade": "published before releases were signed"}
        vouched = await self.vouch(
            digest, pinned, lock=lock.decode(), by=SYSTEM.name, source=source
        )

        async def work(tx: Transaction) -> None:
            await vouched.keep(tx, digest)

        await self._store.transact(work)

    def _built(
        self,
        signer: Signer,
        *,
        by: str,
        source: Mapping[str, Any],
        started_us: int | None = None,
    ) -> provenance.Built:
        now_us = self._clock.now_us()
        return provenance.Built(
            key_id=signer.key_id,
            penstock=penstock.__version__,
            by=by,
            source=source,
            invocation=str(uuid.uuid4()),
            started=_time(started_us or now_us).isoformat(timespec="seconds"),
            finished=_time(now_us).isoformat(timespec="seconds"),
        )


def _one(keys: Mapping[str, PublicKey], given: str) -> PublicKey:
    found = [key for key_id, key in keys.items() if key_id.startswith(given.lower())]
    if len(found) != 1 or len(given) < _LEAST_PREFIX:
        raise NotFound(f"no one key begins with {given!r}", hint="List them: penstock signing list")
    return found[0]


async def _know(tx: Transaction, signer: Signer) -> None:
    await attestations.add_key(
        tx,
        signer.key_id,
        name="this installation",
        public_pem=signer.public_pem,
        state=KeyState.ACTIVE,
    )


async def _audit(
    tx: Transaction, actor: Actor, action: str, key_id: str, detail: Mapping[str, Any]
) -> None:
    await audit.add(tx, actor, action, object_kind="signing", object_id=key_id, detail=detail)


def _new_pem() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _signer(pem: str) -> Signer:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unavailable(f"the signing key cannot be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Unavailable(
            "the signing key is no ed25519 key", hint="openssl genpkey -algorithm ed25519"
        )
    public_pem = (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    return Signer(key_id=signatures.key_id(public_pem), public_pem=public_pem, _private=key)


def _time(now_us: int) -> datetime:
    return datetime.fromtimestamp(now_us // 1_000_000, tz=UTC)
