"""What a search by vector costs, one by one and by sqlite-vec: CPU, and time of one search.

    .venv/bin/python benchmarks/memory_vectors.py [10000 100000]

The vectors have 768 numbers; all lie below the namespace that is searched, for ten memories. CPU is
that of the whole process, the database's with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from array import array
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from comparing import by_sqlite_vec, one_by_one  # noqa: E402 - beside the tests
from penstock.domain.memories import MemoryScope, NewMemory  # noqa: E402 - as above
from penstock.runtime.memories import Memories  # noqa: E402 - as above
from penstock.store import Store, Transaction, memories  # noqa: E402 - as above

DIMENSIONS = 768
SEARCHES = 5
BATCH = 500
SCOPE = MemoryScope(agent="agent", environment="production")
SEARCH = {"op": "search", "namespace": ["facts"], "vector": True, "limit": 10}


class Reader:
    """What a search needs of an attempt's journal."""

    def __init__(self, store: Store) -> None:
        self.read = store.read
        self.compares_vectors = store.vectors is not None


def some() -> bytes:
    """A vector in a random direction."""
    return array("f", (random.gauss(0, 1) for _ in range(DIMENSIONS))).tobytes()


async def fill(store: Store, count: int) -> None:
    """Remember ``count`` things with a vector each."""
    for start in range(0, count, BATCH):

        async def work(tx: Transaction, start: int = start) -> None:
            for number in range(start, min(start + BATCH, count)):
                new = NewMemory(
                    namespace=("facts",), key=str(number), value={"n": number}, vectors=(some(),)
                )
                await memories.put(tx, SCOPE, new)

        await store.transact(work)


async def measure(home: Path, way: str, count: int) -> None:
    """Print what one search costs."""
    store = Store(home=home)
    await store.open()
    searching = []
    for _ in range(SEARCHES + 1):
        query = some()
        began, cpu = time.perf_counter(), time.process_time()
        [found] = await Memories(Reader(store), SCOPE).batch([SEARCH], [query])
        searching.append((time.process_time() - cpu, time.perf_counter() - began))
        assert len(found) == 10
    cpu, took = (statistics.median(one) for one in zip(*searching[1:], strict=True))
    by = store.vectors or "Penstock, of the 10,000 written last"
    print(f"{count:>7} vectors, {way:<10}: {cpu:6.3f} s CPU, {took:6.3f} s  ({by})")
    await store.close()


async def main() -> None:
    """Measure each number of vectors, each way."""
    random.seed(1)
    for count in [int(one) for one in sys.argv[1:]] or [10_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            with pytest.MonkeyPatch.context() as patch:
                one_by_one(patch)
                store = Store(home=home)
                await store.open()
                await fill(store, count)
                await store.close()
                await measure(home, "one by one", count)
            with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
                stack.enter_context(by_sqlite_vec(patch))
                await measure(home, "sqlite-vec", count)


asyncio.run(main())
