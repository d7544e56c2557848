"""Holds attempts' processes to their limits, from a thread of its own.

A thread, not the event loop: an attempt must end by its deadline whatever the server is doing. Each
process is looked at as often as it deserves: one that computes, or has started others, up to fifty
times a second; one that waits for an answer about once a second.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time

from penstock.domain.releases import Limits
from penstock.runtime import procfs
from penstock.runtime.cgroups import Cgroup, Cgroups
from penstock.runtime.processes import Child

log = logging.getLogger(__name__)

_OFTEN_SECONDS = 0.02
_SELDOM_SECONDS = 0.8
_THOROUGH = 4  # every fourth look at a process that seems idle is a whole one
_LEAVING_SECONDS = 0.2
_STOP_SECONDS = 1.0

# A process may pass its own rlimit by as much, to say that it ran out (see inside/limits.py): the
# limit of a whole attempt must not come first.
_RESERVE_BYTES = 48 << 20


class Warden:
    """One attempt's limits."""

    def __init__(self, wardens: Wardens, limits: Limits, group: Cgroup | None) -> None:
        self._wardens = wardens
        self.limits = limits
        self.group = group
        self.child: Child | None = None
        self.released = False
        self.base_bytes = 0  # what the process held before it was this attempt's
        self._broken: tuple[str, float] | None = None
        self._began = time.monotonic()
        self._interval = _OFTEN_SECONDS
        self._looks = 0
        self._last: tuple[float, int, int] | None = None
        self._seen: dict[int, int] = {}  # what the process has started: pid → when
        self._started_at = 0  # of the process, in the kernel's words

    @property
    def joins(self) -> tuple[str, ...]:
        """Files by which the process joins its control group."""
        return () if self.group is None else self.group.joins

    @property
    def broken(self) -> tuple[str, float] | None:
        """The limit that ended the process, and how much of it had been used."""
        if self._broken is None and self.group is not None:
            self._broken = self.group.broken()
        return self._broken

    def watch(self, child: Child) -> None:
        """Hold this process to the limits from now on; the time runs."""
        self._began = time.monotonic()  # what a cold release took to start is not the attempt's
        self.child = child
        self.base_bytes = child.base_bytes
        child.group = self.group
        self._wardens.look_at(self, time.monotonic() + _OFTEN_SECONDS)

    def release(self) -> None:
        """The attempt is over: whatever it has left behind ends, too."""
        self.released = True
        if self.group is not None:
            self.group.kill()
        for pid, began in self._seen.items():
            found = procfs.stat(pid)
            if found is not None and found.began == began and found.alive:
                procfs.kill_tree(pid)
        self._wardens.leave(self)

    def look(self, now: float) -> float:
        """See what the process uses, and end it if that is too much; when to look again."""
        deadline = self._began + self.limits.time_seconds
        if now >= deadline:
            self._break("time", now - self._began)
            return now + _SELDOM_SECONDS
        found = self._over()
        if found is not None:
            self._break(*found)
        return min(deadline, now + self._interval)

    def _over(self) -> tuple[str, float] | None:
        """The limit that the process is beyond now, if it is."""
        child = self.child
        if child is None or child.pid is None or self._broken is not None:
            return None
        main = procfs.stat(child.pid)
        if main is None or (self._started_at and main.began != self._started_at):
            self._interval = _SELDOM_SECONDS  # it is gone; its release will come
            return None
        self._started_at = main.began
        self._looks += 1
        now = (main.cpu_seconds + main.reaped_cpu_seconds, main.threads, main.rss_bytes)
        idle = now == self._last and not self._seen
        self._last = now
        if idle and self._looks % _THOROUGH:
            self._interval = min(_SELDOM_SECONDS, self._interval * 2)
            return None
        return self._whole(main, child.pid, idle=idle)

    def _whole(self, main: procfs.Stat, pid: int, *, idle: bool) -> tuple[str, float] | None:
        """The same by looking at everything that the process has started."""
        held = None if self.group is None else self.group.broken()
        if held is not None:
            return held
        others = {
            other: found for other in procfs.descendants(pid) if (found := procfs.stat(other))
        }
        self._seen = {other: found.began for other, found in others.items()}
        everyone = [main, *others.values()]
        running = sum(one.alive for one in everyone)
        if running > self.limits.processes:
            return "processes", running
        used = None if self.group is None else self.group.cpu_seconds()
        if used is None:
            used = sum(one.cpu_seconds + one.reaped_cpu_seconds for one in everyone)
        most = self.limits.cpu_seconds
        if most is not None and used >= most:
            return "cpu", used
        held_bytes = self._memory(everyone, [pid, *others])
        allowed = self.limits.memory_bytes
        if allowed is not None and held_bytes > allowed + _RESERVE_BYTES:
            return "memory", held_bytes
        near = allowed is not None and held_bytes > allowed // 2
        calm = idle and not near
        self._interval = min(_SELDOM_SECONDS, self._interval * 2) if calm else _OFTEN_SECONDS
        if not calm and not near and running == 1:
            self._interval = 3 * _OFTEN_SECONDS
        return None

    def _memory(self, everyone: list[procfs.Stat], pids: list[int]) -> int:
        """The memory of an attempt; what it shares is looked at only when it may matter."""
        resident = sum(one.rss_bytes for one in everyone) - self.base_bytes
        most = self.limits.memory_bytes
        if most is None or resident <= most:
            return resident
        return sum(map(procfs.pss_bytes, pids)) - self.base_bytes

    def _break(self, limit: str, used: float) -> None:
        if self._broken is None:
            self._broken = (limit, used)
        self._interval = _SELDOM_SECONDS
        if self.child is not None:
            self.child.kill()


