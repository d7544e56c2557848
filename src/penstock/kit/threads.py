"""A coroutine in a thread and an event loop of its own, which no other loop can hold up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol

log = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0

Aside = Callable[[asyncio.Event], Awaitable[None]]  # runs until the event is set


class Beside(Protocol):
    """Something that runs beside the event loop."""

    def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        ...


class LoopThread:
    """Runs ``aside(stopping)`` in a thread; it ends when it sees that ``stopping`` is set."""

    def __init__(
        self,
        name: str,
        aside: Aside,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._aside = aside
        self._loop_factory = loop_factory
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Set ``stopping``, and wait for the thread."""
        if not self._thread.is_alive():
            return
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._begun.wait(_JOIN_SECONDS)
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_JOIN_SECONDS)

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._run())
        except Exception:
            log.exception("the thread %s has ended", self._thread.name)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._begun.set()
        await self._aside(self._stopping)
