"""Kills, at random moments and at chosen ones, and what each has hit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster
from ledger import Ledger


@dataclass(frozen=True)
class Kill:
    """One SIGKILL."""

    at: float
    what: str  # server | zygote | attempt
    tasks: tuple[str, ...]  # that ran in what was killed, as far as the ledger knew


class Killer:
    """Kills attempts as their answers come in, and servers and zygotes now and then.

    An attempt is killed in the thread that has just sent it its answer: nothing can be quicker
    but the attempt's own commit.
    """

    def __init__(self, cluster: Cluster, ledger: Ledger, *, seed: int, kills: int, a_second: float):
        self.kills: list[Kill] = []
        self._cluster = cluster
        self._ledger = ledger
        self._most = kills
        self._every = 1.0 / a_second
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._next = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._ledger.on_answer = self._on_answer
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._ledger.on_answer = lambda _: None
        self._thread.join(90)
        assert not self._thread.is_alive()

    @property
    def done(self) -> bool:
        """Whether there have been as many kills as there should be."""
        return len(self.kills) >= self._most

    def _due(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if self.done or now < self._next:
                return False
            self._next = now + self._every
            return True

    def _on_answer(self, task: str) -> None:
        if not self._due():
            return
        pid = self._ledger.pid(task)
        if pid is not None and is_attempt(pid):
            self._kill(pid, "attempt", (task,))

    def _run(self) -> None:
        """Servers, zygotes and attempts at moments that nobody chose."""
        while not self._over.wait(self._chance.uniform(0.5, 2.5)):
            if self.done:
                continue
            server = self._chance.choice(self._cluster.servers)
            what = self._chance.choice(("server", "zygote", "attempt", "attempt"))
            zygotes, attempts = server.processes()
            zygotes = [process for process in zygotes if is_attempt(process.pid)]  # no build
            running = self._tasks_of({attempt.pid for attempt in attempts})
            if what == "server":
                self.kills.append(Kill(time.time(), what, running))
                server.kill()
                server.start()
            elif what == "zygote" and zygotes:
                self._kill(self._chance.choice(zygotes).pid, what, running)
            elif attempts:
                pid = self._chance.choice(attempts).pid
                self._kill(pid, "attempt", self._tasks_of({pid}))

    def _tasks_of(self, pids: set[int]) -> tuple[str, ...]:
        with self._ledger.lock:
            return tuple(
                task for task, seen in self._ledger.seen.items() if seen and seen[-1][1] in pids
            )

    def _kill(self, pid: int, what: str, tasks: tuple[str, ...]) -> None:
        at = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            with self._lock:
                self.kills.append(Kill(at, what, tasks))


def is_attempt(pid: int) -> bool:
    """Whether a process is an attempt's, and not another's that has its number by now."""
    try:
        return b"penstock.inside.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def moments(kills, ledger, calls, committed, finished) -> Counter:
    """What those tasks were doing that were hit: the most telling of each kill.

    Args:
        kills: what was killed.
        ledger: the calls.
        calls: how many model calls a task makes.
        committed: task name → times of its commits.
        finished: task name → when it ended.
    """
    return Counter(_moment(kill, ledger, calls, committed, finished) for kill in kills)


def _moment(kill, ledger, calls, committed, finished) -> str:
    seen = set()
    for task in kill.tasks:
        if finished[task] <= kill.at:
            continue
        marks = [(when, "commit") for when in committed[task]]
        for number in range(1, calls + 1):
            call = f"task {task} call {number}"
            marks += [(when, "asked") for when in ledger.asked[call]]
            marks += [(when, "answered") for when in ledger.answered[call]]
        past = [mark for mark in marks if mark[0] <= kill.at]
        if past:
            seen.add(max(past)[1])
    for kind, said in (
        ("answered", "between an answer and its commit"),
        ("asked", "during a model call"),
        ("commit", "between steps"),
    ):
        if kind in seen:
            return said
    return "with nothing under way"


def recoveries(kills, ledger, finished) -> list[float]:
    """Seconds from each kill of a server to the work of each of its tasks elsewhere."""
    found = []
    for kill in kills:
        if kill.what != "server":
            continue
        for task in kill.tasks:
            after = [at for at, _ in ledger.seen[task] if at > kill.at]
            if not after or finished[task] <= kill.at:
                continue
            again = min(after)
            # Another kill on the way makes it another story.
            if not any(kill.at < one.at < again and task in one.tasks for one in kills):
                found.append(again - kill.at)
    return sorted(found)
