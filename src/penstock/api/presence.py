"""Whether the client of a request is still there, and what becomes of its task when it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

from penstock.api.dependencies import Actions
from penstock.domain.access import Actor

log = logging.getLogger(__name__)

T = TypeVar("T")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Presence:
    """The client that made a task and waits for it, or reads its stream."""

    def __init__(self, asked: Actions, by: Actor, task_id: str, *, cancels: bool) -> None:
        """``cancels``: the task is to end when its client hangs up before that."""
        self._asked = asked
        self._by = by
        self._task_id = task_id
        self._cancels = cancels

    async def left(self) -> None:
        """The client has hung up; a server that is stopping hangs up itself, which says nothing."""
        if self._cancels and not self._asked.stopping.is_set():
            log.info("task %s: its client has hung up", self._task_id)
            await self._asked.tasks.abandon(self._by, self._task_id)

    async def during(self, work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
        """What ``work`` returns; nothing if the client hangs up before that."""
        waiting = asyncio.create_task(work)
        leaving = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()
            await asyncio.wait({waiting, leaving})
        await self.left()
        return None


async def gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
