"""Judges closed sessions with the evaluators of the release that was proven before them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from penstock.domain.errors import PenstockError
from penstock.domain.releases import Limits
from penstock.domain.sessions import Session
from penstock.kit.loops import Loop
from penstock.runtime.hosts import SharedProcess
from penstock.runtime.zygotes import Zygotes
from penstock.store import Store, Transaction, leases, sessions, tasks

log = logging.getLogger(__name__)

_BATCH = 128
_AT_ONCE = 16
_POLL_SECONDS = 1.0
_LEASE_SECONDS = 15.0
_METRIC = "completion"


class Evaluations:
    """Runs evaluators in one long-lived process per judging release.

    The evaluator is the stable release's for both arms of a rollout: a candidate must not bring
    the scale it is weighed on. One server judges at a time; should two do it for a moment, the
    first answer counts.
    """

    def __init__(self, store: Store, zygotes: Zygotes, *, worker_id: str) -> None:
        self._store = store
        self._zygotes = zygotes
        self._worker_id = worker_id
        self._processes: dict[str, SharedProcess] = {}
        self._loop = Loop("evaluations", self._round, seconds=_POLL_SECONDS)
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin."""
        self._unsubscribe = self._store.subscribe("judge", lambda _: self._loop.wake())
        self._loop.start()

    async def stop(self) -> None:
        """End, with the evaluators' processes."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._loop.stop()
        for process in self._processes.values():
            await process.close()
        self._processes.clear()

    async def _round(self) -> None:
        if not self._store.embedded and not await self._leads():
            return
        while True:
            waiting = await self._store.read(_waiting)
            if not waiting:
                return
            gate = asyncio.Semaphore(_AT_ONCE)
            scores = await asyncio.gather(*(self._judge(gate, *item) for item in waiting))
            await self._store.transact(_keep(scores))
            if len(waiting) < _BATCH:
                return

    async def _leads(self) -> bool:
        async def work(tx: Transaction) -> bool:
            epoch = await leases.acquire(
                tx, name="evaluations", holder=self._worker_id, seconds=_LEASE_SECONDS
            )
            return epoch is not None

        return await self._store.transact(work)

    async def _judge(
        self, gate: asyncio.Semaphore, session: Session, judge: str, record: dict[str, Any]
    ) -> tuple[str, float | None, str | None]:
        """A session's id, and its score or why there is none."""
        async with gate:
            try:
                manifest = await self._zygotes.manifest(judge)
                function = manifest.policy.evaluators[_METRIC]
                process = await self._process(judge, session.environment)
                return session.id, await process.evaluate(function, record), None
            except (PenstockError, ValueError, TimeoutError, KeyError) as error:
                log.warning("session %s could not be judged: %s", session.id, error)
                return session.id, None, str(error) or type(error).__name__

    async def _process(self, release: str, environment: str) -> SharedProcess:
        process = self._processes.get(release)
        if process is None or not process.alive:
            child = await self._zygotes.fork(release, environment, Limits(), shared=True)
            other = self._processes.get(release)
            process = SharedProcess(child)
            if other is not None and other.alive:  # another session's evaluation came first
                await process.close()
                return other
            self._processes[release] = process
        return process


async def _waiting(tx: Transaction) -> list[tuple[Session, str, dict[str, Any]]]:
    """Sessions to judge, by which release, and what the evaluator is shown."""
    found = []
    for session, judge in await sessions.to_judge(tx, limit=_BATCH):
        done = await tasks.of_session(tx, session.id)
        record = {
            "session": session.id,
            "user": session.user_id,
            "metadata": dict(session.metadata),
            "tasks": [
                {
                    "id": task.id,
                    "input": task.input,
                    "output": task.output,
                    "error": task.error,
                    "outcome": task.outcome,
                }
                for task in done
            ],
        }
        found.append((session, judge, record))
    return found


def _keep(
    scores: list[tuple[str, float | None, str | None]],
) -> Callable[[Transaction], Awaitable[None]]:
    async def work(tx: Transaction) -> None:
        for session_id, score, error in scores:
            await sessions.judged(tx, session_id, score=score, error=error)

    return work
