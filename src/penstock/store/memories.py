"""Memories: what agents keep across sessions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.domain.memories import USERS, Memory, MemoryScope, Namespace, NewMemory
from penstock.rules.memories import after_all, other_dimension, parts, query_words, stored
from penstock.store.transaction import Row, Transaction, Value

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_USERS = stored((USERS,))


async def put(tx: Transaction, scope: MemoryScope, new: NewMemory) -> None:
    """Remember, or forget, what a key stands for; the caller has passed the fence."""
    place = _place(scope, new.namespace, new.key)
    if new.value is None:
        if await tx.execute("memories.remove", **place):
            tx.notify("deleted", "")
        await tx.execute("memories.remove_vectors", **place)
        return
    # The memory first: it holds off others who write this key, and their vectors are seen then.
    await tx.execute(
        "memories.put",
        **place,
        value=_encode(new.value).decode(),
        words=new.words,
        user_id=scope.user_id,
        ttl_us=new.ttl_us,
    )
    await tx.execute("memories.remove_vectors", **place)
    for number, vector in enumerate(new.vectors):
        await tx.execute("memories.add_vector", **place, number=number, vector=vector)


async def get(tx: Transaction, scope: MemoryScope, namespace: Namespace, key: str) -> Memory | None:
    """What a key stands for, if anything."""
    row = await tx.fetch_one("memories.get", **_place(scope, namespace, key))
    return None if row is None else _record(row)


async def page(
    tx: Transaction,
    scope: MemoryScope,
    prefix: Namespace,
    *,
    limit: int,
    offset: int,
    scoreless: bool = False,
) -> list[Memory]:
    """Memories below ``prefix``, the latest first; ``scoreless``: those without a vector."""
    rows = await tx.fetch_all(
        "memories.page",
        **_below(scope, prefix),
        limit=limit,
        offset=offset,
        scoreless=int(scoreless),
    )
    return [_record(row) for row in rows]


async def search(
    tx: Transaction,
    scope: MemoryScope,
    prefix: Namespace,
    query: str,
    *,
    limit: int,
    offset: int,
) -> list[Memory]:
    """Memories with some of the words of ``query``; the score is the share that they have."""
    words = query_words(query)
    if not words:
        return await page(tx, scope, prefix, limit=limit, offset=offset)
    rows = await tx.fetch_all(
        "memories.search",
        **_below(scope, prefix),
        words=_encode(words).decode(),
        any_word=" | ".join(words),
        limit=limit,
        offset=offset,
    )
    return [_record(row, score=row["hits"] / len(words)) for row in rows]


async def vectors(
    tx: Transaction, scope: MemoryScope, prefix: Namespace, *, limit: int
) -> list[tuple[tuple[Namespace, str], bytes]]:
    """What embeddings made of the memories below ``prefix``: (namespace, key) and vector."""
    rows = await tx.fetch_all("memories.vectors", **_below(scope, prefix), limit=limit)
    return [((parts(row["namespace"]), row["key"]), bytes(row["vector"])) for row in rows]


async def nearest(
    tx: Transaction,
    scope: MemoryScope,
    prefix: Namespace,
    vector: bytes,
    *,
    limit: int,
    offset: int,
) -> list[tuple[tuple[Namespace, str], float]]:
    """As ``rules.memories.ranked``, by a database that compares vectors: (namespace, key), cosine.

    Raises:
        Invalid: a vector has another dimension than the query.
    """
    rows = await tx.fetch_all(
        "memories.nearest",
        **_below(scope, prefix),
        vector=vector,
        limit=limit,
        offset=offset,
    )
    if rows and rows[0]["other_bytes"]:
        raise other_dimension(vector, rows[0]["other_bytes"])
    return [((parts(row["namespace"]), row["key"]), row["score"]) for row in rows]


async def namespaces(tx: Transaction, scope: MemoryScope) -> list[Namespace]:
    """Every namespace in which something is remembered, in order."""
    found = _below(scope, ())
    del found["first"], found["beyond"]
    rows = await tx.fetch_all("memories.namespaces", **found)
    return sorted(parts(row["namespace"]) for row in rows)


async def touch(
    tx: Transaction, scope: MemoryScope, places: Sequence[tuple[Namespace, str]]
) -> None:
    """Let the time of memories that were read begin anew."""
    for namespace, key in places:
        await tx.execute("memories.touch", **_place(scope, namespace, key))


async def forget(
    tx: Transaction,
    *,
    agent: str,
    environment: str | None = None,
    user_id: str | None = None,
    prefix: Namespace = (),
    key: str | None = None,
) -> int:
    """Forget all of an agent's memories that fit; how many there were.

    Those of a user are what the user's sessions wrote, and what is below ``("users", user)``.
    """
    first = stored(prefix)
    count = await tx.execute(
        "memories.forget",
        agent=agent,
        environment=environment,
        first=first,
        beyond=after_all(first),
        key=key,
        user_id=user_id,
        own=stored((USERS, user_id or "")),
    )
    if count:
        await tx.execute("memories.forget_vectors", agent=agent)
        tx.notify("deleted", "")
    return count


async def sweep(tx: Transaction, *, limit: int) -> int:
    """Forget some of what has expired; how many were found."""
    rows = await tx.fetch_all("memories.expired", limit=limit)
    for row in rows:
        place = {name: row[name] for name in ("agent", "environment", "namespace", "key")}
        if await tx.execute("memories.remove_expired", **place):
            await tx.execute("memories.remove_vectors", **place)
    if rows:
        tx.notify("deleted", "")
    return len(rows)


def _place(scope: MemoryScope, namespace: Namespace, key: str) -> dict[str, Value]:
    return {
        "agent": scope.agent,
        "environment": scope.environment,
        "namespace": stored(namespace),
        "key": key,
    }


def _below(scope: MemoryScope, prefix: Namespace) -> dict[str, Value]:
    first = stored(prefix)
    return {
        "agent": scope.agent,
        "environment": scope.environment,
        "first": first,
        "beyond": after_all(first),
        "own": "" if scope.user_id is None else stored((USERS, scope.user_id)),
        "users_first": _USERS,
        "users_beyond": after_all(_USERS),
    }


def _record(row: Row, *, score: float | None = None) -> Memory:
    return Memory(
        namespace=parts(row["namespace"]),
        key=row["key"],
        value=_decode(row["value"]),
        user_id=row["user_id"],
        ttl_us=row["ttl_us"],
        expires_us=row["expires_us"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
        score=score,
    )
