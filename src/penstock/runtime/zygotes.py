"""The warm processes of the releases that are in use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.domain.errors import Unavailable
from penstock.domain.releases import Limits, Manifest
from penstock.drivers.builders import Builder, Launch
from penstock.rules.releases import digest_json
from penstock.runtime import artifacts
from penstock.runtime.processes import Child, Zygote
from penstock.runtime.variables import Variables
from penstock.store import Store, Transaction, blobs

log = logging.getLogger(__name__)

_SPARES = 2  # processes in waiting, for agents that cannot be forked
_WARM_ROUNDS = 2
_IDLE_SECONDS = 600.0
_TRIES = 3
_USUAL = "production"

_Key = tuple[str, str]  # release; digest of the variables, or nothing when there are none


@dataclass(slots=True)
class _Pool:
    """One release's processes."""

    launch: Launch
    verified: bool = False  # once: by whoever made the pool
    zygote: Zygote | None = None  # the one that forks
    spares: list[Zygote] = field(default_factory=list)
    serving: set[Zygote] = field(default_factory=set)
    newest: Zygote | None = None  # the one that was started last, whatever has become of it
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    warmings: int = 0
    used: float = 0.0


class Zygotes:
    """Starts a zygote per release when it is first needed, and a new one when it has ended."""

    def __init__(
        self,
        store: Store,
        builder: Builder,
        *,
        gateway_url: str,
        scratch: Path,
        variables: Variables | None = None,
    ) -> None:
        self._store = store
        self._variables = variables or Variables(store, {})
        self._builder = builder
        self._gateway_url = gateway_url
        self._scratch = scratch
        self._launches: dict[str, asyncio.Task[Launch]] = {}
        self._known: dict[str, Launch] = {}
        self._pools: dict[_Key, _Pool] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False

    async def manifest(self, release: str) -> Manifest:
        """What a release pins.

        Raises:
            PenstockError: the release cannot be read or put on disk.
        """
        return (await self._prepared(release)).manifest

    async def start(self, release: str, environment: str = _USUAL) -> None:
        """Have a release's process ready to take attempts in an environment.

        Raises:
            PenstockError: the release cannot be loaded, or its process does not start.
        """
        pool = await self._pool(release, environment)
        pool.used = asyncio.get_running_loop().time()
        await self._ready(pool)

    async def fork(
        self,
        release: str,
        environment: str,
        limits: Limits,
        *,
        shared: bool = False,
        joins: Sequence[str] = (),
    ) -> Child:
        """A process for an attempt of a release in an environment; see :meth:`Zygote.fork`.

        Raises:
            PenstockError: the release cannot be loaded, or its process does not start.
        """
        pool = await self._pool(release, environment)
        pool.used = asyncio.get_running_loop().time()
        for _ in range(_TRIES):
            zygote = await self._ready(pool)
            with contextlib.suppress(Unavailable):
                child = await zygote.fork(limits, shared=shared, joins=joins)
                if zygote.mode == "spare":
                    self._replace(pool, zygote)
                return child
            if pool.zygote is zygote:
                pool.zygote = None
        raise Unavailable(f"the process of release {release[:12]} keeps ending")

    async def warm(self, release: str, modules: list[str]) -> None:
        """Let the next attempts find what this one had to import."""
        for (known, _), pool in tuple(self._pools.items()):
            if known == release and pool.zygote is not None and pool.warmings < _WARM_ROUNDS:
                pool.warmings += 1
                await pool.zygote.warm(modules)

    async def keep(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Have processes ready, and end those that nobody has used for long.

        Args:
            wanted: releases, each with an environment that new sessions begin in.
        """
        kept: set[int] = set()
        for release, environment in set(wanted):
            try:
                pool = await self._pool(release, environment)
                kept.add(id(pool))
                await self._ready(pool)
            except Exception as error:  # noqa: BLE001 - its tasks will say so to who asked for them
                log.warning("release %s is not ready: %s", release[:12], error)
        now = asyncio.get_running_loop().time()
        for key, pool in tuple(self._pools.items()):
            idle = pool.zygote is None or not pool.zygote.children
            if id(pool) not in kept and idle and now - pool.used > _IDLE_SECONDS:
                await self._stop(self._pools.pop(key))

    def describe(self) -> dict[str, tuple[str, str | None]]:
        """How each loaded release's attempts are started: mode and, for spares, why."""
        found = {}
        for (release, _), pool in self._pools.items():
            zygote = pool.zygote or next(iter(pool.spares), None) or pool.newest
            if zygote is not None:
                found[release] = (zygote.mode, zygote.why)
        return found

    def pids(self) -> list[int]:
        """Every process that was started here and still runs."""
        found = []
        for pool in self._pools.values():
            zygotes = {*pool.spares, *pool.serving, *([pool.zygote] if pool.zygote else [])}
            for zygote in zygotes:
                found.append(zygote.pid)
                found += [child.pid for child in zygote.children.values() if child.pid]
        return sorted(set(found))

    async def stop(self) -> None:
        """End every process."""
        self._closing = True
        for task in self._background:
            task.cancel()
        for pool in self._pools.values():
            await self._stop(pool)
        self._pools.clear()

    # ------------------------------------------------------------ one release

    async def _pool(self, release: str, environment: str) -> _Pool:
        launch = await self._prepared(release)
        values = await self._variables.of(launch.manifest, environment)
        key = (release, digest_json(values) if values else "")
        pool = self._pools.get(key)
        if pool is None:
            made = _Pool(launch=replace(launch, variables=values))
            pool = self._pools.setdefault(key, made)
        return pool

    async def _prepared(self, release: str) -> Launch:
        known = self._known.get(release)
        if known is None:
            known = self._known[release] = await self._launch(release)
        return known

    async def _launch(self, release: str) -> Launch:
        task = self._launches.get(release)
        if task is None:
            task = self._launches[release] = asyncio.create_task(self._prepare(release))
            task.add_done_callback(lambda _: self._launches.pop(release, None))
        return await asyncio.shield(task)

    async def _prepare(self, release: str) -> Launch:
        async def fetch(digest: str) -> bytes:
            async def work(tx: Transaction) -> bytes:
                return await blobs.get(tx, digest)

            return await self._store.read(work)

        return await self._builder.prepare(await artifacts.load(self._store, release), fetch)

    async def _ready(self, pool: _Pool) -> Zygote:
        """A zygote that takes the next attempt."""
        async with pool.starting:
            if self._closing:
                raise Unavailable("the worker is stopping")
            while pool.spares:
                zygote = pool.spares[0]
                if zygote.alive:
                    return zygote
                pool.spares.pop(0)
            if pool.zygote is not None and pool.zygote.alive:
                return pool.zygote
            zygote = await self._start(pool)
            if zygote.mode == "spare":
                log.warning(
                    "release %s is run in fresh processes, not forks: %s",
                    pool.launch.release[:12],
                    zygote.why,
                )
                pool.spares.append(zygote)
                self._refill(pool)
            else:
                pool.zygote = zygote
            return zygote

    async def _start(self, pool: _Pool) -> Zygote:
        if pool.verified:
            # What is on disk may have been changed since the last process read it.
            again = await self._launch(pool.launch.release)
            pool.launch = replace(again, variables=pool.launch.variables)
        pool.verified = True
        pool.newest = await Zygote.start(
            pool.launch,
            gateway_url=self._gateway_url,
            scratch=self._scratch / pool.launch.release[:16],
        )
        return pool.newest

    def _replace(self, pool: _Pool, used: Zygote) -> None:
        """A spare has become an attempt's process: get the next one ready."""
        if used in pool.spares:
            pool.spares.remove(used)
        if pool.zygote is used:
            pool.zygote = None
        pool.serving.add(used)
        used.on_end = lambda: pool.serving.discard(used)
        self._refill(pool)

    def _refill(self, pool: _Pool) -> None:
        async def refill() -> None:
            async with pool.starting:
                while len(pool.spares) < _SPARES and not self._closing:
                    pool.spares.append(await self._start(pool))

        task = asyncio.create_task(_quietly(refill()))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    @staticmethod
    async def _stop(pool: _Pool) -> None:
        for zygote in {*pool.spares, *pool.serving, *([pool.zygote] if pool.zygote else [])}:
            await zygote.stop()


async def _quietly(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - whoever needs the process next is told
        log.warning("a spare process did not start: %s", error)
