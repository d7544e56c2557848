"""A worker: takes tasks, keeps its lease, takes over what others have lost, and leaves cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock.domain.errors import Conflict, PenstockError, Stale, Unavailable
from penstock.domain.releases import Isolation, Limits, Policy
from penstock.domain.tasks import Claim, Ending, Task, TaskState
from penstock.drivers.builders import Builder
from penstock.kit.ids import new_id
from penstock.kit.loops import Loop
from penstock.rules.limits import Terms
from penstock.rules.tasks import after_attempt
from penstock.runtime.attempts import Attempt, Host
from penstock.runtime.deltas import Deltas
from penstock.runtime.evaluations import Evaluations
from penstock.runtime.hosts import OwnHost, SharedProcess
from penstock.runtime.identity import Identities
from penstock.runtime.sources import Sources
from penstock.runtime.variables import Variables
from penstock.runtime.zygotes import Zygotes
from penstock.store import Store, Transaction, tasks, workers

log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 2.0
_SELF_STOP_SECONDS = 6.0
_LEASE_SECONDS = 8.0
_POLL_SECONDS = 1.0
_REAP_SECONDS = 1.5
_KEEP_SECONDS = 2.0
_REAP_BATCH = 200
_SILENT_SECONDS = 3600.0
_STEP_SHARE = 0.5  # of the grace: attempts may end by themselves before they are handed back


class Worker:
    """Runs up to ``concurrency`` attempts at once."""

    def __init__(
        self,
        store: Store,
        *,
        builder: Builder,
        gateway_url: str,
        concurrency: int,
        scratch: Path,
        variables: Variables | None = None,
        sources: Sources | None = None,
        caps: Mapping[str, Any] | None = None,
    ) -> None:
        self.deltas = Deltas()
        self.callers = Identities(gateway_port=urlsplit(gateway_url).port or 80)
        self.zygotes = Zygotes(
            store, builder, gateway_url=gateway_url, scratch=scratch, variables=variables
        )
        self.id = new_id("wrk")
        self._sources = sources
        self._caps = caps or {}
        self._store = store
        self._concurrency = concurrency
        self._attempts: dict[str, Attempt] = {}
        self._claimed: set[str] = set()  # from the claim to the end of the attempt
        self._unknown: set[str] = set()  # owned, and not known here, at the last look
        self._running: set[asyncio.Task[None]] = set()
        self._shared: dict[tuple[str, str], SharedProcess] = {}
        self._forking = asyncio.Lock()
        self._evaluations = Evaluations(store, self.zygotes, worker_id=self.id)
        self._draining = False
        self._alive_at = time.monotonic()
        self._lease_lost = False
        self._unsubscribe: list[Callable[[], None]] = []
        self._claims = Loop("claims", self._claim, seconds=_POLL_SECONDS)
        self._readiness = Loop("zygotes", self._keep_ready, seconds=_KEEP_SECONDS)
        self._loops = [
            self._claims,
            self._readiness,
            Loop("heartbeat", self._beat, seconds=_HEARTBEAT_SECONDS),
            # Not in step with other servers' reapers.
            Loop("reaper", self._reap, seconds=_REAP_SECONDS * random.uniform(0.8, 1.2)),  # noqa: S311 - not a secret
        ]

    @property
    def ready(self) -> bool:
        """Whether tasks that are queued now will be worked on here."""
        return not self._draining and not self._lease_lost and bool(self._unsubscribe)

    @property
    def running(self) -> int:
        """How many attempts are under way."""
        return len(self._attempts)

    def pids(self) -> list[int]:
        """Every process the worker has started and that still runs."""
        return self.zygotes.pids()

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Register, and begin to work."""

        async def work(tx: Transaction) -> None:
            if self._store.embedded:
                # Whoever had this database before is gone, or it would still hold the lock.
                await workers.remove_all(tx)
            await self._register(tx)

        await self._store.transact(work)
        self._alive_at = time.monotonic()
        self._unsubscribe = [
            self._store.subscribe("queue", lambda _: self._claims.wake()),
            self._store.subscribe("cancel", self._cancel),
            # A candidate's process starts with its rollout, not with its first session.
            self._store.subscribe("rollout", lambda _: self._readiness.wake()),
        ]
        for loop in self._loops:
            loop.start()
        self._evaluations.start()

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new, let attempts end or reach a step, hand back the rest, and stop.

        It ends before ``grace_seconds`` are over, whatever the agents do.
        """
        self._draining = True
        await self._claims.stop()
        until = time.monotonic() + grace_seconds
        await self._idle(grace_seconds * _STEP_SHARE)
        for attempt in tuple(self._attempts.values()):
            attempt.hand_back(at_step=True)
        await self._idle(max(0.0, until - time.monotonic() - 1.0))
        await self._stop()

    async def hurry(self) -> None:
        """Hand everything back now: the second signal while draining."""
        for attempt in tuple(self._attempts.values()):
            attempt.hand_back(at_step=False)

    async def _stop(self) -> None:
        await self.hurry()
        await self._idle(2.0)
        for task in self._running:
            task.cancel()
        for loop in self._loops:
            await loop.stop()
        for stop in self._unsubscribe:
            stop()
        self._unsubscribe = []
        await self._evaluations.stop()
        for process in self._shared.values():
            await process.close()
        await self.zygotes.stop()

        async def leave(tx: Transaction) -> None:
            await workers.remove(tx, self.id)

        with contextlib.suppress(PenstockError):
            await self._store.transact(leave)

    async def _idle(self, seconds: float) -> None:
        """Wait until nothing runs, but no longer than ``seconds``."""
        if self._running and seconds > 0:
            await asyncio.wait(tuple(self._running), timeout=seconds)

    # ------------------------------------------------------------ claims

    async def _claim(self) -> None:
        while not self._draining and not self._lease_lost:
            free = self._concurrency - len(self._attempts)
            if free <= 0:
                return  # the end of an attempt wakes this loop

            async def work(tx: Transaction, free: int = free) -> list[Claim]:
                return await tasks.claim(tx, worker_id=self.id, limit=free)

            try:
                claims = await self._store.transact(work)
            except Conflict:
                return  # another server was faster with a task of the same session
            for claim in claims:
                self._begin(claim)
            if len(claims) < free:
                return

    def _begin(self, claim: Claim) -> None:
        self._claimed.add(claim.task.id)
        task = asyncio.create_task(self._run(claim), name=f"attempt-{claim.task.id}")
        self._running.add(task)
        task.add_done_callback(lambda _: self._claimed.discard(claim.task.id))
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._claims.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an attempt was not brought to its end", exc_info=error)

    async def _run(self, claim: Claim) -> None:
        release = claim.task.release
        claimed_at = time.monotonic()
        try:
            manifest = await self.zygotes.manifest(release)
            policy = manifest.policy
            if self._sources is not None and manifest.sources:
                await self._sources.check(release, manifest)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task must not stay running
            with contextlib.suppress(Stale):
                await self._attempt(claim, Policy(), claimed_at).abandon(error)
            return
        attempt = self._attempt(claim, policy, claimed_at)
        self._attempts[claim.task.id] = attempt
        token = self.callers.add(attempt)
        try:
            host = await self._host(release, claim.task.environment, policy, attempt.limits)
        except Exception as error:
            log.warning(
                "task %s got no process: %s",
                claim.task.id,
                error,
                exc_info=not isinstance(error, PenstockError),
            )
            with contextlib.suppress(Stale):
                await attempt.abandon(error)
        else:
            try:
                await attempt.run(host, token=token)
            except Exception as error:
                # An agent's process that says what nobody understands: its task must end, too.
                log.exception("the attempt at task %s broke off", claim.task.id)
                with contextlib.suppress(Stale):
                    await attempt.abandon(error)
            finally:
                host.kill()
                host.close()
        finally:
            self.callers.remove(attempt, token)
            self._attempts.pop(claim.task.id, None)

    def _attempt(self, claim: Claim, policy: Policy, claimed_at: float) -> Attempt:
        release = claim.task.release
        return Attempt(
            self._store,
            claim,
            terms=Terms.of(policy.limits, self._caps, claim.task.resource_class),
            claimed_at=claimed_at,
            publish=self.deltas.publish,
            on_modules=lambda names: self._warm(release, names),
        )

    async def _host(self, release: str, environment: str, policy: Policy, limits: Limits) -> Host:
        if policy.isolation is Isolation.PROCESS:
            return OwnHost(await self.zygotes.fork(release, environment, limits))
        async with self._forking:
            process = self._shared.get((release, environment))
            if process is None or not process.alive:
                child = await self.zygotes.fork(release, environment, limits, shared=True)
                process = self._shared[release, environment] = SharedProcess(child)
        return process.attempt()

    def _warm(self, release: str, names: list[str]) -> None:
        task = asyncio.create_task(self.zygotes.warm(release, names))
        self._running.add(task)
        task.add_done_callback(self._over)

    def _cancel(self, task_id: str) -> None:
        if (attempt := self._attempts.get(task_id)) is not None:
            attempt.cancel()

    # ------------------------------------------------------------ loops

    async def _register(self, tx: Transaction) -> None:
        await workers.register(
            tx,
            worker_id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            lease_seconds=_LEASE_SECONDS,
            capacity=self._concurrency,
        )

    async def _beat(self) -> None:
        async def work(tx: Transaction) -> bool:
            return await workers.beat(
                tx, worker_id=self.id, lease_seconds=_LEASE_SECONDS, draining=self._draining
            )

        try:
            async with asyncio.timeout(_HEARTBEAT_SECONDS):
                renewed = await self._store.transact(work)
        except (Unavailable, TimeoutError) as error:
            if time.monotonic() - self._alive_at > _SELF_STOP_SECONDS:
                self._lose(f"no heartbeat for {_SELF_STOP_SECONDS:.0f} s: {error}")
            return
        self._alive_at = time.monotonic()
        if not renewed:
            await self._begin_again()
        await self._look_after()

    async def _look_after(self) -> None:
        """Stop what somebody wants stopped, and give back what is owned and not known here.

        A claim whose answer was lost on the way from the database may have landed; what is still
        unknown at the second look was.
        """

        async def owned(tx: Transaction) -> list[Task]:
            return await tasks.of_worker(tx, worker_id=self.id)

        found = await self._store.read(owned)
        for task in found:
            if task.cancel_requested:
                self._cancel(task.id)
        unknown = {task.id for task in found if task.id not in self._claimed}
        for task in found:
            if task.id in unknown & self._unknown:
                log.warning("task %s was claimed without our knowing; it is given back", task.id)
                await self._store.transact(partial(_lost, task=task))
        self._unknown = unknown

    def _lose(self, why: str) -> None:
        """Stop everything before somebody else may begin it."""
        if not self._lease_lost:
            log.error("the worker stops its %d attempts: %s", len(self._attempts), why)
        self._lease_lost = True
        for attempt in tuple(self._attempts.values()):
            attempt.hand_back(at_step=False)

    async def _begin_again(self) -> None:
        """The lease went by: what was owned is another's; register under a new name."""
        self._lose("its lease has gone by")
        await self._idle(_HEARTBEAT_SECONDS)
        self.id = new_id("wrk")
        await self._store.transact(self._register)
        self._lease_lost = False
        self._claims.wake()

    async def _reap(self) -> None:
        if self._lease_lost:
            return
        found = await self._store.transact(_take_over)
        if found:
            log.warning("%d tasks were taken over from workers that are gone", found)

        async def sweep(tx: Transaction) -> None:
            await workers.sweep(tx, silent_seconds=_SILENT_SECONDS)

        await self._store.transact(sweep)

    async def _keep_ready(self) -> None:
        if not self._draining:
            await self.zygotes.keep(await self._store.read(workers.wanted_releases))


async def _take_over(tx: Transaction) -> int:
    """Give the tasks of workers that are gone back to the queue, or to the dead letters."""
    orphans = await tasks.orphaned(tx, limit=_REAP_BATCH)
    for task in orphans:
        await _lost(tx, task=task)
    return len(orphans)


async def _lost(tx: Transaction, *, task: Task) -> None:
    after = after_attempt(task, Ending.LOST, attempts=1)
    error = {"type": "Lost", "message": f"worker {task.worker_id} is gone", "traceback": ""}
    with contextlib.suppress(Stale):  # another server's reaper was faster
        if after.state is TaskState.QUEUED:
            await tasks.requeue(
                tx,
                task_id=task.id,
                epoch=task.epoch,
                crashes=after.crashes,
                losses=after.losses,
                delay_seconds=after.delay_seconds,
                why={"outcome": Ending.LOST.value, "error": error},
            )
        else:
            await tasks.finish(
                tx,
                task_id=task.id,
                epoch=task.epoch,
                state=after.state,
                outcome=Ending.LOST.value,
                error=error,
                crashes=after.crashes,
                losses=after.losses,
            )
