"""Model calls in flight, ended early when nobody will ever want their answer.

An agent that hangs up may have crashed: its task goes on, and the answer it asked for is worth
having on record. It may also have been stopped, and then every further token is money for nothing.
The task says which.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from penstock.domain.errors import Unavailable
from penstock.domain.tasks import TERMINAL
from penstock.store import Store, Transaction, tasks

T = TypeVar("T")

_LOOK_SECONDS = 0.25  # between two looks at the task of an agent that has hung up


class Flights:
    """The calls of one gateway process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ended: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._unsubscribe = [
            store.subscribe("cancel", self._end),
            store.subscribe("done", self._end),
        ]

    def close(self) -> None:
        """Hear of no more ends."""
        for stop in self._unsubscribe:
            stop()
        self._unsubscribe = []

    @contextmanager
    def of(self, task_id: str) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the task has ended, or is to end."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended[task_id].add(over)
        try:
            yield over
        finally:
            over.cancel()
            self._ended[task_id].discard(over)
            if not self._ended[task_id]:
                del self._ended[task_id]

    async def completed(
        self, task_id: str, work: Coroutine[Any, Any, T], hung_up: asyncio.Task[None]
    ) -> T | None:
        """What ``work`` returns; None when it was ended because its task is over.

        Args:
            task_id: whose call it is.
            work: the call.
            hung_up: done when the agent has closed the connection.
        """
        calling: asyncio.Future[Any] = asyncio.create_task(work)
        with self.of(task_id) as over:
            either: set[asyncio.Future[Any]] = {calling, over}
            first = asyncio.FIRST_COMPLETED
            try:
                await asyncio.wait({*either, hung_up}, return_when=first)
                while not calling.done() and not over.done() and not await self._over(task_id):
                    await asyncio.wait(either, timeout=_LOOK_SECONDS, return_when=first)
                return calling.result() if calling.done() else None
            finally:
                if not calling.done():
                    calling.cancel()
                    await asyncio.wait({calling})

    async def _over(self, task_id: str) -> bool:
        async def work(tx: Transaction) -> bool:
            task = await tasks.find(tx, task_id)
            return task is None or task.cancel_requested or task.state in TERMINAL

        try:
            return await self._store.read(work)
        except Unavailable:
            return False  # as long as nobody knows, the answer may be wanted

    def _end(self, task_id: str) -> None:
        for over in self._ended.get(task_id, ()):
            if not over.done():
                over.set_result(None)
