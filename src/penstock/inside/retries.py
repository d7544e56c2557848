"""How often a step is tried, and how long it waits in between."""

from __future__ import annotations


class Retry:
    """A policy for ``step(name, fn, retry=…)``.

    The wait before a second try is ``wait_seconds``, before each further one ``factor`` times as
    long, never longer than ``longest_seconds``; each is shortened at random by up to half, so that
    steps that failed together do not come back together. The tries are counted within an attempt:
    after a restart the count begins again.
    """

    __slots__ = ("attempts", "factor", "longest_seconds", "on", "wait_seconds")

    def __init__(
        self,
        attempts: int = 3,
        *,
        wait_seconds: float = 1.0,
        factor: float = 2.0,
        longest_seconds: float = 30.0,
        on: type[Exception] | tuple[type[Exception], ...] = Exception,
    ) -> None:
        """Try up to ``attempts`` times, as long as it is an error of ``on`` that is raised.

        Raises:
            ValueError: fewer than one attempt, or a time or factor below zero.
        """
        if type(attempts) is not int or attempts < 1:
            raise ValueError(f"retry: attempts is a number from 1, not {attempts!r}")
        if min(wait_seconds, longest_seconds) < 0 or factor < 1:
            raise ValueError("retry: times are not below 0 seconds, and factor is not below 1")
        self.attempts = attempts
        self.wait_seconds = wait_seconds
        self.factor = factor
        self.longest_seconds = longest_seconds
        self.on = on

    def pause_seconds(self, failures: int, chance: float) -> float:
        """How long to wait after so many failures.

        Args:
            failures: how often the step has failed, from 1.
            chance: a random number from 0 to 1.
        """
        try:
            grown = self.wait_seconds * self.factor ** (failures - 1)
        except OverflowError:
            grown = self.longest_seconds
        return min(self.longest_seconds, grown) * (1.0 - 0.5 * chance)

    def __repr__(self) -> str:
        return f"Retry({self.attempts}, wait_seconds={self.wait_seconds:g}, on={self.on!r})"
