"""Secrets that all servers of one database share: the pepper, the seal, the key that signs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from penstock.drivers.signing import PrivateKeys
from penstock.drivers.signing.files import FileKeys
from penstock.settings import Settings
from penstock.store import Store, Transaction, checkpoints
from penstock.store import settings as kept


async def pepper_of(store: Store, home: Path) -> bytes:
    """The secret under which keys are hashed: a file beside SQLite, or shared in PostgreSQL."""
    proposal = secrets.token_hex(32)
    if not store.embedded:

        async def work(tx: Transaction) -> str:
            return await kept.agree(tx, "pepper", proposal)

        return bytes.fromhex(await store.transact(work))
    file = home / "pepper"
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as text:
            text.write(proposal)
            text.flush()
            os.fsync(text.fileno())
    return bytes.fromhex(file.read_text(encoding="ascii"))


async def seal_checkpoints(store: Store) -> None:
    """Seal what older releases of Penstock kept; from then on, what has no seal is refused."""

    async def work(tx: Transaction) -> int:
        return await checkpoints.adopt(tx, sealer=store.sealer)

    while await store.transact(work):
        pass


def signing_keys(store: Store, settings: Settings) -> PrivateKeys:
    """The key that signs releases: a file that was given, one beside SQLite, or in PostgreSQL."""
    if settings.signing_key is not None:
        return FileKeys(settings.signing_key)
    return FileKeys(settings.home / "signing" / "key.pem") if store.embedded else _SharedKey(store)


class _SharedKey:
    """The private key that all servers of one database sign with."""

    _NAME = "signing_key"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self) -> str | None:
        """The key, if there is one yet."""

        async def work(tx: Transaction) -> str | None:
            return await kept.get(tx, self._NAME)

        return await self._store.read(work)

    async def write(self, pem: str, *, seen: str | None) -> str:
        """Replace the key that was seen; the key that is kept now."""

        async def work(tx: Transaction) -> str:
            if seen is not None:
                await kept.change(tx, self._NAME, pem, seen=seen)
            return await kept.agree(tx, self._NAME, pem)

        return await self._store.transact(work)
