"""A worker: takes tasks, runs an attempt at each, and leaves cleanly.

That it still owns what it has taken is the business of its heartbeat; what becomes of the tasks of
a worker that is gone, that of the reaper.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock.domain.errors import PenstockError, Stale, Unavailable
from penstock.domain.queues import Turns
from penstock.domain.releases import Isolation, Limits, Policy
from penstock.domain.tasks import Claim, Task
from penstock.drivers.builders import Builder
from penstock.kit import presence
from penstock.kit.clock import steady_seconds
from penstock.kit.loops import Loop
from penstock.kit.threads import Aside, Beside, LoopThread
from penstock.rules.limits import Terms
from penstock.rules.queues import after_claims
from penstock.runtime.attempts import Attempt, Host
from penstock.runtime.deltas import Deltas
from penstock.runtime.evaluations import Evaluations
from penstock.runtime.heartbeats import BEAT_SECONDS, LEASE_SECONDS, Heartbeat
from penstock.runtime.hosts import OwnHost, SharedProcess, end_idle
from penstock.runtime.identity import Identities
from penstock.runtime.reapers import Reaper, given_back, lost
from penstock.runtime.sources import Sources
from penstock.runtime.variables import Variables
from penstock.runtime.wardens import Wardens
from penstock.runtime.zygotes import Zygotes
from penstock.store import Store, Transaction, claims, tasks, workers

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_KEEP_SECONDS = 2.0
_CLAIM_MOST = 32  # tasks in one transaction: what lies due is shared with the other servers
_STEP_SHARE = 0.5  # of the grace: attempts may end by themselves before they are handed back


_Key = tuple[str, int]  # task, epoch


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
        chance: random.Random | None = None,
        clock: Callable[[], float] = steady_seconds,
        beside: Callable[[str, Aside], Beside] = LoopThread,
    ) -> None:
        """``clock`` tells seconds that only grow; ``beside`` is where the heartbeat runs."""
        self.deltas = Deltas(store)
        self.wardens = Wardens()
        self.callers = Identities(
            gateway_port=urlsplit(gateway_url).port or 80,
            owner=lambda: self._heart.worker_id if self._heart.trusted else None,
        )
        self.zygotes = Zygotes(
            store, builder, gateway_url=gateway_url, scratch=scratch, variables=variables
        )
        self._sources = sources
        self._caps = caps or {}
        self._store = store
        self._concurrency = concurrency
        # By task and epoch: while an attempt that lost its task dies, the next one may begin here.
        self._attempts: dict[_Key, Attempt] = {}
        self._claimed: set[_Key] = set()  # from the claim to the end of the attempt
        self._turns = Turns()  # whose tasks were taken last
        self._running: set[asyncio.Task[None]] = set()
        self._shared: dict[tuple[str, str], SharedProcess] = {}
        self._forking = asyncio.Lock()
        self._draining = False
        self.on_drain: Callable[[], None] | None = None  # called when somebody wants it to leave
        self._wanting = True  # whether there may be tasks that there was no room for
        self._doubtful = True  # whether a claim may have landed without our knowing
        self._clock = clock
        self._looked_at = clock()
        self._heart = Heartbeat(
            store,
            register=self._register,
            draining=lambda: self._draining,
            stop_attempts=self._stop_attempts,
            on_change=self._lease_changed,
            clock=clock,
            beside=beside,
        )
        self._evaluations = Evaluations(store, self.zygotes, worker_id=self.id)
        self._reaper = Reaper(store, chance=chance or random.Random(), clock=clock)  # noqa: S311 - not a secret
        self._unsubscribe: list[Callable[[], None]] = []
        self._claims = Loop("claims", self._claim, seconds=_POLL_SECONDS)
        self._readiness = Loop("zygotes", self._keep_ready, seconds=_KEEP_SECONDS)
        self._loops = [
            self._claims,
            self._readiness,
            Loop("wishes", self._look_for_wishes, seconds=BEAT_SECONDS),
        ]

    @property
    def id(self) -> str:
        """Under which name it owns tasks; another one after it was taken for dead."""
        return self._heart.worker_id

    @property
    def ready(self) -> bool:
        """Whether tasks that are queued now will be worked on here."""
        return not self._draining and self._heart.trusted and bool(self._unsubscribe)

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
        await self._heart.start()
        self._unsubscribe = [
            self._store.subscribe("queue", lambda _: self._claims.wake()),
            self._store.subscribe("cancel", self._cancel),
            self._store.subscribe("drain", self._asked_to_drain),
            # A candidate's process starts with its rollout, not with its first session.
            self._store.subscribe("rollout", lambda _: self._readiness.wake()),
        ]
        for loop in self._loops:
            loop.start()
        self._reaper.start()
        self._evaluations.start()

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new, let attempts end or reach a step, hand back the rest, and stop.

        It ends before ``grace_seconds`` are over, whatever the agents do.
        """
        self._draining = True
        await self._claims.stop()
        until = self._clock() + grace_seconds
        await self._idle(grace_seconds * _STEP_SHARE)
        for attempt in tuple(self._attempts.values()):
            attempt.hand_back(at_step=True)
        await self._idle(max(0.0, until - self._clock() - 1.0))
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
        await self._reaper.stop()
        for stop in self._unsubscribe:
            stop()
        self._unsubscribe = []
        await self._evaluations.stop()
        await self.deltas.close()
        for process in self._shared.values():
            await process.close()
        await self.zygotes.stop()
        await self.wardens.stop()
        await self._heart.stop()

        async def leave(tx: Transaction) -> None:
            for task in await tasks.of_worker(tx, worker_id=self.id):
                await given_back(tx, task=task)
            await workers.remove(tx, self.id)

        with contextlib.suppress(PenstockError):
            await self._store.transact(leave)

    async def _idle(self, seconds: float) -> None:
        """Wait until nothing runs, but no longer than ``seconds``."""
        if self._running and seconds > 0:
            await asyncio.wait(tuple(self._running), timeout=seconds)

    # ------------------------------------------------------------ claims

    async def _claim(self) -> None:
        try:
            while not self._draining and self._heart.trusted:
                if self._doubtful or self._clock() - self._looked_at > BEAT_SECONDS:
                    await self._look_for_unknown()
                if not await self._claim_some():
                    return
        except Unavailable as error:
            if not self._doubtful:
                log.warning("no tasks are taken: %s", error)
            self._doubtful = self._wanting = True
            self._reaper.disturb()

    async def _claim_some(self) -> bool:
        """Take as many tasks as there is room for; whether there may be more."""
        free = min(_CLAIM_MOST, self._concurrency - len(self._claimed))
        # Unless somebody says so, or the poll finds it: nothing comes by the end of an attempt.
        self._wanting = free <= 0
        if self._wanting:
            return False  # the end of an attempt wakes this loop
        worker_id, turns = self.id, self._turns

        async def work(tx: Transaction) -> list[Claim]:
            return await claims.claim(tx, worker_id=worker_id, limit=free, turns=turns)

        taken = await self._store.transact(work)
        self._turns = after_claims(turns, taken)
        if worker_id != self.id:
            return True  # taken under a name that was buried meanwhile: a reaper gives them back
        for claim in taken:
            self._begin(claim)
        return len(taken) == free

    async def _look_for_unknown(self) -> None:
        """Give back what is owned and not known here.

        The answer to a claim may be lost on its way from the database. No claim is under way
        while this runs, so what is not known now never will be.
        """

        async def owned(tx: Transaction) -> list[Task]:
            return await tasks.of_worker(tx, worker_id=self.id)

        for task in await self._store.read(owned):
            if (task.id, task.epoch) not in self._claimed:
                log.warning("task %s was claimed without our knowing; it is given back", task.id)
                await self._store.transact(partial(lost, task=task))
        self._doubtful = False
        self._looked_at = self._clock()

    def _begin(self, claim: Claim) -> None:
        key = (claim.task.id, claim.epoch)
        self._claimed.add(key)
        task = asyncio.create_task(self._run(claim), name=f"attempt-{claim.task.id}")
        self._running.add(task)
        task.add_done_callback(lambda _: self._claimed.discard(key))
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._wanting:
            self._claims.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an attempt was not brought to its end", exc_info=error)

    async def _run(self, claim: Claim) -> None:
        release = claim.task.release
        claimed_at = asyncio.get_running_loop().time()
        try:
            manifest = await self.zygotes.manifest(release)
            policy = manifest.policy
        except Exception as error:  # noqa: BLE001 - whatever it is, the task must not stay running
            with contextlib.suppress(Stale):
                await self._attempt(claim, Policy(), claimed_at).abandon(error, ours=True)
            return
        try:
            if self._sources is not None and manifest.sources:
                await self._sources.check(release, manifest)
        except Exception as error:  # noqa: BLE001 - as above
            # Another machine would be refused as well: no time is lost on it.
            with contextlib.suppress(Stale):
                await self._attempt(claim, policy, claimed_at).abandon(error, ours=False)
            return
        attempt = self._attempt(claim, policy, claimed_at)
        self._attempts[claim.task.id, claim.epoch] = attempt
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
            self._attempts.pop((claim.task.id, claim.epoch), None)

    def _attempt(self, claim: Claim, policy: Policy, claimed_at: float) -> Attempt:
        release = claim.task.release
        return Attempt(
            self._store,
            claim,
            terms=Terms.of(policy.limits, self._caps, claim.task.resource_class),
            claimed_at=claimed_at,
            publish=self.deltas.publish,
            on_modules=lambda names: self._warm(release, names),
            owned=lambda: self._heart.trusted,
        )

    async def _host(self, release: str, environment: str, policy: Policy, limits: Limits) -> Host:
        if policy.isolation is Isolation.PROCESS:
            warden = self.wardens.begin(limits)
            try:
                child = await self.zygotes.fork(release, environment, limits, joins=warden.joins)
            except BaseException:
                warden.release()
                raise
            warden.watch(child)
            return OwnHost(child, warden)
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
        for key, attempt in tuple(self._attempts.items()):
            if key[0] == task_id:
                attempt.cancel()

    # ------------------------------------------------------------ ownership

    async def _register(self, tx: Transaction, worker_id: str) -> None:
        await workers.register(
            tx,
            worker_id=worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=presence.of_this_process(),
            lease_seconds=LEASE_SECONDS,
            capacity=self._concurrency,
        )

    def _stop_attempts(self, why: str) -> None:
        """End every attempt's process now; called in the heartbeat's thread."""
        for attempt in tuple(self._attempts.values()):
            attempt.lose(why)
        for process in tuple(self._shared.values()):
            process.kill()

    def _lease_changed(self) -> None:
        """On the event loop: do the rest of what the heartbeat's thread has begun."""
        if self._heart.trusted:
            self._claims.wake()
            return
        for attempt in tuple(self._attempts.values()):
            attempt.hand_back(at_step=False)

    # ------------------------------------------------------------ loops

    def _asked_to_drain(self, worker_id: str) -> None:
        if worker_id == self.id and self.on_drain is not None:
            self.on_drain()

    async def _look_for_wishes(self) -> None:
        """Stop what somebody wants stopped: that we were told of it may have been lost."""

        async def wished(tx: Transaction) -> tuple[list[Task], bool]:
            owned = await tasks.of_worker(tx, worker_id=self.id)
            return owned, await workers.is_draining(tx, self.id)

        with contextlib.suppress(Unavailable):
            owned, leaves = await self._store.read(wished)
            for task in owned:
                if task.cancel_requested:
                    self._cancel(task.id)
            if leaves:
                self._asked_to_drain(self.id)

    async def _keep_ready(self) -> None:
        if not self._draining:
            await end_idle(self._shared)
            with contextlib.suppress(Unavailable):
                await self.zygotes.keep(await self._store.read(workers.wanted_releases))
