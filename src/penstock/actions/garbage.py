"""Garbage: releases that nothing needs, and contents that no release and no record refers to.

What is needed is never a matter of time: a content is kept for as long as a release, a published
prompt or a recorded exchange refers to it. The grace period only covers what is being written now:
whoever stores a content that is there already makes it young again, in the transaction that refers
to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actions.releases import find
from penstock.domain.access import Actor
from penstock.domain.errors import Conflict
from penstock.domain.releases import Release
from penstock.kit.clock import BootClock, Clock
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, garbage
from penstock.store.garbage import Content

GRACE_SECONDS = 86_400.0  # far more than what blobs.put takes a content for young
_PAGE = 1000
_BATCH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What was, or would be, removed."""

    contents: int
    size: int  # bytes
    removed: bool  # False: it was only looked at


class GarbageActions:
    """Removes what nothing needs."""

    def __init__(
        self, store: Store, *, clock: Clock | None = None, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._store = store
        self._clock = clock or BootClock()
        self._grace_seconds = grace_seconds

    async def delete_release(self, actor: Actor, agent: str, ref: str) -> Release:
        """Delete a release that has never served anybody.

        Raises:
            Conflict: it is deployed, pinned by a session, or part of a record; says which.
            NotFound: there is no such release.
        """
        check(actor, "garbage.collect")

        async def work(tx: Transaction) -> Release:
            release = await find(tx, agent, ref)
            users = await garbage.users_of_release(tx, release.digest)
            if users:
                raise Conflict(
                    f"v{release.number} of {agent} cannot be deleted: it is {'; '.join(users)}",
                    hint="What served somebody is kept with the record of it.",
                )
            await garbage.delete_release(tx, release.digest)
            await audit.add(
                tx,
                actor,
                "release.delete",
                object_kind="release",
                object_id=release.digest,
                detail={"agent": agent, "number": release.number, "composite": release.composite},
            )
            return release

        return await self._store.transact(work)

    async def collect(self, actor: Actor, *, remove: bool = False) -> Collected:
        """Find contents that nothing refers to, and with ``remove`` delete them."""
        check(actor, "garbage.collect")
        before_us = self._clock.now_us() - int(self._grace_seconds * 1e6)
        found = await self._candidates(before_us)
        if not remove:
            return _collected(found, removed=False)
        gone: list[Content] = []
        for start in range(0, len(found), _BATCH):
            gone += await self._delete(found[start : start + _BATCH], before_us)
        collected = _collected(gone, removed=True)

        async def note(tx: Transaction) -> None:
            await audit.add(
                tx,
                actor,
                "garbage.collect",
                object_kind="garbage",
                object_id="",
                detail={"contents": collected.contents, "bytes": collected.size},
            )

        await self._store.transact(note)
        return collected

    async def _candidates(self, before_us: int) -> list[Content]:
        found: list[Content] = []
        after = ""
        while True:

            async def page(tx: Transaction, after: str = after) -> list[Content]:
                return await garbage.unreferenced(tx, before_us=before_us, after=after, limit=_PAGE)

            some = await self._store.read(page)
            found += some
            if len(some) < _PAGE:
                break
            after = some[-1].digest
        # Records are read last: one that is written from here on refers to contents that were
        # referred to before, or that it has just made young.
        recorded = await self._recorded() if found else set()
        return [content for content in found if content.digest not in recorded]

    async def _recorded(self) -> set[str]:
        found: set[str] = set()
        after: str | None = ""
        while after is not None:

            async def page(tx: Transaction, after: str = after) -> tuple[set[str], str | None]:
                return await garbage.recorded(tx, after=after, limit=_PAGE)

            some, after = await self._store.read(page)
            found |= some
        return found

    async def _delete(self, contents: list[Content], before_us: int) -> list[Content]:
        async def work(tx: Transaction) -> list[Content]:
            return [
                content
                for content in contents
                if await garbage.delete_blob(tx, content.digest, before_us=before_us)
            ]

        return await self._store.transact(work)


def _collected(contents: list[Content], *, removed: bool) -> Collected:
    return Collected(
        contents=len(contents), size=sum(one.size for one in contents), removed=removed
    )
