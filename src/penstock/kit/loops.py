"""A periodic loop that starts, wakes early, survives a failing round and stops cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Loop:
    """Calls ``round_`` every ``seconds``, or sooner when :meth:`wake` is called."""

    def __init__(
        self,
        name: str,
        round_: Callable[[], Awaitable[object]],
        *,
        seconds: float,
        stretch: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """``stretch()`` is a factor for the next pause, so that many servers fall out of step."""
        self._name = name
        self._stretch = stretch
        self._round = round_
        self._seconds = seconds
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin; the first round runs at once."""
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """Run a round now instead of at the end of the pause."""
        self._wake.set()

    async def stop(self) -> None:
        """Cancel the round in progress and wait until it is gone."""
        self._stopping = True  # a round may swallow the cancellation; it is then the last one
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self._round()
            except asyncio.CancelledError:
                raise
            except Exception:
                # A loop that dies of one bad round would leave its wish untrue for ever.
                log.exception(
                    "loop %s: round failed, trying again in %.1f s", self._name, self._seconds
                )
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the event.
                async with asyncio.timeout(self._seconds * self._stretch()):
                    await self._wake.wait()
