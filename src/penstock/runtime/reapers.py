"""Takes over what workers that are gone have left behind: in every server, all the time.

A worker is gone when its lease has gone by on the database's clock while the database answered
all along: for one full lease, without a pause that a live worker's beats could have been lost in.
So an outage, a restart, a stalled disk or a pause of this very process buries nobody; the live
have renewed their leases before the wait is over. A worker of this same machine whose process has
ended is gone for certain, and needs no waiting.

Burying is one deleted row. What the worker owned is given back to the queue afterwards, a batch
in a transaction, with a pause of random length between two, so that any number of servers share
the work and nobody waits long for a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from functools import partial

from penstock.domain.errors import Stale, Unavailable
from penstock.domain.tasks import Ending, Task, TaskState
from penstock.kit import presence
from penstock.kit.clock import steady_seconds
from penstock.kit.loops import Loop
from penstock.rules.tasks import After, after_attempt, because, handed_back, under_stop
from penstock.runtime.heartbeats import LEASE_SECONDS
from penstock.store import Store, Transaction, endings, fences, tasks, workers
from penstock.store.workers import Registered

log = logging.getLogger(__name__)

_ROUND_SECONDS = 1.0
_GAP_SECONDS = 3.0  # without an answer for longer, the database counts as having been away
_BATCH = 100
_PAUSE_SECONDS = 0.05
_SPREAD = (0.7, 1.3)


class Reaper:
    """Buries workers that are gone, and gives their tasks back to the queue."""

    def __init__(
        self,
        store: Store,
        *,
        chance: random.Random,
        clock: Callable[[], float] = steady_seconds,
        is_gone: Callable[[str], bool] = presence.is_gone,
    ) -> None:
        """``chance`` keeps the reapers of many servers out of step."""
        self._store = store
        self._chance = chance
        self._clock = clock
        self._is_gone = is_gone
        self._answered_at: float | None = None
        self._steady_since = 0.0
        self._loop = Loop(
            "reaper", self._round, seconds=_ROUND_SECONDS, stretch=lambda: chance.uniform(*_SPREAD)
        )

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    async def stop(self) -> None:
        """End; a batch under way is given up."""
        await self._loop.stop()

    def disturb(self) -> None:
        """The database did not answer: wait one full lease from its next answer."""
        self._answered_at = None

    async def _round(self) -> None:
        try:
            await self._bury()
            await self._take_over()
        except Unavailable as error:
            if self._answered_at is not None:
                log.warning("the reaper waits: %s", error)
            self.disturb()

    async def _bury(self) -> None:
        found = await self._store.read(workers.registered)
        self._answered()
        if self._store.embedded:
            return  # whoever had the database before us was removed when we opened it
        for worker in found:
            dead = self._is_gone(worker.process)
            if dead or (worker.overdue and self._steady()):
                await self._bury_one(worker, dead=dead)

    async def _bury_one(self, worker: Registered, *, dead: bool) -> None:
        # The moment is that of the look: a beat that was held up with this transaction counts.
        as_of_us = None if dead else worker.as_of_us
        if await self._store.transact(
            partial(workers.bury, worker_id=worker.id, as_of_us=as_of_us)
        ):
            why = "its process has ended" if dead else "its lease has gone by"
            log.warning("worker %s on %s is gone: %s", worker.id, worker.host, why)

    async def _take_over(self) -> None:
        number = 0
        while taken := await self._store.transact(_take_batch):
            self._answered()
            number += taken
            if taken < _BATCH:
                break
            await asyncio.sleep(self._chance.uniform(0, _PAUSE_SECONDS))
        if number:
            log.warning("%d tasks were taken over from workers that are gone", number)

    def _answered(self) -> None:
        now = self._clock()
        if self._answered_at is None or now - self._answered_at > _GAP_SECONDS:
            self._steady_since = now
        self._answered_at = now

    def _steady(self) -> bool:
        return self._clock() - self._steady_since >= LEASE_SECONDS


async def _take_batch(tx: Transaction) -> int:
    """Give some tasks of workers that are gone back to the queue, or to the dead letters."""
    orphans = await tasks.orphaned(tx, limit=_BATCH)
    for task in orphans:
        await lost(tx, task=task)
    return len(orphans)


async def lost(tx: Transaction, *, task: Task) -> None:
    """End an attempt whose worker is gone, or has never heard of it."""
    error = {"type": "Lost", "message": f"worker {task.worker_id} is gone", "traceback": ""}
    await _end(tx, task, after_attempt(task, Ending.LOST, attempts=1), error)


async def given_back(tx: Transaction, *, task: Task) -> None:
    """Give a task back of one's own will: that it was lost does not count."""
    error = {"type": "Lost", "message": "the worker has stopped", "traceback": ""}
    await _end(tx, task, handed_back(task), error)


async def _end(tx: Transaction, task: Task, after: After, error: dict[str, str]) -> None:
    with contextlib.suppress(Stale):  # its attempt, or another server's reaper, was faster
        stop = await fences.wished_stop(tx, task_id=task.id, epoch=task.epoch)
        after, ending = under_stop(after, Ending.LOST, stop)
        if after.state is TaskState.QUEUED:
            await endings.requeue(
                tx,
                task_id=task.id,
                epoch=task.epoch,
                crashes=after.crashes,
                losses=after.losses,
                delay_seconds=after.delay_seconds,
                why={"outcome": ending.value, "error": error},
            )
        else:
            await endings.finish(
                tx,
                task_id=task.id,
                epoch=task.epoch,
                state=after.state,
                outcome=ending.value,
                error=because(ending) or error,
                crashes=after.crashes,
                losses=after.losses,
            )
