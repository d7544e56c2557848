"""Penstock beside ``langgraph dev``: one agent, one machine, one run, the same driver.

A LangGraph graph of three nodes that call no model: what is measured is what it costs to take a
task, run it durably and hand back the answer. Each server is idle when it is measured, and they are
measured in turns. The peer installs itself into ``.bench/langgraph`` on demand.

    python benchmarks/side_by_side.py [--tasks 60] [--seconds 12]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import uv

from side_by_side_servers import AGENT, LangGraphDev, Penstock, Server

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".bench" / "langgraph"
CLIENTS = 16
ROUNDS = 2
WARM_UPS = 10

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


def install_peer() -> Path:
    """The peer's interpreter; installed if it is not there."""
    python = PEER / "bin" / "python"
    peers = (HERE / "peers.txt").read_text(encoding="utf-8")
    complete = PEER / "complete"
    if not complete.exists() or complete.read_text(encoding="utf-8") != peers:
        print("installing langgraph-cli into .bench/langgraph …", flush=True)
        uv_bin = uv.find_uv_bin()
        subprocess.run(
            [uv_bin, "venv", "-q", "--clear", "--python", sys.executable, PEER], check=True
        )
        subprocess.run(
            [uv_bin, "pip", "install", "-q", "--python", python, "-r", HERE / "peers.txt"],
            check=True,
        )
        complete.write_text(peers, encoding="utf-8")
    return python


def cpu_seconds(pid: int) -> float:
    """CPU of a process, of its descendants, and of those of them that have ended."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


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
        before = cpu_seconds(server.pid)
        begun = time.perf_counter()
        figures.tasks += await many(server, client, seconds)
        figures.seconds += time.perf_counter() - begun
        figures.cpu_seconds += cpu_seconds(server.pid) - before


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
    peer = found["langgraph dev"]
    print(f"\n{'':28} {'p50':>9} {'of peer':>8} {'tasks/s':>9} {'x peer':>7} {'CPU/task':>9}")
    for name, figures in found.items():
        print(
            f"{name:28} {figures.p50_ms:6.1f} ms {figures.p50_ms / peer.p50_ms:8.3f}"
            f" {figures.rate:9.1f} {figures.rate / peer.rate:7.1f} {figures.cpu_ms:6.1f} ms"
        )
    print()
    for name, figures in found.items():
        if figures is peer:
            continue
        quick, much = figures.p50_ms / peer.p50_ms <= 1 / 20, figures.rate / peer.rate >= 5
        print(
            f"{name}: p50 at most 1/20 of the peer's: {'met' if quick else 'NOT met'};"
            f" at least 5 times its tasks/s: {'met' if much else 'NOT met'}"
        )


async def main(tasks: int, seconds: float) -> None:
    """Every server in turn, then the table."""
    python = install_peer()
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        place = Path(name)
        servers: list[Server] = [
            Penstock(place / "process", isolation="process"),
            Penstock(place / "shared", isolation="shared"),
            LangGraphDev(place / "peer", python=python),
        ]
        for turn in range(ROUNDS):
            for server in servers:
                print(f"round {turn + 1} of {ROUNDS}: {server.name} …", flush=True)
                async with server:
                    figures = found.setdefault(server.name, Figures())
                    await measure(server, figures, tasks=tasks, seconds=seconds)
    print(
        f"\n{os.cpu_count()} cores, Python {platform.python_version()}, a {AGENT} of three nodes;"
        f" p50 of {tasks * ROUNDS} tasks one after the other, tasks/s of {CLIENTS} clients"
    )
    show(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.tasks, arguments.seconds))
    print("\nOne isolated attempt:", flush=True)
    attempt = [sys.executable, HERE / "attempt_cost.py", "--python", install_peer()]
    sys.exit(subprocess.run([*attempt, "--runs", "20"], check=False).returncode)
