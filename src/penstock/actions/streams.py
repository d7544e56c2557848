"""Following tasks: many readers, one look at the store.

All readers of this server share one question to the store every few seconds, and all readers of
one task share each page of its events. What a reader has not taken yet is bounded: events wait in
the store, and of the deltas the oldest are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from penstock.domain.errors import NotFound, PenstockError
from penstock.domain.tasks import TERMINAL, Delta, Dropped, End, Event, Pulse
from penstock.rules.streams import mode_of
from penstock.store import Store, Transaction, events, tasks

log = logging.getLogger(__name__)

Item = Event | Delta | Dropped | End

_POLL_SECONDS = 5.0  # a lost notification costs no more than this
_PAUSE_SECONDS = 1.0  # while the database does not answer
_PAGE_EVENTS = 500
_PAGE_BYTES = 256 << 10
_DELTAS = 1000  # that may wait for a slow reader
_DELTA_BYTES = 1 << 20
_FINISHED = "finished"


class DeltaSource(Protocol):
    """Where the ephemeral part of a stream comes from."""

    def subscribe(
        self, task_id: str, listener: Callable[[Delta | Dropped], None]
    ) -> Callable[[], None]:
        """Call ``listener`` with every delta of a task; returns how to stop it."""
        ...


class Following:
    """What the readers of this server follow."""

    def __init__(self, store: Store, deltas: DeltaSource) -> None:
        self._store = store
        self._deltas = deltas
        self._tasks: dict[str, _Followed] = {}
        self._polling: asyncio.Task[None] | None = None
        store.subscribe("task", self._ring)

    async def pulse(self, task_id: str) -> Pulse:
        """How far a task is.

        Raises:
            NotFound: there is none of this id.
        """
        found = (await self._pulses([task_id])).get(task_id)
        if found is None:
            raise NotFound(f"there is no task {task_id}")
        return found

    def reader(self, task_id: str, pulse: Pulse, *, after: int, modes: Collection[str]) -> Reader:
        """A reader of a task's events behind ``after``; it must be closed."""
        followed = self._tasks.get(task_id)
        if followed is None:
            followed = self._tasks[task_id] = _Followed(self._store, task_id)
        followed.events = max(followed.events, pulse.events)
        reader = Reader(followed, after=after, modes=modes, over=lambda: self._leave(followed))
        followed.heard.add(reader.heard)
        reader.listen(self._deltas)
        if pulse.state in TERMINAL:
            followed.pulse = pulse
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name="streams")
        return reader

    def _leave(self, followed: _Followed) -> None:
        if not followed.heard:
            self._tasks.pop(followed.task_id, None)
        if not self._tasks and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    def _ring(self, task_id: str) -> None:
        if (followed := self._tasks.get(task_id)) is not None:
            followed.ring()

    async def _poll(self) -> None:
        """Find what no notification told of."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                found = await self._pulses(list(self._tasks))
            except PenstockError as error:
                log.warning("the followed tasks cannot be looked at: %s", error)
                continue
            for task_id, followed in list(self._tasks.items()):
                pulse = found.get(task_id)
                if pulse is None:
                    followed.gone = True
                    followed.ring()
                elif pulse.events > followed.events or pulse.state in TERMINAL:
                    followed.events = pulse.events
                    followed.ring()

    async def _pulses(self, task_ids: list[str]) -> dict[str, Pulse]:
        async def work(tx: Transaction) -> dict[str, Pulse]:
            return await tasks.pulses(tx, task_ids)

        return await self._store.read(work)


class _Followed:
    """One task that somebody follows."""

    def __init__(self, store: Store, task_id: str) -> None:
        self.task_id = task_id
        self.heard: set[asyncio.Event] = set()
        self.events = 0  # as far as was told
        self.gone = False  # deleted
        self.pulse: Pulse | None = None  # once it has ended, if it had when a reader came
        self._store = store
        self._pages: dict[int, asyncio.Future[list[Event]]] = {}

    def ring(self) -> None:
        """Something has happened: what was read so far is not all."""
        self._pages.clear()
        for event in self.heard:
            event.set()

    async def page(self, after: int) -> list[Event]:
        """The events behind ``after``; readers at the same place share one look."""
        looking = self._pages.get(after)
        if looking is None:
            looking = self._pages[after] = asyncio.ensure_future(self._read(after))
            looking.add_done_callback(lambda done: self._forget(after, done))
        return await asyncio.shield(looking)

    def _forget(self, after: int, done: asyncio.Future[list[Event]]) -> None:
        """Keep only that there was nothing: pages are large, and each reader has its own pace."""
        failed = done.cancelled() or done.exception() is not None
        if (failed or done.result()) and self._pages.get(after) is done:
            del self._pages[after]

    async def _read(self, after: int) -> list[Event]:
        async def work(tx: Transaction) -> list[Event]:
            return await events.after(
                tx,
                task_id=self.task_id,
                after=after,
                limit=_PAGE_EVENTS,
                most_bytes=_PAGE_BYTES,
            )

        return await self._store.read(work)


class Reader:
    """One reader's place in a task's stream."""

    def __init__(
        self,
        followed: _Followed,
        *,
        after: int,
        modes: Collection[str],
        over: Callable[[], None],
    ) -> None:
        self.heard = asyncio.Event()
        self.ended = False
        self._followed = followed
        self._after = after
        self._modes = modes
        self._over = over
        self._backlog = Backlog()
        self._unsubscribe: Callable[[], None] | None = None

    def listen(self, deltas: DeltaSource) -> None:
        """Hear of deltas, if one of the reader's modes has any."""
        if any(mode not in ("events", "updates") for mode in self._modes):
            self._unsubscribe = deltas.subscribe(self._followed.task_id, self._hear)

    def close(self) -> None:
        """Leave."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._followed.heard.discard(self.heard)
        self._over()

    async def take(self, seconds: float) -> list[Item]:
        """What has come since: nothing if that took longer than ``seconds``.

        An :class:`End` is the last item there is; a task that was deleted ends without one.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            self.heard.clear()
            items: list[Item] = [*self._backlog.take()]
            try:
                items += await self._events()
            except PenstockError as error:
                log.warning("the events of %s cannot be read: %s", self._followed.task_id, error)
                await asyncio.sleep(_PAUSE_SECONDS)
                self._followed.ring()
            if items or self.ended or clock() >= until:
                return items
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - clock()):
                    await self.heard.wait()

    async def _events(self) -> list[Item]:
        found = await self._followed.page(self._after)
        if found:
            self._after = found[-1].seq
            items: list[Item] = [event for event in found if mode_of(event.kind) in self._modes]
            if found[-1].kind == _FINISHED:
                said = found[-1].data
                items.append(self._end(said["state"], said["outcome"]))
            return items
        if self._followed.gone:
            self.ended = True
        elif (pulse := self._followed.pulse) is not None and self._after >= pulse.events:
            return [self._end(pulse.state.value, pulse.outcome)]
        return []

    def _end(self, state: str, outcome: str | None) -> End:
        self.ended = True
        return End(task_id=self._followed.task_id, state=state, outcome=outcome, last=self._after)

    def _hear(self, delta: Delta | Dropped) -> None:
        if isinstance(delta, Dropped) or delta.mode in self._modes:
            self._backlog.add(delta)
            self.heard.set()


class Backlog:
    """Deltas that wait for their reader: bounded, the oldest are dropped and counted."""

    def __init__(self, *, most: int = _DELTAS, most_bytes: int = _DELTA_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[Delta] = deque()
        self._bytes = 0
        self._dropped = 0
        self._task_id = ""

    def add(self, delta: Delta | Dropped) -> None:
        """Let one more wait."""
        self._task_id = delta.task_id
        if isinstance(delta, Dropped):
            self._dropped += delta.count
            return
        self._waiting.append(delta)
        self._bytes += delta.size_bytes
        while len(self._waiting) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._waiting.popleft().size_bytes
            self._dropped += 1

    def take(self) -> list[Delta | Dropped]:
        """All that waits, after how many there are no more."""
        if not self._dropped and not self._waiting:
            return []
        found: list[Delta | Dropped] = []
        if self._dropped:
            found.append(Dropped(task_id=self._task_id, count=self._dropped))
        found += self._waiting
        self._waiting.clear()
        self._bytes = self._dropped = 0
        return found
