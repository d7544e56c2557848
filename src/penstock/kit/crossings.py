"""From one event loop into another and back, many at a time.

Waking a loop in another thread costs a system call and a turn at the interpreter; whatever crosses
at the same moment shares one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class _Passenger:
    """A coroutine that runs there, and its caller here."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.here = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = self.here.create_future()
        self._work = work
        self._task: asyncio.Task[Any] | None = None

    def begin(self, over: Callable[[asyncio.Task[Any]], None]) -> None:
        """There: run it."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(over)

    def cancel(self) -> None:
        """There: end it; one that has not begun has been asked for before this, and begins."""
        if self._task is not None:
            self._task.cancel()

    def deliver(self) -> None:
        """Here: give what it gave."""
        assert self._task is not None
        if self.answer.done():
            return
        if self._task.cancelled():
            self.answer.cancel()
        elif (error := self._task.exception()) is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(self._task.result())


class Crossing:
    """Runs coroutines in ``there``, for callers in other event loops."""

    def __init__(self, there: asyncio.AbstractEventLoop) -> None:
        self._there = there
        self._asked: deque[_Passenger] = deque()
        self._rung = False
        self._over: dict[asyncio.AbstractEventLoop, list[_Passenger]] = {}

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives there; cancelled there when the caller is."""
        passenger = _Passenger(work)
        self._asked.append(passenger)
        # Cleared before what was asked is read: whoever sees it set will be found.
        if not self._rung:
            self._rung = True
            self._there.call_soon_threadsafe(self._arrive)
        try:
            answer: T = await passenger.answer
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # the other loop is closed
                self._there.call_soon_threadsafe(passenger.cancel)
            raise
        return answer

    def hold(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives there, holding up the calling thread, which runs no loop."""
        return asyncio.run_coroutine_threadsafe(work, self._there).result()

    # ------------------------------------------------------------ there

    def _arrive(self) -> None:
        self._rung = False
        while self._asked:
            passenger = self._asked.popleft()
            passenger.begin(partial(self._ended, passenger))

    def _ended(self, passenger: _Passenger, _: asyncio.Task[Any]) -> None:
        if not self._over:
            self._there.call_soon(self._depart)
        self._over.setdefault(passenger.here, []).append(passenger)

    def _depart(self) -> None:
        over, self._over = self._over, {}
        for loop, passengers in over.items():
            with contextlib.suppress(RuntimeError):  # it is closed: nobody waits
                loop.call_soon_threadsafe(_deliver, passengers)


def _deliver(passengers: list[_Passenger]) -> None:
    for passenger in passengers:
        passenger.deliver()
