"""The measured half of ``library.py`` on Penstock: warm up, wait for a word, run, say how many."""

from __future__ import annotations

import asyncio
import sys
import time

from penstock import step
from penstock.library import Workflows


async def noop(given: int) -> int:
    """A step that does nothing."""
    return given


async def workflow(given: int) -> int:
    """Three steps."""
    first = await step("one", noop, given)
    second = await step("two", noop, first)
    return await step("three", noop, second)


async def main(url: str, concurrency: int, seconds: float) -> None:
    """One measurement."""
    async with Workflows(url) as workflows:

        async def customer(until: float) -> int:
            done = 0
            while time.perf_counter() < until:
                await workflows.run(workflow, done)
                done += 1
            return done

        async def together(seconds: float) -> tuple[int, float]:
            begun = time.perf_counter()
            done = await asyncio.gather(*(customer(begun + seconds) for _ in range(concurrency)))
            return sum(done), time.perf_counter() - begun

        await together(2.0)
        print("warm", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        done, took = await together(seconds)
        print(f"done {done} {took:.3f}", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
