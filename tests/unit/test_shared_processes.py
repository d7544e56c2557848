"""A process that many attempts share is not kept for ever."""

from __future__ import annotations

import asyncio
import os

from penstock.runtime import hosts
from penstock.runtime.hosts import SharedProcess, end_idle


class Quiet:
    """A process that says nothing."""

    def __init__(self):
        self.stdout, self._other = os.pipe()
        self.stderr = os.dup(self.stdout)
        self.ended = asyncio.Event()

    async def receive(self):
        await self.ended.wait()
        return []

    def kill(self):
        self.ended.set()

    def close(self):
        if self._other >= 0:
            os.close(self._other)
            self._other = -1


async def test_a_shared_process_ends_once_it_has_had_nothing_to_do_for_long(monkeypatch):
    child = Quiet()
    process = SharedProcess(child)
    kept = {("release", "production"): process}
    await end_idle(kept)
    monkeypatch.setattr(hosts, "IDLE_SECONDS", -1.0)
    host = process.attempt()
    monkeypatch.setattr(process, "_used", 0.0)
    assert process.idle_seconds == 0.0  # an attempt is there, whatever it does
    host.close()
    assert process.idle_seconds < 60.0
    assert (kept, child.ended.is_set()) == ({("release", "production"): process}, False)
    await end_idle(kept)
    assert (kept, child.ended.is_set(), process.alive) == ({}, True, False)
