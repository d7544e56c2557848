"""Keeps a worker's lease, from a thread that a blocked event loop cannot stop.

::

    0 s ────── 2 ────── 4 ────── 6 ────────── 8 s  since the last beat that was answered
    └ a beat every 2 s, and more often while    │
      nobody answers                 │          └ another server may bury the worker
                                     └ the attempts are stopped: self-stop

Nobody has a worker's tasks while its row is in the database (``store/workers``): who takes them
over deletes the row first. So a beat that finds the row renews the lease, however long ago it has
gone by, and one that finds none knows that everything was lost. What lies between, a database that
does not answer, cannot be told from a partition that only this worker is on the wrong side of, and
so its attempts are stopped in time. An embedded database has no other side: whoever holds the
directory's lock owns what is in it, and a slow disk stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from penstock.domain.errors import Unavailable
from penstock.kit.clock import steady_seconds
from penstock.kit.ids import new_id
from penstock.kit.threads import Aside, Beside, LoopThread
from penstock.store import Line, Store, Transaction, workers

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SELF_STOP_SECONDS = 6.0
LEASE_SECONDS = 8.0

_AGAIN_SECONDS = 0.5  # while nobody answers
_LEAST_PATIENCE_SECONDS = 1.0

Register = Callable[[Transaction, str], Awaitable[None]]


class Heartbeat:
    """Says every two seconds that a worker lives, and stops its attempts when nobody hears it."""

    def __init__(
        self,
        store: Store,
        *,
        register: Register,
        draining: Callable[[], bool],
        stop_attempts: Callable[[str], None],
        on_change: Callable[[], None],
        clock: Callable[[], float] = steady_seconds,
        beside: Callable[[str, Aside], Beside] = LoopThread,
    ) -> None:
        """``stop_attempts(why)`` is called in the heartbeat's thread, ``on_change`` on the loop."""
        self.worker_id = new_id("wrk")
        self._store = store
        self._register = register
        self._draining = draining
        self._stop_attempts = stop_attempts
        self._on_change = on_change
        self._clock = clock
        self._beside = beside("penstock-heartbeat", self._live)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trusted_at = 0.0
        self._silent = True

    @property
    def trusted(self) -> bool:
        """Whether nobody else can have the worker's tasks; safe to ask from any thread."""
        if self._silent:
            return False
        return self._store.embedded or self._clock() < self._trusted_at + SELF_STOP_SECONDS

    async def start(self) -> None:
        """Register the worker, and begin to beat.

        Raises:
            Unavailable: the database does not answer.
        """
        self._loop = asyncio.get_running_loop()
        sent = self._clock()

        async def work(tx: Transaction) -> None:
            if self._store.embedded:
                # Whoever had this database before is gone, or it would still hold the lock.
                await workers.remove_all(tx)
            await self._register(tx, self.worker_id)

        await self._store.transact(work)
        self._trusted_at, self._silent = sent, False
        self._beside.start()

    async def stop(self) -> None:
        """Stop beating; the lease goes by unless somebody removes it."""
        await self._beside.stop()

    # ------------------------------------------------------------ in the thread

    async def _live(self, stopping: asyncio.Event) -> None:
        line = self._store.line()
        pause = BEAT_SECONDS
        try:
            while not await _set_within(stopping, pause):
                try:
                    pause = await self._round(line)
                except Exception:
                    # A heart that stops at one bad round would cost every attempt.
                    log.exception("a heartbeat failed")
                    self._unheard("it failed")
                    pause = _AGAIN_SECONDS
        finally:
            await line.close()

    async def _round(self, line: Line) -> float:
        """Beat once; how long to wait before the next one."""
        sent = self._clock()
        left = self._trusted_at + SELF_STOP_SECONDS - sent
        # After a pause (a stopped process, a laptop's lid) the database is asked before anything
        # is stopped: whether somebody else was given the tasks is all that matters.
        patience = BEAT_SECONDS if self._silent else max(left, _LEAST_PATIENCE_SECONDS)
        try:
            async with asyncio.timeout(min(patience, BEAT_SECONDS)):
                renewed = await line.transact(
                    partial(
                        workers.beat,
                        worker_id=self.worker_id,
                        lease_seconds=LEASE_SECONDS,
                        draining=self._draining(),
                    )
                )
                if not renewed:
                    await self._begin_again(line)
        except (Unavailable, TimeoutError) as error:
            self._unheard(str(error) or "no answer in time")
            return _AGAIN_SECONDS
        # Not when the answer came: the lease runs from some moment after the beat was sent.
        self._trusted_at = sent
        if self._silent:
            self._silent = False
            log.info("the worker's lease is renewed; it works again")
            self._tell()
        return max(0.0, BEAT_SECONDS - (self._clock() - sent))

    def _unheard(self, why: str) -> None:
        overdue = self._clock() >= self._trusted_at + SELF_STOP_SECONDS
        if self._store.embedded or not (overdue or self._silent):
            return
        self._fall_silent(f"no heartbeat for {SELF_STOP_SECONDS:.0f} s: {why}")

    def _fall_silent(self, why: str) -> None:
        """Stop everything before somebody else may begin it."""
        if not self._silent:
            log.error("the worker stops its attempts: %s", why)
        self._silent = True
        self._stop_attempts(why)  # again at every silent round: one may have begun meanwhile
        self._tell()

    async def _begin_again(self, line: Line) -> None:
        """The worker was buried: what it owned is others'; go on under a new name."""
        self._fall_silent("its lease has gone by, and its tasks are others'")
        worker_id = new_id("wrk")

        async def work(tx: Transaction) -> None:
            await self._register(tx, worker_id)

        await line.transact(work)
        self.worker_id = worker_id

    def _tell(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(self._on_change)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event is set before so many seconds have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
