"""Time as a value: a clock is passed in, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in microseconds since 1970."""

    def now_us(self) -> int:
        """The time now; never less than an earlier answer."""
        ...


class BootClock:
    """Wall time read once, then carried on by the monotonic clock.

    A jump of the machine's wall clock changes nothing for as long as the process lives, so leases
    measured on it neither expire at once nor live for ever.
    """

    def __init__(self, *, not_before_us: int = 0) -> None:
        """Start at the wall clock, or at ``not_before_us`` if the wall clock lies behind it."""
        self._base_us = max(time.time_ns() // 1000, not_before_us)
        self._boot_ns = time.monotonic_ns()

    def now_us(self) -> int:
        """The time now, in microseconds since 1970."""
        return self._base_us + (time.monotonic_ns() - self._boot_ns) // 1000


class ManualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = start_us

    def now_us(self) -> int:
        """The time it was last set to."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``."""
        self._now_us += int(seconds * 1_000_000)


def steady_seconds() -> float:
    """Seconds that only grow, also while the machine sleeps; comparable within one process.

    ``time.monotonic`` stands still while a laptop or a virtual machine is suspended, and the
    clock of a database elsewhere does not.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
