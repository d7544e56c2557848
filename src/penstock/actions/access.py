"""Access: who a key belongs to, and the keys there are."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from penstock.domain.access import SYSTEM, Actor, Role
from penstock.domain.errors import Conflict, Invalid, NotFound, Unauthenticated
from penstock.kit.ids import new_id
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, principals
from penstock.store.principals import KeyRecord

_PREFIX = "psk_"
_RANDOM_BYTES = 32
_HINT = 9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_REMEMBER_SECONDS = 5.0  # how long another server's revocation may go unnoticed
_REMEMBERED = 1000
_FIRST = "admin"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """A key as it is shown once."""

    id: str
    name: str
    role: Role
    key: str


class AccessActions:
    """Authenticates, and manages keys.

    A key is 256 random bits; what is stored is its HMAC-SHA256 under the pepper, which is not in
    the same table. A dump of the table lets nobody in.
    """

    def __init__(self, store: Store, pepper: bytes) -> None:
        self._store = store
        self._pepper = pepper
        self._known: dict[str, tuple[Actor, float]] = {}

    async def bootstrap(self, chosen: str | None = None) -> str | None:
        """Make the first administrator; its key, or nothing if there are principals already.

        Args:
            chosen: the key to use instead of a random one.
        """
        key = chosen or _fresh_key()

        async def work(tx: Transaction) -> bool:
            if await principals.count(tx):
                return False
            await self._add(tx, SYSTEM, name=_FIRST, role=Role.ADMIN, key=key)
            return True

        try:
            return key if await self._store.transact(work) else None
        except Conflict:
            return None  # another server of this database has just done so

    async def authenticate(self, key: str) -> Actor:
        """Whose key this is.

        Raises:
            Unauthenticated: nobody's, or it was revoked.
        """
        hashed = self._hash(key)
        now = time.monotonic()
        known = self._known.get(hashed)
        if known is not None and known[1] > now:
            return known[0]

        async def work(tx: Transaction) -> Actor | None:
            return await principals.by_key(tx, hashed)

        actor = await self._store.read(work)
        if actor is None:
            self._known.pop(hashed, None)
            raise Unauthenticated(
                "this key is not known here",
                hint="Log in with the line the server printed when it first started:"
                " penstock login URL --key psk_…",
            )
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[hashed] = (actor, now + _REMEMBER_SECONDS)
        return actor

    async def create_key(self, actor: Actor, *, name: str, role: str) -> NewKey:
        """Make a principal with a key, which is shown this once.

        Raises:
            Invalid: the name or the role is none.
            Conflict: the name is taken.
        """
        check(actor, "key.write")
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} is no name", hint="Letters, digits, dots and dashes.")
        if role not in set(Role):
            raise Invalid(f"{role!r} is no role", hint=f"One of: {', '.join(Role)}.")
        key = _fresh_key()

        async def work(tx: Transaction) -> str:
            return await self._add(tx, actor, name=name, role=Role(role), key=key)

        try:
            key_id = await self._store.transact(work)
        except Conflict:
            raise Conflict(
                f"there is a key named {name} already", hint="Choose another name."
            ) from None
        return NewKey(id=key_id, name=name, role=Role(role), key=key)

    async def listing(self, actor: Actor) -> list[KeyRecord]:
        """Every key, without its secret."""
        check(actor, "key.read")
        return await self._store.read(principals.keys)

    async def revoke(self, actor: Actor, key_id: str) -> None:
        """End a key; other servers notice within seconds.

        Raises:
            NotFound: there is no such valid key.
            Conflict: nobody could administrate any more.
        """
        check(actor, "key.write")

        async def work(tx: Transaction) -> None:
            if not await principals.other_admin_keys(tx, key_id):
                raise Conflict(
                    "this is the last key of an administrator",
                    hint="Create another one first: penstock keys create NAME --role admin",
                )
            if not await principals.revoke(tx, key_id):
                raise NotFound(f"there is no valid key {key_id}", hint="penstock keys list")
            await audit.add(tx, actor, "key.revoke", object_kind="key", object_id=key_id, detail={})

        await self._store.transact(work)
        self._known.clear()

    async def _add(self, tx: Transaction, actor: Actor, *, name: str, role: Role, key: str) -> str:
        key_id = new_id("key")
        await principals.add(
            tx,
            principal_id=new_id("usr"),
            name=name,
            role=role,
            key_id=key_id,
            hashed=self._hash(key),
            hint=key[:_HINT],
        )
        await audit.add(
            tx,
            actor,
            "key.create",
            object_kind="key",
            object_id=key_id,
            detail={"name": name, "role": role.value},
        )
        return key_id

    def _hash(self, key: str) -> str:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).hexdigest()


def _fresh_key() -> str:
    return _PREFIX + secrets.token_hex(_RANDOM_BYTES)
