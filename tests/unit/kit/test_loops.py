"""A loop survives a bad round, wakes early, and stops whatever it is doing."""

from __future__ import annotations

import asyncio
import contextlib

from penstock.kit.loops import Loop


async def test_a_bad_round_does_not_end_the_loop():
    rounds = []

    async def round_():
        rounds.append(1)
        if len(rounds) == 1:
            raise ValueError("on purpose")

    loop = Loop("test", round_, seconds=0.001)
    loop.start()
    async with asyncio.timeout(5):
        while len(rounds) < 3:
            await asyncio.sleep(0)
    await loop.stop()


async def test_it_stops_at_the_very_moment_it_is_woken():
    async def round_():
        await asyncio.sleep(0)

    for _ in range(50):
        loop = Loop("test", round_, seconds=60)
        loop.start()
        for _ in range(3):
            await asyncio.sleep(0)
        loop.wake()
        async with asyncio.timeout(5):
            await loop.stop()


async def test_a_round_that_swallows_its_cancellation_is_the_last():
    rounds = []

    async def round_():
        rounds.append(1)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    loop = Loop("test", round_, seconds=0.001)
    loop.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await loop.stop()
    assert len(rounds) == 1
