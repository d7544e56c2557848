"""Customers of the demo: real sessions through the public API, as fast as they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from penstock.client import AsyncClient
from penstock.domain.errors import PenstockError

_QUESTIONS = (
    "Where is order {number}?",
    "Has order {number} been delivered yet?",
    "When does order {number} arrive?",
    "What is the status of my order {number}?",
    "Order {number} arrived damaged. Please refund it.",
)
_FIRST, _LAST = 1000, 1199
_WAIT_SECONDS = 120.0
_PAUSE_SECONDS = 0.2


@dataclass(slots=True)
class Tally:
    """What came of the sessions so far."""

    ended: int = 0
    states: Counter[str] = field(default_factory=Counter)
    cost_nanos: int = 0
    errors: int = 0  # requests that were not answered
    last_error: str = ""
    busy_seconds: float = 0.0  # while customers were there

    @property
    def rate(self) -> float:
        """Sessions a second while customers were there."""
        return self.ended / self.busy_seconds if self.busy_seconds else 0.0


class Customers:
    """A number of customers, each with one session after the other.

    What they ask follows from the seed and the number of the session, not from who is fastest.
    """

    def __init__(self, client: AsyncClient, agent: str, *, seed: int, count: int) -> None:
        self._client = client
        self._agent = agent
        self._seed = seed
        self._count = count
        self._number = 0
        self.tally = Tally()

    async def drive(self, until: asyncio.Event, *, sessions: int | None = None) -> None:
        """Keep coming until ``until`` is set, or ``sessions`` have been begun."""
        begun = time.monotonic()
        before = self.tally.busy_seconds
        last = None if sessions is None else self._number + sessions
        clock = asyncio.create_task(self._clock(begun, before))
        try:
            await asyncio.gather(*(self._customer(until, last) for _ in range(self._count)))
        finally:
            clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clock
            self.tally.busy_seconds = before + time.monotonic() - begun

    async def _clock(self, begun: float, before: float) -> None:
        while True:
            self.tally.busy_seconds = before + time.monotonic() - begun
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _customer(self, until: asyncio.Event, last: int | None) -> None:
        while not until.is_set() and (last is None or self._number < last):
            self._number += 1
            try:
                task = await self._client.create_task(
                    agent=self._agent,
                    input={"question": question(self._seed, self._number)},
                    user_id=f"customer-{self._number}",
                    wait=_WAIT_SECONDS,
                    close_session=True,
                    idempotency_key=f"demo-{self._seed}-{self._number}",
                )
            except PenstockError as error:
                self.tally.errors += 1
                self.tally.last_error = str(error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self.tally.ended += 1
            self.tally.states[task["state"]] += 1
            self.tally.cost_nanos += task["cost_nanos"]


def question(seed: int, number: int) -> str:
    """What customer ``number`` asks."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - traffic, not a secret
    return chance.choice(_QUESTIONS).format(number=chance.randint(_FIRST, _LAST))
