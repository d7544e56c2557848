"""Ends what has lasted as long as it may: tasks that nobody answers, sessions, their contents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from penstock.control.leadership import Leadership
from penstock.domain.errors import NotFound
from penstock.domain.tasks import Task
from penstock.kit.loops import Loop
from penstock.store import (
    Store,
    Transaction,
    deletions,
    garbage,
    memories,
    sessions,
    tasks,
    waiting,
)

log = logging.getLogger(__name__)

_TICK_SECONDS = 2.0
_LEASE_SECONDS = 15.0
_BATCH = 100
_PAGE = 1000

# Two times what a gateway takes a content for kept (gateway/records.py): nobody relies on it then.
_QUIET_SECONDS = 600.0
_SWEEP_SECONDS = 60.0
_SWEEP_SHARE = 0.05  # of the time: a sweep looks at every recorded call


class Expiries:
    """Looks for what is over, on one server at a time and some at a time.

    The lease only saves work: every transition is a compare-and-set, so two servers that do this
    at the same time do nothing twice.
    """

    def __init__(self, store: Store, *, quiet_seconds: float = _QUIET_SECONDS) -> None:
        self._store = store
        self._quiet_seconds = quiet_seconds
        self._leadership = Leadership(store, "expiries", lease_seconds=_LEASE_SECONDS)
        self._loop = Loop("expiries", self._round, seconds=_TICK_SECONDS)
        self._sweep_at = 0.0  # by the event loop's clock
        self._dirty = False  # something was deleted, and its bytes may still be in a journal
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin."""
        self._unsubscribe = self._store.subscribe("deleted", self._deleted)
        self._loop.start()

    async def stop(self) -> None:
        """End, and let another server do it at once."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._loop.stop()
        await self._leadership.give_up()

    async def sweep(self) -> int:
        """Remove the contents that only deleted records referred to; how many."""
        doomed: list[str] = []
        while True:
            after = doomed[-1] if doomed else ""
            some = await self._store.read(
                partial(
                    deletions.doomed, quiet_seconds=self._quiet_seconds, after=after, limit=_PAGE
                )
            )
            doomed += some
            if len(some) < _PAGE:
                break
        if not doomed:
            return 0
        # Records are read last: one that is written from here on has sent its contents just now.
        recorded: set[str] = set()
        after_id: str | None = ""
        while after_id is not None:
            found, after_id = await self._store.read(
                partial(garbage.recorded, after=after_id, limit=_PAGE)
            )
            recorded |= found
        removed = 0
        for start in range(0, len(doomed), _BATCH):
            removed += await self._store.transact(
                partial(
                    deletions.sweep,
                    digests=doomed[start : start + _BATCH],
                    recorded=recorded,
                    quiet_seconds=self._quiet_seconds,
                )
            )
        self._dirty = self._dirty or removed > 0
        return removed

    def _deleted(self, _: str) -> None:
        self._dirty = True
        self._loop.wake()

    async def _round(self) -> None:
        if self._dirty:
            self._dirty = False
            self._dirty = not await self._store.scrub()
        if not self._store.embedded and not await self._leadership.held():
            return
        while await self._end_waits() == _BATCH:
            pass
        while await self._delete() == _BATCH:
            pass
        while await self._store.transact(partial(memories.sweep, limit=_BATCH)) == _BATCH:
            pass
        now = asyncio.get_running_loop().time()
        if now >= self._sweep_at:
            await self.sweep()
            took = asyncio.get_running_loop().time() - now
            self._sweep_at = now + took + max(_SWEEP_SECONDS, took / _SWEEP_SHARE)

    async def _delete(self) -> int:
        """Delete some sessions and tasks whose time is over; how many were found."""
        found = await self._store.read(partial(deletions.expired, limit=_BATCH))
        for session_id in found:
            await self._store.transact(partial(_delete_session, session_id=session_id))
        ended = await self._store.read(partial(deletions.expired_tasks, limit=_BATCH))
        for task_id in ended:
            await self._store.transact(partial(_delete_task, task_id=task_id))
        return max(len(found), len(ended))

    async def _end_waits(self) -> int:
        async def work(tx: Transaction) -> list[Task]:
            return await waiting.expire_waits(tx, limit=_BATCH)

        ended = await self._store.transact(work)
        for task in ended:
            log.info("task %s of %s: nobody answered in time", task.id, task.agent)
        return len(ended)


async def _delete_session(tx: Transaction, *, session_id: str) -> None:
    """Delete a session, unless it was used or is gone since it was found."""
    try:
        await sessions.lock(tx, session_id)
    except NotFound:
        return
    # Only now: until it was held somebody could still put a task into it.
    if await deletions.due(tx, session_id) and await deletions.stop(tx, session_id):
        await deletions.delete_session(tx, session_id)


async def _delete_task(tx: Transaction, *, task_id: str) -> None:
    """Delete a task that has ended, unless it is gone since it was found."""
    task = await tasks.find(tx, task_id)
    if task is not None:
        await deletions.delete_task(tx, task.session_id, task_id)
