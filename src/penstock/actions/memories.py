"""Memories: look at what agents remember, and let them forget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from penstock.domain.access import Actor
from penstock.domain.errors import Invalid, NotFound
from penstock.domain.memories import Memory, MemoryScope
from penstock.rules.access import check
from penstock.rules.memories import checked, checked_key
from penstock.store import Store, Transaction, audit, memories

_MOST = 500


class MemoryActions:
    """What may be done with memories from outside."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def listing(
        self,
        actor: Actor,
        *,
        agent: str,
        environment: str = "production",
        namespace: Sequence[str] = (),
        user: str | None = None,
        query: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> list[Memory]:
        """Memories below a namespace, the latest first; with ``query``, the best first.

        With ``user``, what a session of this user reaches: all but what is other users'.

        Raises:
            Invalid: that is no namespace.
        """
        check(actor, "memory.read")
        prefix = checked(namespace, prefix=True)
        scope = MemoryScope(agent=agent, environment=environment, user_id=user)
        return await self._store.read(
            partial(
                memories.search,
                scope=scope,
                prefix=prefix,
                query=query,
                limit=min(limit, _MOST),
                offset=offset,
            )
        )

    async def get(
        self, actor: Actor, *, agent: str, environment: str, namespace: Sequence[str], key: str
    ) -> Memory:
        """One memory.

        Raises:
            NotFound: nothing is remembered under this key.
            Invalid: that is no namespace, or no key.
        """
        check(actor, "memory.read")
        place = checked(namespace)
        scope = MemoryScope(agent=agent, environment=environment)
        found = await self._store.read(
            partial(memories.get, scope=scope, namespace=place, key=checked_key(key))
        )
        if found is None:
            raise NotFound(f"{agent} remembers nothing under {'/'.join(place)}/{key}")
        return found

    async def delete(
        self,
        actor: Actor,
        *,
        agent: str,
        environment: str | None = None,
        namespace: Sequence[str] = (),
        user: str | None = None,
        key: str | None = None,
        everything: bool = False,
    ) -> int:
        """Let an agent forget what fits all that is given; how much that was.

        A user's memories are those that the user's sessions wrote, and those below
        ``users/USER``. Without an environment it is forgotten in every one.

        Raises:
            Invalid: nothing was given, and ``everything`` was not meant.
        """
        check(actor, "memory.delete")
        prefix = checked(namespace, prefix=True)
        if not (prefix or user or key is not None or everything):
            raise Invalid(
                "what is to be forgotten was not said",
                hint="Name a user, a namespace or a key, or say that all of it is meant.",
            )

        async def work(tx: Transaction) -> int:
            count = await memories.forget(
                tx, agent=agent, environment=environment, user_id=user, prefix=prefix, key=key
            )
            detail = {
                "environment": environment, "namespace": list(prefix), "user": user, "key": key,
                "count": count,
            }  # fmt: skip
            await audit.add(
                tx, actor, "memory.delete", object_kind="memory", object_id=agent, detail=detail
            )
            return count

        return await self._store.transact(work)
