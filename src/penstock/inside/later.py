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
            if self._of == os.getpid():
                return
            self._of = os.getpid()
        try:
            threading.Thread(target=self._run, name="penstock-later", daemon=True).start()
        except RuntimeError:  # the process may have no more threads: then it is done now
            while not self._end():
                self._do(everything=True)

    def _run(self) -> None:
        idle = 0
        while idle < _LINGER_ROUNDS or not self._end():
            time.sleep(SOON_SECONDS)
            idle = 0 if self._due else idle + 1
            self._do()

    def _do(self, *, everything: bool = False) -> None:
        while self._due and (everything or self._due[0][0] <= time.monotonic()):
            _, work = self._due.popleft()
            try:
                work()
            except Exception as error:  # noqa: BLE001 - others wait for what comes behind it
                os.write(2, f"penstock: what was put off has failed: {error!r}\n".encode())

    def _end(self) -> bool:
        """Whether nothing has come at the last moment."""
        with self._lock:
            if self._due:
                return False
            self._of = 0
            return True


_clock = _Clock()


def soon(work: Callable[[], None]) -> None:
    """Do ``work`` after ``SOON_SECONDS`` in a thread of this process; it may not wait."""
    _clock.add(work)
