"""Ends what has lasted as long as it may: tasks that nobody answers."""

from __future__ import annotations

import logging
from functools import partial

from penstock.domain.errors import Unavailable
from penstock.domain.tasks import Task
from penstock.kit.ids import new_id
from penstock.kit.loops import Loop
from penstock.store import Store, Transaction, leases, tasks

log = logging.getLogger(__name__)

_TICK_SECONDS = 2.0
_LEASE = "expiries"
_LEASE_SECONDS = 15.0
_BATCH = 100


class Expiries:
    """Looks for what is over, on one server at a time and some at a time.

    The lease only saves work: every transition is a compare-and-set, so two servers that do this
    at the same time do nothing twice.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holder = new_id("exp")
        self._loop = Loop("expiries", self._round, seconds=_TICK_SECONDS)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    async def stop(self) -> None:
        """End, and let another server do it at once."""
        await self._loop.stop()
        try:
            await self._store.transact(partial(leases.release, name=_LEASE, holder=self._holder))
        except Unavailable as error:
            log.warning("the lease of the expiries runs out by itself: %s", error)

    async def _round(self) -> None:
        if not await self._leads():
            return
        while await self._end_waits() == _BATCH:
            pass

    async def _end_waits(self) -> int:
        async def work(tx: Transaction) -> list[Task]:
            return await tasks.expire_waits(tx, limit=_BATCH)

        ended = await self._store.transact(work)
        for task in ended:
            log.info("task %s of %s: nobody answered in time", task.id, task.agent)
        return len(ended)

    async def _leads(self) -> bool:
        if self._store.embedded:
            return True
        epoch = await self._store.transact(
            partial(leases.acquire, name=_LEASE, holder=self._holder, seconds=_LEASE_SECONDS)
        )
        return epoch is not None
