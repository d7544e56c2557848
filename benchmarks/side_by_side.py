"""Penstock beside ``langgraph dev`` and Aegra: one agent, one machine, one run, the same driver.

A LangGraph graph of three nodes that call no model: what is measured is what it costs to take a
task, run it durably and hand back the answer. Each server is idle when it is measured, and they are
measured in turns. CPU is that of the server, its agents, PostgreSQL and Redis. Peers install
themselves below ``.bench`` on demand.

    python scripts/with_services.py -- python benchmarks/side_by_side.py [--tasks 60] [--seconds 12]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from cpu import cpu_seconds
from peers import install
from side_by_side_servers import (
    AGENT,
    Aegra,
    LangGraphDev,
    Penstock,
    PenstockOnPostgres,
    Server,
)

CLIENTS = 16
ROUNDS = 2
WARM_UPS = 5

# of each peer: p50, tasks/s, CPU a task
GOALS = {"langgraph dev": (1 / 20, 5.0, 1.0), "Aegra": (1 / 40, 10.0, 0.2)}

Call = Callable[[httpx2.AsyncClient], Awaitable[None]]


@dataclass
class Figures:
    """What was measured of one server, over all rounds."""

    latencies: list[float] = field(default_factory=list)  # seconds, one client
    tasks: int = 0  # with many clients
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the server and all its processes, with many clients

    @property
    def p50_ms(self) -> float:
        """Median create-and-wait of an idle server."""
        return statistics.median(self.latencies) * 1000

    @property
    def rate(self) -> float:
        """Tasks a second with many clients."""
        return self.tasks / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU of a task."""
        return self.cpu_seconds / self.tasks * 1000


async def measure(server: Server, figures: Figures, *, tasks: int, seconds: float) -> None:
    """One round: one client after the other, then many at once."""
    async with httpx2.AsyncClient(
        base_url=server.url, headers=server.headers, timeout=60, trust_env=False
    ) as client:
        for _ in range(WARM_UPS):
            await server.call(client)
        for _ in range(tasks):
            begun = time.perf_counter()
            await server.call(client)
            figures.latencies.append(time.perf_counter() - begun)
        await many(server, client, 2.0)  # warm at this load, too
        before = spent(server)
        begun = time.perf_counter()
        figures.tasks += await many(server, client, seconds)
        figures.seconds += time.perf_counter() - begun
        figures.cpu_seconds += spent(server) - before


def spent(server: Server) -> float:
    """CPU so far of a server, its agents, its database and its broker."""
    return sum(cpu_seconds(pid) for pid in (server.pid, *server.beside))


async def many(server: Server, client: httpx2.AsyncClient, seconds: float) -> int:
    """Tasks that ended while ``CLIENTS`` clients kept coming."""
    until = time.perf_counter() + seconds
    done = 0

    async def customer() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await server.call(client)
            done += 1

    await asyncio.gather(*(customer() for _ in range(CLIENTS)))
    return done


def show(found: dict[str, Figures]) -> None:
    """The table, and whether the goals were met."""
    head = f"{'':40} {'p50':>9} {'tasks/s':>9} {'CPU/task':>9}"
    print(f"\n{head}")
    for name, figures in found.items():
        print(f"{name:40} {figures.p50_ms:6.1f} ms {figures.rate:9.1f} {figures.cpu_ms:6.1f} ms")
    for peer, (quick, many, cheap) in GOALS.items():
        if peer not in found:
            continue
        theirs = found[peer]
        print(f"\nbeside {peer}: p50 at most 1/{1 / quick:.0f}, tasks/s at least {many:.0f} times,")
        print(f"CPU a task at most {cheap:.1f} times")
        for name, figures in found.items():
            if name in GOALS:
                continue
            rows = (
                (figures.p50_ms / theirs.p50_ms, quick, "p50"),
                (theirs.rate / figures.rate, 1 / many, "tasks/s"),
                (figures.cpu_ms / theirs.cpu_ms, cheap, "CPU"),
            )
            said = "; ".join(
                f"{what} {1 / ratio if what == 'tasks/s' else ratio:.3g}"
                f" {'met' if ratio <= goal else 'NOT met'}"
                for ratio, goal, what in rows
            )
            print(f"  {name:40} {said}")


def servers(place: Path) -> list[Server]:
    """Who is measured; what cannot be installed here is left out and said so."""
    postgres, redis = (
        os.environ.get("PENSTOCK_TEST_POSTGRES"),
        os.environ.get("PENSTOCK_TEST_REDIS"),
    )
    found: list[Server] = [
        Penstock(place / "process", isolation="process"),
        Penstock(place / "shared", isolation="shared"),
    ]
    if postgres:
        found.append(PenstockOnPostgres(place / "pg", isolation="shared", postgres=postgres))
    if python := install("langgraph", pins="peers.txt"):
        found.append(LangGraphDev(place / "peer", python=python))
    if postgres and redis and (python := install("aegra", pins="peers_aegra.txt", python=">=3.12")):
        found.append(Aegra(place / "aegra", python=python, postgres=postgres, redis=redis))
    return found


async def main(tasks: int, seconds: float) -> None:
    """Every server in turn, then the table."""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        measured = servers(Path(name))
        for turn in range(ROUNDS):
            for server in measured:
                print(f"round {turn + 1} of {ROUNDS}: {server.name} …", flush=True)
                async with server:
                    figures = found.setdefault(server.name, Figures())
                    slow = server.name in GOALS  # a second or two a task
                    count = max(5, tasks // 6) if slow else tasks
                    await measure(server, figures, tasks=count, seconds=seconds)
    print(
        f"\n{os.cpu_count()} cores, Python {platform.python_version()}, a {AGENT} of three nodes;"
        f" p50 of tasks one after the other, tasks/s of {CLIENTS} clients; CPU with databases"
    )
    show(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.tasks, arguments.seconds))
