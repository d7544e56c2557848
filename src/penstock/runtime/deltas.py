"""Hands what attempts say and nobody keeps to those who listen, here and on other servers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import msgspec

from penstock.domain.tasks import Delta, Dropped
from penstock.rules.streams import DELTA_BYTES, bounded
from penstock.runtime.relays import Relay
from penstock.store import Store

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Listener = Callable[[Delta | Dropped], None]


class Deltas:
    """Listeners by task. A listener must not block; one that is slow drops what it cannot hold."""

    def __init__(self, store: Store) -> None:
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        # One process that has the database for itself has nobody to tell.
        self._relay = (
            None if store.embedded else Relay(store, self._hand_over, self._listeners.keys)
        )

    def subscribe(self, task_id: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every delta of a task; returns how to stop it."""
        if self._relay is not None and task_id not in self._listeners:
            self._relay.watch(task_id)
        self._listeners[task_id].append(listener)

        def stop() -> None:
            listeners = self._listeners.get(task_id, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(task_id, None)

        return stop

    def publish(self, delta: Delta) -> None:
        """Hand a delta to the listeners of its task, wherever they are."""
        here = delta.task_id in self._listeners
        elsewhere = self._relay is not None and self._relay.is_wanted(delta.task_id)
        if not here and not elsewhere:
            return
        delta = _measured(delta)
        if here:
            self._hand_over(delta)
        if elsewhere and self._relay is not None:
            self._relay.send(delta)

    async def close(self) -> None:
        """Say nothing more to other servers."""
        if self._relay is not None:
            await self._relay.close()

    def _hand_over(self, delta: Delta | Dropped) -> None:
        for listener in tuple(self._listeners.get(delta.task_id, ())):
            listener(delta)


def _measured(delta: Delta) -> Delta:
    """The delta with its size; one that is too large leaves a mark."""
    text = _encode(delta.data)
    if len(text) <= DELTA_BYTES:
        return replace(delta, size_bytes=len(text))
    log.warning(
        "task %s: an item of its stream (%s) has %d bytes; readers get a mark instead, the limit"
        " is %d",
        delta.task_id,
        delta.mode,
        len(text),
        DELTA_BYTES,
    )
    short = bounded(text, DELTA_BYTES)
    return replace(delta, data=_decode(short), size_bytes=len(short))
