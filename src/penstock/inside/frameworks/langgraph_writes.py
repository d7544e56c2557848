"""What nodes wrote, waiting a moment for the checkpoint of their step to take it along.

A step of one node writes and commits a moment later: one commit does for both. LangGraph saves
writes in the background and waits for none of them, so that a moment's delay promises no less.
What waits in vain goes alone: in a step of several nodes, what one wrote is on record while the
others run. Whoever asked for a write to be kept is told only when it is on record.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from penstock.inside.later import SOON_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    Place = tuple[str, str | None]  # namespace as the supervisor knows it, checkpoint id

HELD_SECONDS = SOON_SECONDS


class Held:
    """What a node wrote, packed, until it is on record."""

    __slots__ = ("contents", "items", "values", "waiter")

    def __init__(
        self, items: list[dict[str, Any]], values: list[bytes], contents: dict[bytes, bytes]
    ) -> None:
        self.items = items
        self.values = values
        self.contents = contents
        # Whoever waits until it is known whether a checkpoint took them along (True).
        self.waiter: Future[bool] | asyncio.Future[bool] | None = None

    def settle(self, *, taken: bool, error: BaseException | None = None) -> None:
        """Tell who waits for these writes what has become of them, from any thread."""
        waiter = self.waiter
        if not isinstance(waiter, asyncio.Future):
            _tell(waiter, error, taken=taken)
            return
        # Through the loop's own queue where that can be: the other way wakes it by a socket.
        loop = waiter.get_loop()
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - asks without an exception
            _tell(waiter, error, taken=taken)
        else:
            loop.call_soon_threadsafe(lambda: _tell(waiter, error, taken=taken))


class Waiting:
    """The writes of an attempt that wait, by the checkpoint they belong on."""

    def __init__(self) -> None:
        self._held: dict[Place, list[Held]] = {}
        self._lock = threading.Lock()

    def hold(self, place: Place, held: Held) -> bool:
        """Let writes wait, unless they are of a kind that no checkpoint may follow."""
        if any(item["number"] < 0 for item in held.items):
            return False
        with self._lock:
            self._held.setdefault(place, []).append(held)
        return True

    def take(self, place: Place) -> list[Held]:
        """All that waits for the checkpoint that stands on this one; to be settled by the taker."""
        with self._lock:
            return self._held.pop(place, [])

    def expire(self, place: Place, held: Held) -> None:
        """Let writes that no checkpoint has taken go alone."""
        if self.let_go(place, held):
            held.settle(taken=False)

    def let_go(self, place: Place, held: Held) -> bool:
        """Take writes back; whether no checkpoint has taken them."""
        with self._lock:
            waiting = self._held.get(place, [])
            if held not in waiting:
                return False
            waiting.remove(held)
            if not waiting:
                del self._held[place]
            return True


def settle(taken: Sequence[Held], error: BaseException | None = None) -> None:
    """Tell those who wait that their writes are on record with a checkpoint, or why not."""
    for held in taken:
        held.settle(taken=True, error=error)


def _tell(
    waiter: Future[bool] | asyncio.Future[bool] | None,
    error: BaseException | None,
    *,
    taken: bool,
) -> None:
    if waiter is None or waiter.done():
        return
    if error is None:
        waiter.set_result(taken)
    else:
        waiter.set_exception(error)
