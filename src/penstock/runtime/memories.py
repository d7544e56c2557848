"""What an attempt remembers, and what it asks of its agent's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from penstock.domain.errors import Exhausted, Forbidden, Invalid
from penstock.domain.memories import Memory, MemoryScope, Namespace, NewMemory
from penstock.inside.memories import matches
from penstock.rules.memories import (
    MOST_VALUE_BYTES,
    checked,
    checked_key,
    checked_vector,
    fits,
    may_touch,
    ranked,
    words_of,
)
from penstock.runtime.checkpoints import Answer
from penstock.runtime.journals import Journal
from penstock.store import Transaction, memories

_encode = msgspec.json.Encoder().encode

_MOST_OPS = 1000
_MOST_FOUND_BYTES = 16 << 20  # of one answer
_MOST_VECTORS = 10_000  # that one search compares here: of more, those written last
_PAGE = 200
_LARGER = 10  # is the next page of what the database ranks
_FARTHEST = 1_000_000
_LONGEST_TTL_US = 100 * 366 * 86_400 * 1_000_000

_Op = Mapping[str, Any]
_Ranked = tuple[tuple[Namespace, str], float]  # namespace and key, cosine


async def answer(journal: Journal, call: dict[str, Any], blobs: list[bytes]) -> Answer:
    """Do what an attempt asks of its agent's memory.

    Raises:
        Stale: another attempt owns the task.
        KeyError, TypeError, ValueError: the call is none, lacks something or is refused.
    """
    scope = await journal.memory_scope()
    if call["op"] == "memory.user":
        return Answer({"ok": True, "user": scope.user_id})
    if call["op"] != "memory.batch":
        raise ValueError(f"there is no call {call['op']!r}")
    try:
        results = await Memories(journal, scope).batch(call["ops"], blobs)
    except (Invalid, Forbidden, Exhausted) as error:
        said = f"{error.message}. {error.hint}" if error.hint else error.message
        raise ValueError(said) from None
    return Answer({"ok": True, "results": results})


class Memories:
    """The memory of one agent in one environment, as an attempt may reach it."""

    def __init__(self, journal: Journal, scope: MemoryScope) -> None:
        """Read and write ``scope`` by ``journal``: what is written passes its fence."""
        self._journal = journal
        self._scope = scope
        self._read: list[tuple[Namespace, str]] = []  # whose time begins anew
        self._bytes = 0

    async def batch(self, ops: Sequence[_Op], blobs: Sequence[bytes]) -> list[Any]:
        """Do what was asked: what is read is as it was before what is written.

        Of several writes to one key the last one counts.

        Raises:
            Stale: another attempt owns the task; nothing was written.
            Invalid, Forbidden, Exhausted: an operation cannot be done; nothing was written.
        """
        if len(ops) > _MOST_OPS:
            raise Invalid(f"a batch holds at most {_MOST_OPS} operations")
        vectors = iter(blobs)
        puts: dict[tuple[Namespace, str], NewMemory] = {}
        results: list[Any] = []
        for op in ops:
            match op["op"]:
                case "put":
                    new = self._new(op, [next(vectors) for _ in range(op.get("vectors") or 0)])
                    puts[new.namespace, new.key] = new
                    results.append(None)
                case "get":
                    results.append(await self._get(op))
                case "search":
                    vector = next(vectors) if op.get("vector") else None
                    results.append(await self._search(op, vector))
                case "namespaces":
                    results.append(await self._namespaces(op))
                case unknown:
                    raise Invalid(f"memory knows no operation {unknown!r}")
        await self._write(list(puts.values()))
        return results

    async def _write(self, puts: list[NewMemory]) -> None:
        read, self._read = self._read, []
        if not puts and not read:
            return

        async def work(tx: Transaction) -> None:
            await memories.touch(tx, self._scope, read)
            for new in puts:
                await memories.put(tx, self._scope, new)

        await self._journal.fenced(work)

    # ------------------------------------------------------------ one operation

    def _new(self, op: _Op, vectors: list[bytes]) -> NewMemory:
        namespace = self._reached(op)
        key = checked_key(op["key"])
        value = op.get("value")
        if value is None:
            return NewMemory(namespace=namespace, key=key, value=None)
        if not isinstance(value, dict):
            raise Invalid("what is remembered is a JSON object")
        if (size := len(_encode(value))) > MOST_VALUE_BYTES:
            raise Exhausted(
                f"memory {key!r} has {size} bytes; the limit is {MOST_VALUE_BYTES}",
                hint="Keep a reference to the data instead.",
            )
        return NewMemory(
            namespace=namespace,
            key=key,
            value=value,
            words=words_of(value) if op.get("searchable", True) else "",
            vectors=tuple(map(checked_vector, vectors)),
            ttl_us=_ttl_us(op.get("ttl")),
        )

    async def _get(self, op: _Op) -> Any:
        namespace, key = self._reached(op), checked_key(op["key"])
        found = await self._journal.read(
            partial(memories.get, scope=self._scope, namespace=namespace, key=key)
        )
        if found is None:
            return None
        self._see(found, op)
        return _fields(found)

    async def _search(self, op: _Op, vector: bytes | None) -> list[Any]:
        prefix = self._reached(op, prefix=True)
        limit, offset = _between(op.get("limit", 10)), _between(op.get("offset", 0))
        wanted = op.get("filter") or {}
        found: list[Memory] = []
        if vector is not None:
            candidates = self._near(prefix, checked_vector(vector))
        else:
            candidates = self._listed(prefix, op.get("query") or "")
        async for memory in candidates:
            if len(found) >= offset + limit:
                break
            if matches(memory.value, wanted):
                found.append(memory)
        shown = found[offset:]
        for memory in shown:
            self._see(memory, op)
        return [_fields(memory) for memory in shown]

    async def _listed(
        self, prefix: Namespace, query: str, *, scoreless: bool = False
    ) -> AsyncIterator[Memory]:
        """The latest first, or those with most of the words of ``query``."""
        offset = 0
        while True:
            if query:
                work = partial(memories.search, query=query)
            else:
                work = partial(memories.page, scoreless=scoreless)
            some = await self._journal.read(
                partial(work, scope=self._scope, prefix=prefix, limit=_PAGE, offset=offset)
            )
            for memory in some:
                yield memory
            if len(some) < _PAGE:
                return
            offset += _PAGE

    async def _near(self, prefix: Namespace, vector: bytes) -> AsyncIterator[Memory]:
        """Those with a vector by their cosine, then the others."""
        ranking = self._ranked_there if self._journal.compares_vectors else self._ranked_here
        async for (namespace, key), score in ranking(prefix, vector):
            found = await self._journal.read(
                partial(memories.get, scope=self._scope, namespace=namespace, key=key)
            )
            if found is not None:
                yield replace(found, score=score)
        async for memory in self._listed(prefix, "", scoreless=True):
            yield memory

    async def _ranked_here(self, prefix: Namespace, vector: bytes) -> AsyncIterator[_Ranked]:
        candidates = await self._journal.read(
            partial(memories.vectors, scope=self._scope, prefix=prefix, limit=_MOST_VECTORS)
        )
        for ranking in await asyncio.to_thread(ranked, vector, candidates):
            yield ranking

    async def _ranked_there(self, prefix: Namespace, vector: bytes) -> AsyncIterator[_Ranked]:
        """By the database, which compares all of them again for every page."""
        given: set[tuple[Namespace, str]] = set()  # between two pages the order may change
        limit, offset = _PAGE, 0
        while True:
            some = await self._journal.read(
                partial(
                    memories.nearest,
                    scope=self._scope,
                    prefix=prefix,
                    vector=vector,
                    limit=limit,
                    offset=offset,
                )
            )
            for place, score in some:
                if place not in given:
                    given.add(place)
                    yield place, score
            if len(some) < limit:
                return
            limit, offset = limit * _LARGER, offset + limit

    async def _namespaces(self, op: _Op) -> list[Any]:
        conditions = [(str(kind), tuple(path)) for kind, path in op.get("conditions") or ()]
        depth = op.get("depth")
        every = await self._journal.read(partial(memories.namespaces, scope=self._scope))
        found = [namespace for namespace in every if fits(namespace, conditions)]
        if depth is not None:
            found = sorted({namespace[: int(depth)] for namespace in found})
        limit, offset = _between(op.get("limit", 100)), _between(op.get("offset", 0))
        return [list(namespace) for namespace in found[offset : offset + limit]]

    # ------------------------------------------------------------ small things

    def _reached(self, op: _Op, *, prefix: bool = False) -> Namespace:
        namespace = checked(op["namespace"], prefix=prefix)
        may_touch(namespace, self._scope.user_id)
        return namespace

    def _see(self, memory: Memory, op: _Op) -> None:
        if memory.ttl_us is not None and op.get("refresh", True):
            self._read.append((memory.namespace, memory.key))
        self._bytes += len(_encode(memory.value))
        if self._bytes > _MOST_FOUND_BYTES:
            raise Exhausted(
                f"what was found has more than {_MOST_FOUND_BYTES >> 20} MiB",
                hint="Ask for less: a smaller limit, a longer namespace.",
            )


def _fields(memory: Memory) -> dict[str, Any]:
    return {
        "namespace": list(memory.namespace),
        "key": memory.key,
        "value": memory.value,
        "created_us": memory.created_us,
        "updated_us": memory.updated_us,
        "score": memory.score,
    }


def _ttl_us(seconds: Any) -> int | None:
    if seconds is None:
        return None
    microseconds = int(float(seconds) * 1_000_000)
    if not 0 < microseconds <= _LONGEST_TTL_US:
        raise Invalid(f"a memory cannot live for {seconds} seconds")
    return microseconds


def _between(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number <= _FARTHEST:
        raise Invalid(f"{number!r} is no number of memories")
    return number
