"""An event loop whose time passes when nothing is left to do, and whose order a seed decides.

Every callback belongs to a process: the one that its context names. Callbacks of one process run
in the order in which they became ready, as on a real event loop; between processes the order is
drawn. A process can be killed (its callbacks are dropped, as by SIGKILL) and paused (they are held
back, timers included, as by SIGSTOP).
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import defaultdict, deque

WHO = contextvars.ContextVar("who", default="nobody")


class Deadlock(Exception):
    """Nothing is ready, and nothing ever will be."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Time is a number, and so is chance."""

    def __init__(self, chance: random.Random):
        super().__init__()
        self._now = 0.0
        self._chance = chance
        self._killed: set[str] = set()
        self._dropped: list = []  # what the killed would have done
        self._held: dict[str, list] = {}  # of a paused process, what would have run
        self.set_exception_handler(lambda *_: None)  # tasks of the killed are never awaited

    def time(self):
        return self._now

    def context(self, who: str):
        """A context whose callbacks belong to a process."""
        found = contextvars.Context()
        found.run(WHO.set, who)
        return found

    def kill(self, who: str):
        """Nothing of the process runs any more."""
        self._killed.add(who)
        self._dropped += self._held.pop(who, ())

    def lives(self, who: str) -> bool:
        return who not in self._killed

    def pause(self, who: str):
        if self.lives(who):
            self._held.setdefault(who, [])

    def resume(self, who: str):
        self._ready.extend(self._held.pop(who, ()))

    def revive(self):
        """Let everything run again, so that what is left can be cancelled."""
        self._killed.clear()
        self._ready.extend(self._dropped)
        for who in tuple(self._held):
            self.resume(who)

    # ------------------------------------------------------------ the loop

    def _run_once(self):
        heap, ready = self._scheduled, self._ready
        while heap and heap[0]._cancelled:
            heapq.heappop(heap)._scheduled = False
        if not ready:
            if not heap:
                raise Deadlock
            self._now = max(self._now, heap[0]._when)
        while heap and heap[0]._when <= self._now:
            handle = heapq.heappop(heap)
            handle._scheduled = False
            ready.append(handle)
        todo = self._interleaved(ready)
        ready.clear()
        for handle in todo:
            if handle._cancelled:
                continue
            who = handle._context.get(WHO, "nobody")
            if who in self._killed:
                self._dropped.append(handle)
                continue
            held = self._held.get(who)
            if held is not None:
                held.append(handle)
            else:
                handle._run()

    def _interleaved(self, ready):
        if len(ready) < 2:
            return list(ready)
        queues = defaultdict(deque)
        order = []
        for handle in ready:
            who = handle._context.get(WHO, "nobody")
            queues[who].append(handle)
            order.append(who)
        if len(queues) > 1:
            self._chance.shuffle(order)
        return [queues[who].popleft() for who in order]

    def _timer_handle_cancelled(self, handle):
        pass

    def _write_to_self(self):
        pass

    def _process_events(self, event_list):
        pass
