"""Writes that land exactly once, on a database that may not answer.

A commit whose answer was lost may have landed, so what a second try finds in its way is read before
it is believed to be somebody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from penstock.domain.errors import Conflict, Stale, Unavailable
from penstock.store import Store, Work

log = logging.getLogger(__name__)

T = TypeVar("T")

_AGAIN_SECONDS = 0.25


class Landings:
    """The writes and readings of one attempt; each is tried for as long as its caller waits."""

    def __init__(self, store: Store, *, what: str) -> None:
        """``what`` writes, as the log names it."""
        self._store = store
        self._what = what

    async def transact(self, work: Work[T], landed: Work[T | None] | None) -> T:
        """Commit a unit of work, exactly once; see :meth:`land`."""
        return await self.land(lambda: self._store.transact(work), landed)

    async def land(self, write: Callable[[], Awaitable[T]], landed: Work[T | None] | None) -> T:
        """Commit what ``write`` writes, exactly once.

        Args:
            write: commits; the fence refuses it once somebody else owns the task.
            landed: what an earlier try has committed, or None if it has not; None when ``write``
                may be done twice.
        """
        uncertain = False
        while True:
            try:
                return await write()
            except Unavailable as error:
                if not uncertain:
                    log.warning("%s: %s; trying again", self._what, error)
                uncertain = True
                await asyncio.sleep(_AGAIN_SECONDS)
            except (Stale, Conflict):
                if not uncertain or landed is None:
                    raise
                found = await self.read(landed)
                if found is None:
                    raise
                return found

    async def read(self, work: Work[T]) -> T:
        """What a unit of work finds on one snapshot; it may not write."""
        while True:
            try:
                return await self._store.read(work)
            except Unavailable as error:
                log.debug("%s: %s; trying again", self._what, error)
                await asyncio.sleep(_AGAIN_SECONDS)
