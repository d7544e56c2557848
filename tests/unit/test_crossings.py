"""What crosses from one event loop into another comes back: results, errors, cancellations."""

from __future__ import annotations

import asyncio
import threading

import pytest

from penstock.kit.crossings import Crossing
from penstock.kit.threads import LoopThread


@pytest.fixture
async def there():
    ready = asyncio.Event()
    here = asyncio.get_running_loop()
    found = []

    async def live(stopping):
        found.append(Crossing(asyncio.get_running_loop()))
        here.call_soon_threadsafe(ready.set)
        await stopping.wait()

    thread = LoopThread("there", live)
    thread.start()
    await ready.wait()
    yield found[0]
    await thread.stop()


async def test_many_callers_get_each_its_own_answer(there):
    async def twice(n):
        await asyncio.sleep(0)
        return 2 * n, threading.get_ident()

    found = await asyncio.gather(*(there.call(twice(n)) for n in range(200)))
    assert [n for n, _ in found] == [2 * n for n in range(200)]
    assert {ident for _, ident in found}.isdisjoint({threading.get_ident()})


async def test_an_error_is_its_callers(there):
    async def bad():
        raise LookupError("no")

    async def good():
        return 1

    found = await asyncio.gather(
        there.call(good()), there.call(bad()), there.call(good()), return_exceptions=True
    )
    assert [type(one) for one in found] == [int, LookupError, int]


async def test_who_is_cancelled_is_cancelled_there(there):
    begun, over = threading.Event(), threading.Event()

    async def hang():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()

    waiting = asyncio.create_task(there.call(hang()))
    assert await asyncio.to_thread(begun.wait, 20)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(over.wait, 20)


async def test_a_thread_without_a_loop_waits(there):
    async def three():
        return 3

    assert await asyncio.to_thread(lambda: there.hold(three())) == 3
