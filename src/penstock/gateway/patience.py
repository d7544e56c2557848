"""Waits for a store that is away for a moment, rather than failing the call that needs it.

A call that has been paid for is worth more than the seconds a database takes to restart: an agent
that is told "not recorded" fails its task for ever, one that waits goes on. Whoever made the call
may leave at any time, and is not waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from penstock.domain.errors import Unavailable
from penstock.store import Store, Work

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_SECONDS = 60.0
_AGAIN_SECONDS = 0.25


class Patience:
    """How long a store may be away; nothing is waited for any more once it is closed."""

    def __init__(self, store: Store, *, seconds: float = _LONGEST_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._closed = False

    def close(self) -> None:
        """Let those that wait fail, and whoever comes after them at once."""
        self._closed = True

    async def read(self, work: Work[T]) -> T:
        """Read from the store.

        Raises:
            Unavailable: it has been away for too long.
        """
        return await self.until_there(lambda: self._store.read(work))

    async def until_there(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask()`` returns, asked again for as long as the store is away.

        Raises:
            Unavailable: it has been away for too long.
        """
        until = asyncio.get_running_loop().time() + self._seconds
        while True:
            try:
                return await ask()
            except Unavailable as error:
                if self._closed or asyncio.get_running_loop().time() > until:
                    raise
                log.warning("a model call waits: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)