class Wardens:
    """The thread that looks at every attempt of a worker."""

    def __init__(self) -> None:
        """Nothing is started, or looked for, before there is an attempt."""
        self._cgroups: Cgroups | None = None
        self._looked = False
        self._queue: list[tuple[float, int, Warden]] = []
        self._leaving: list[Cgroup] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def cgroups(self) -> Cgroups | None:
        """The control groups of this machine, if some are delegated to us."""
        if not self._looked:
            self.use(Cgroups.detect())
        return self._cgroups

    def use(self, cgroups: Cgroups | None) -> None:
        """Use these control groups, or none."""
        self._looked = True
        self._cgroups = cgroups

    def begin(self, limits: Limits) -> Warden:
        """A warden for an attempt that is about to get its process."""
        group = None
        if self.cgroups is not None:
            try:
                group = self.cgroups.create()
                group.limit(limits, reserve_bytes=_RESERVE_BYTES)
            except OSError as error:
                log.warning("an attempt runs without a control group: %s", error)
                if group is not None:
                    group.remove()
                group = None
        return Warden(self, limits, group)

    def look_at(self, warden: Warden, when: float) -> None:
        """Look at a warden's process at a time of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._queue, (when, next(self._numbers), warden))
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="wardens", daemon=True)
                self._thread.start()
            if self._queue[0][2] is warden:
                self._changed.notify()

    def leave(self, warden: Warden) -> None:
        """A warden is released: its control group goes when its processes are gone."""
        if warden.group is not None and not warden.group.remove():
            with self._changed:
                self._leaving.append(warden.group)
                self._changed.notify()
        if self._stopped and self._cgroups is not None:
            self._cgroups.close()

    async def stop(self) -> None:
        """End the thread and give back the control groups; waits a moment for the last to die."""
        if self._thread is not None or self._cgroups is not None:
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        if self._cgroups is not None:
            until = time.monotonic() + _STOP_SECONDS
            while self._leaving and time.monotonic() < until:
                self._leaving = [group for group in self._leaving if not group.remove()]
                time.sleep(_OFTEN_SECONDS)
            self._cgroups.close()

    def _run(self) -> None:
        while True:
            warden = self._next()
            if warden is None:
                return
            if warden.released:
                continue
            try:
                again = warden.look(time.monotonic())
            except Exception:
                # One process that cannot be read must not leave the others unwatched.
                log.exception("an attempt's process cannot be looked at")
                again = time.monotonic() + _SELDOM_SECONDS
            self.look_at(warden, again)

    def _next(self) -> Warden | None:
        """The warden whose turn it is, waited for; nothing at the end."""
        with self._changed:
            while not self._stopped:
                self._leaving = [group for group in self._leaving if not group.remove()]
                wait = _LEAVING_SECONDS if self._leaving else None
                if self._queue:
                    due = self._queue[0][0] - time.monotonic()
                    if due <= 0:
                        return heapq.heappop(self._queue)[2]
                    wait = due if wait is None else min(due, wait)
                self._changed.wait(wait)
            return None
