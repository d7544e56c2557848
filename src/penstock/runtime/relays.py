"""Carries deltas from the server that runs a task to the servers where it is read.

A server whose readers follow a task says so (``watch``, renewed for as long as they do), and every
other server remembers it for a while. The one that runs the task then sends what it says in
batches: twenty a second at most, in pieces that fit into a notification. When nobody listens
elsewhere nothing is sent. Items are numbered, so that a receiver knows how many it has missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from penstock.domain.errors import PenstockError
from penstock.domain.tasks import Delta, Dropped
from penstock.kit.ids import new_id
from penstock.store import Store, Transaction

log = logging.getLogger(__name__)

_PACE_SECONDS = 0.05  # between two batches
_RENEW_SECONDS = 10.0
_KEEP_SECONDS = 25.0  # that a server's interest is remembered
_PIECE_BYTES = 7000  # a notification of PostgreSQL holds less than 8000
_WAITING_BYTES = 128 << 10  # of one task's items between two batches; then the oldest go
_WHO = "?"  # asks the others what they watch

_Key = tuple[str, str]  # server, task


class Relay:
    """One server's half of the exchange."""

    def __init__(
        self,
        store: Store,
        deliver: Callable[[Delta | Dropped], None],
        listened: Callable[[], Collection[str]],
    ) -> None:
        """Hand what other servers say to ``deliver``; ``listened`` are the tasks read here."""
        self._store = store
        self._deliver = deliver
        self._listened = listened
        self._id = new_id("srv")
        self._wanted: dict[str, float] = {}  # task → until when somebody wants it
        self._outgoing: dict[str, _Outgoing] = {}
        self._announced: set[str] = set()  # to be said with the next batch
        self._asked = False
        self._incoming: dict[_Key, _Incoming] = {}
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._unsubscribe = [
            store.subscribe("watch", self._on_watch),
            store.subscribe("deltas", self._on_deltas),
        ]

    def watch(self, task_id: str) -> None:
        """Tell the others that a task is read here."""
        self._announced.add(task_id)
        self._start()

    def is_wanted(self, task_id: str) -> bool:
        """Whether a task is read on another server."""
        if not self._asked:  # who listened before this server was there cannot have told it
            self._announced.add(_WHO)
            self._asked = True
            self._start()
        until = self._wanted.get(task_id)
        if until is None:
            return False
        if until < time.monotonic():
            del self._wanted[task_id]
            self._outgoing.pop(task_id, None)
            return False
        return True

    def send(self, delta: Delta) -> None:
        """Let a delta go with the next batch."""
        outgoing = self._outgoing.get(delta.task_id)
        if outgoing is None:
            outgoing = self._outgoing[delta.task_id] = _Outgoing()
        outgoing.add(delta)
        self._start()

    async def close(self) -> None:
        """Stop."""
        for stop in self._unsubscribe:
            stop()
        self._unsubscribe = []
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None

    # ------------------------------------------------------------ out

    def _start(self) -> None:
        self._wake.set()
        if self._running is None and self._unsubscribe:
            self._running = asyncio.create_task(self._run(), name="relay")

    async def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RENEW_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            if time.monotonic() - renewed >= _RENEW_SECONDS:
                self._announced.update(self._listened())
                self._tidy()
                renewed = time.monotonic()
            if notices := self._notices():
                await self._tell(notices)
            await asyncio.sleep(_PACE_SECONDS)

    async def _tell(self, notices: list[tuple[str, str]]) -> None:
        async def work(tx: Transaction) -> None:
            for channel, payload in notices:
                tx.notify(channel, payload)

        try:
            await self._store.transact(work)
        except PenstockError as error:
            # Deltas may be lost: their readers learn how many from the next that arrive.
            log.warning("deltas for readers on other servers were lost: %s", error)

    def _notices(self) -> list[tuple[str, str]]:
        found = []
        names, self._announced = sorted(self._announced), set()
        while names:
            line = self._id
            while names and len(line) + len(names[-1]) < _PIECE_BYTES:
                line += f" {names.pop()}"
            found.append(("watch", line))
        for task_id, outgoing in self._outgoing.items():
            found += [("deltas", f"{self._id} {task_id} {piece}") for piece in outgoing.pieces()]
        return found

    # ------------------------------------------------------------ in

    def _on_watch(self, payload: str) -> None:
        server, *names = payload.split(" ")
        if server == self._id:
            return
        until = time.monotonic() + _KEEP_SECONDS
        for name in names:
            if name == _WHO:
                if listened := self._listened():
                    self._announced.update(listened)
                    self._start()
            else:
                self._wanted[name] = until

    def _on_deltas(self, payload: str) -> None:
        server, task_id, piece = payload.split(" ", 2)
        if server == self._id or task_id not in self._listened():
            return
        incoming = self._incoming.get((server, task_id))
        if incoming is None:
            incoming = self._incoming[server, task_id] = _Incoming(task_id)
        for item in incoming.feed(piece):
            self._deliver(item)

    def _tidy(self) -> None:
        """Forget what nobody asks for any more."""
        now = time.monotonic()
        self._wanted = {task: until for task, until in self._wanted.items() if until >= now}
        for task_id in [task for task in self._outgoing if task not in self._wanted]:
            del self._outgoing[task_id]
        listened = self._listened()
        for key in [key for key in self._incoming if key[1] not in listened]:
            del self._incoming[key]


class _Outgoing:
    """What one task has said since the last batch."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._first = 0  # number of the oldest that waits
        self._batch = 0

    def add(self, delta: Delta) -> None:
        """One more; if it is too much, the oldest go."""
        fields = [delta.epoch, delta.step, delta.mode, delta.namespace, delta.data]
        text = json.dumps(fields, separators=(",", ":"))  # ASCII: a character is a byte
        self._waiting.append(text)
        self._bytes += len(text)
        while self._bytes > _WAITING_BYTES and len(self._waiting) > 1:
            self._bytes -= len(self._waiting.popleft())
            self._first += 1

    def pieces(self) -> list[str]:
        """All that waits, as ``batch part parts text``."""
        if not self._waiting:
            return []
        text = f"[{self._first},{','.join(self._waiting)}]"
        self._first += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._batch += 1
        cut = [text[at : at + _PIECE_BYTES] for at in range(0, len(text), _PIECE_BYTES)]
        return [f"{self._batch} {part} {len(cut)} {piece}" for part, piece in enumerate(cut, 1)]


class _Incoming:
    """What another server sends of one task."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._batch = ""
        self._pieces: list[str] = []
        self._next: int | None = None  # number of the item that should come next

    def feed(self, piece: str) -> list[Delta | Dropped]:
        """The items of a batch once its last piece is here."""
        batch, part, parts, text = piece.split(" ", 3)
        if batch != self._batch:
            self._batch, self._pieces = batch, []
        if int(part) != len(self._pieces) + 1:
            return []  # a piece was lost, and the batch with it; the next one's number tells
        self._pieces.append(text)
        if len(self._pieces) < int(parts):
            return []
        whole, self._pieces = "".join(self._pieces), []
        first, *items = json.loads(whole)
        found: list[Delta | Dropped] = []
        if self._next is not None and first > self._next:
            found.append(Dropped(task_id=self._task_id, count=first - self._next))
        self._next = first + len(items)
        found += [self._delta(item) for item in items]
        return found

    def _delta(self, item: list[Any]) -> Delta:
        epoch, step, mode, namespace, data = item
        return Delta(
            task_id=self._task_id,
            epoch=epoch,
            step=step,
            mode=mode,
            namespace=tuple(namespace),
            data=data,
            size_bytes=len(json.dumps(data)),
        )
