"""Memory over many tasks, and many tasks that wait at once.

First: tasks of an agent in shared isolation, each in a session that is deleted afterwards; the
server's memory after the warm-up and at the end. Then: tasks that all wait for a slow model (the
agent sleeps as long as one would take), on one worker, in each kind of isolation.

    python benchmarks/soak.py [--tasks 10000] [--waiting 500] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import psutil

from side_by_side_servers import Penstock

CLIENTS = 16
WARM_UP = 0.2  # of the tasks
GOAL = 0.10  # by how much the server may grow after the warm-up
GATHERED = 500  # sessions that are deleted together

SLOW = """
import asyncio


async def agent(seconds):
    await asyncio.sleep(seconds)
    return "answered"
"""


class Waiting(Penstock):
    """A server of an agent that waits for as long as it is told."""

    def __init__(self, place: Path, *, isolation: str, concurrency: int) -> None:
        super().__init__(place, isolation=isolation)
        self.env["PENSTOCK_CONCURRENCY"] = str(concurrency)
        (place / "work.py").write_text(SLOW, encoding="utf-8")
        (place / "requirements.txt").unlink()
        (place / "penstock.yaml").write_text(
            f"agent: bench\nentrypoint: work:agent\nisolation: {isolation}\n", encoding="utf-8"
        )


def megabytes(pid: int, *, agents: bool = False) -> float:
    """Resident memory of the server, or the private memory of what it has started."""
    server = psutil.Process(pid)
    if not agents:
        return float(server.memory_info().rss) / (1 << 20)
    total = 0.0
    for process in server.children(recursive=True):
        try:
            total += float(process.memory_full_info().uss) / (1 << 20)
        except psutil.NoSuchProcess:
            continue
    return total


async def soak(client: httpx2.AsyncClient, pid: int, tasks: int) -> tuple[float, float]:
    """The server's memory after the warm-up, and at the end."""
    left = tasks
    sessions: list[str] = []
    after_warm_up = 0.0

    async def customer() -> None:
        nonlocal left, after_warm_up
        while left > 0:
            left -= 1
            if left == int(tasks * (1 - WARM_UP)):
                after_warm_up = megabytes(pid)
            sessions.append(await one(client, 0))
            if len(sessions) >= GATHERED:
                mine = sessions[:]
                sessions.clear()
                for session in mine:
                    gone = await client.delete(f"/api/v1/sessions/{session}")
                    gone.raise_for_status()

    await asyncio.gather(*(customer() for _ in range(CLIENTS)))
    return after_warm_up, megabytes(pid)


async def one(client: httpx2.AsyncClient, seconds: float) -> str:
    """One task, waited for; its session."""
    body = {"agent": "bench", "input": seconds, "close_session": True}
    response = await client.post("/api/v1/tasks", params={"wait": 600}, json=body)
    task = response.json()
    if response.status_code >= 300 or task.get("state") != "completed":
        raise RuntimeError(f"{response.status_code}: {response.text[:500]}")
    return str(task["session_id"])


async def waiting(server: Waiting, count: int, seconds: float) -> None:
    """Many tasks that wait at once: what they take, and how much later than asked they end."""
    limits = httpx2.Limits(max_connections=count + 10)
    async with httpx2.AsyncClient(
        base_url=server.url, headers=server.headers, timeout=600, trust_env=False, limits=limits
    ) as client:
        await one(client, 0)
        before, agents_before = megabytes(server.pid), megabytes(server.pid, agents=True)
        late: list[float] = []

        async def customer() -> None:
            begun = time.perf_counter()
            await one(client, seconds)
            late.append(time.perf_counter() - begun - seconds)

        everybody = asyncio.gather(*(customer() for _ in range(count)))
        await asyncio.sleep(seconds * 0.7)
        body = (await client.get("/api/v1/tasks", params={"state": "running", "limit": 500})).json()
        server_mb, agents_mb = megabytes(server.pid), megabytes(server.pid, agents=True)
        await everybody
    late.sort()
    print(
        f"{server.name}: {len(body['items'])} of {count} running at 0.7 of the wait;"
        f" server {server_mb:.0f} MB ({server_mb - before:+.0f}),"
        f" agents {agents_mb:.0f} MB private ({agents_mb - agents_before:+.0f});"
        f" later than the model: p50 {statistics.median(late):.2f} s,"
        f" p95 {late[int(len(late) * 0.95) - 1]:.2f} s",
        flush=True,
    )


async def main(tasks: int, count: int, seconds: float) -> int:
    """The soak, then those who wait."""
    met = True
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as name:
        place = Path(name)
        async with Waiting(place / "soak", isolation="shared", concurrency=64) as server:
            async with httpx2.AsyncClient(
                base_url=server.url, headers=server.headers, timeout=120, trust_env=False
            ) as client:
                begun = time.perf_counter()
                before, after = await soak(client, server.pid, tasks)
            met = after <= before * (1 + GOAL)
            print(
                f"{tasks} tasks with deletes in {time.perf_counter() - begun:.0f} s: server"
                f" {before:.0f} MB after the warm-up, {after:.0f} MB at the end"
                f" ({(after / before - 1) * 100:+.1f} %), goal <= +{GOAL:.0%}:"
                f" {'met' if met else 'NOT met'}",
                flush=True,
            )
        for isolation in ("shared", "process"):
            async with Waiting(place / isolation, isolation=isolation, concurrency=count) as server:
                await waiting(server, count, seconds)
    return 0 if met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--waiting", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.tasks, arguments.waiting, arguments.seconds)))
