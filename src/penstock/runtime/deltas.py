"""Hands what attempts say and nobody keeps to those who listen in this server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from penstock.domain.tasks import Delta


class Deltas:
    """Listeners by task. A listener must not block; one that is slow drops what it cannot hold."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, list[Callable[[Delta], None]]] = defaultdict(list)

    def subscribe(self, task_id: str, listener: Callable[[Delta], None]) -> Callable[[], None]:
        """Call ``listener`` with every delta of a task; returns how to stop it."""
        self._listeners[task_id].append(listener)

        def stop() -> None:
            listeners = self._listeners.get(task_id, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(task_id, None)

        return stop

    def publish(self, delta: Delta) -> None:
        """Hand a delta to the listeners of its task."""
        for listener in tuple(self._listeners.get(delta.task_id, ())):
            listener(delta)
