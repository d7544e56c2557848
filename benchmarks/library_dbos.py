"""The measured half of ``library.py`` on DBOS, in its fastest mode: threads."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS  # of its own environment

URL, CONCURRENCY, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


@DBOS.step()
def noop(given: int) -> int:
    """A step that does nothing."""
    return given


@DBOS.workflow()
def workflow(given: int) -> int:
    """Three steps."""
    return noop(noop(noop(given)))


def customer(until: float) -> int:
    """Workflows one after the other."""
    done = 0
    while time.perf_counter() < until:
        workflow(done)
        done += 1
    return done


def together(pool: ThreadPoolExecutor, seconds: float) -> tuple[int, float]:
    """Workflows that ended, and how long it took."""
    begun = time.perf_counter()
    done = list(pool.map(customer, [begun + seconds] * CONCURRENCY))
    return sum(done), time.perf_counter() - begun


if __name__ == "__main__":
    DBOS(config={"name": "bench", "system_database_url": URL, "log_level": "ERROR"})
    DBOS.launch()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        together(pool, 2.0)
        print("warm", flush=True)
        sys.stdin.readline()
        print("done {} {:.3f}".format(*together(pool, SECONDS)), flush=True)
        sys.stdin.readline()
    DBOS.destroy()
