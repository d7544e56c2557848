"""What ``proof_statistics`` is compared with, on the very same sessions."""

from __future__ import annotations

import math

PER_MINUTE = 10  # sessions, of both arms


class Argo:
    """The Argo Rollouts documentation's example: >= 0.95 over 5 minutes, failureLimit 3.

    ``analysis.go`` fails a run when failures exceed the limit, so at the fourth; failures are never
    forgotten. A window without canary sessions is not counted as a failure here.
    """

    def __init__(self) -> None:
        self.good = self.seen = self.failures = self.total = 0
        self.aborted: int | None = None

    def session(self, index: int, *, candidate: bool, completed: bool) -> None:
        """One more session; a window is judged at its end."""
        if candidate:
            self.total += 1
            self.seen += 1
            self.good += completed
        if (index + 1) % (5 * PER_MINUTE) == 0 and self.seen:
            self.failures += self.good < 0.95 * self.seen
            self.good = self.seen = 0
            if self.failures > 3 and self.aborted is None:
                self.aborted = self.total


class ZTest:
    """A one-sided pooled z-test at 5 %, looked at after every canary session from the tenth on."""

    def __init__(self) -> None:
        self.good, self.seen = [0, 0], [0, 0]
        self.aborted: int | None = None

    def session(self, *, candidate: bool, completed: bool) -> None:
        """One more session."""
        self.good[candidate] += completed
        self.seen[candidate] += 1
        if not candidate or self.aborted is not None or self.seen[1] < 10 or not self.seen[0]:
            return
        stable, canary = (good / seen for good, seen in zip(self.good, self.seen, strict=True))
        pooled = sum(self.good) / sum(self.seen)
        error = math.sqrt(pooled * (1 - pooled) * (1 / self.seen[0] + 1 / self.seen[1]))
        if error and (stable - canary) / error > 1.6449:
            self.aborted = self.seen[1]
