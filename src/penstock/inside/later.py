"""What is to be done in a moment, if nothing that comes meanwhile has done it on its way."""

from __future__ import annotations

import collections
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SOON_SECONDS = 0.002
_LINGER_ROUNDS = 25


class _Clock:
    """A thread that is there while something is to be done, and for a moment longer.

    Waking a thread costs more than what it is woken for. So nobody wakes this one: it looks by
    itself, and ends when there has been nothing for a while.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: collections.deque[tuple[float, Callable[[], None]]] = collections.deque()
        self._of = 0  # the process whose thread is running: a forked one has none

    def add(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._due.append((time.monotonic() + SOON_SECONDS, work))
            begin = self._of != os.getpid()
            self._of = os.getpid()
        if begin:
            threading.Thread(target=self._run, name="penstock-later", daemon=True).start()

    def _run(self) -> None:
        idle = 0
        while idle < _LINGER_ROUNDS or not self._end():
            time.sleep(SOON_SECONDS)
            idle = 0 if self._due else idle + 1
            while self._due and self._due[0][0] <= time.monotonic():
                self._due.popleft()[1]()

    def _end(self) -> bool:
        """Whether nothing has come at the last moment."""
        with self._lock:
            if self._due:
                return False
            self._of = 0
            return True


_clock = _Clock()


def soon(work: Callable[[], None]) -> None:
    """Do ``work`` after ``SOON_SECONDS`` in a thread of this process; it may not raise or wait."""
    _clock.add(work)
