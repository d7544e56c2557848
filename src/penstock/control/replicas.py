"""The autoscaler: reads the load, asks one rule, and lets a driver start or drain replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock.control.leadership import Leadership
from penstock.domain.replicas import Load, Scaling, Wish
from penstock.drivers.compute import Compute
from penstock.kit.loops import Loop
from penstock.rules.replicas import desired_replicas
from penstock.store import Store, Transaction, tasks

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_LEASE_SECONDS = 10.0
_FAILED_SECONDS = 5.0  # before a replica that ended or did not start is replaced


class Autoscaler:
    """Makes the replicas of one server as many as the load calls for.

    One server scales at a time. Whoever has lost the lease drains what it has started: its
    successor starts its own.
    """

    def __init__(self, store: Store, compute: Compute, scaling: Scaling) -> None:
        self._store = store
        self._compute = compute
        self._scaling = scaling
        self._leadership = Leadership(store, "autoscaler", lease_seconds=_LEASE_SECONDS)
        self._wishes: tuple[Wish, ...] = ()
        self._asked = 0
        self._not_before = 0.0
        self._loop = Loop("autoscaler", self._round, seconds=_TICK_SECONDS)
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin."""
        self._unsubscribe = self._store.subscribe("queue", lambda _: self._on_queue())
        self._loop.start()

    async def stop(self) -> None:
        """End, drain every replica, and let another server scale."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._loop.stop()
        await self._compute.close()
        await self._leadership.give_up()

    def _on_queue(self) -> None:
        """A task that nobody is there for must not wait for the next tick."""
        if not self._asked:
            self._loop.wake()

    async def _round(self) -> None:
        if not await self._leadership.held():
            self._asked = 0
            await self._compute.scale(0)
            return
        await self.tick()

    async def tick(self) -> None:
        """Read the load once and act on it.

        Raises:
            Unavailable: the store does not answer, or a replica cannot be started.
        """
        now = asyncio.get_running_loop().time()
        load = await self._load()
        if load.replicas < self._asked:  # some have ended by themselves: no hail of new ones
            self._not_before = now + _FAILED_SECONDS
            self._asked = load.replicas
        desired = desired_replicas(load, self._scaling, self._wishes, now_seconds=now)
        self._wishes = desired.wishes
        if desired.replicas == load.replicas:
            return
        if desired.replicas > load.replicas and now < self._not_before:
            return
        log.info(
            "%d waiting, %d in flight: %d replicas instead of %d",
            load.backlog,
            load.in_flight,
            desired.replicas,
            load.replicas,
        )
        self._asked = desired.replicas
        await self._compute.scale(desired.replicas)

    async def _load(self) -> Load:
        most = (self._scaling.most + 1) * self._scaling.target  # more need not be counted

        async def work(tx: Transaction) -> tuple[int, int]:
            return await tasks.load(tx, most=most)

        backlog, in_flight = await self._store.read(work)
        return Load(backlog=backlog, in_flight=in_flight, replicas=await self._compute.count())
