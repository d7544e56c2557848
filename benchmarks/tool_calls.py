"""What one journaled tool call costs in CPU, here and in the agent's process.

    .venv/bin/python benchmarks/tool_calls.py [postgresql://…]

Calls that run side by side share commits; the database's own CPU is not in the figures.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import penstock  # noqa: E402 - as above
from penstock.domain.releases import Limits  # noqa: E402 - as above
from penstock.domain.tasks import Claim, ResourceClass  # noqa: E402 - as above
from penstock.rules.limits import Terms  # noqa: E402 - as above
from penstock.runtime.journals import Journal  # noqa: E402 - as above
from penstock.runtime.tool_calls import ToolCalls  # noqa: E402 - as above
from penstock.store import Store, claims, sessions, tasks  # noqa: E402 - as above
from rollout_world import AGENT, ENVIRONMENT, release  # noqa: E402 - beside the tests
from supervising import Records  # noqa: E402 - as above

CALLS = 2000
SIDE_BY_SIDE = 16


async def claimed(store: Store, name: str) -> Claim:
    """A running task."""
    digest = (await release(store, name)).digest

    async def work(tx):  # noqa: ANN001, ANN202 - a unit of work
        await sessions.add(
            tx, session_id=f"ses_{name}", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        await tasks.add(
            tx, task_id=f"task_{name}", session_id=f"ses_{name}", agent=AGENT,
            environment=ENVIRONMENT, release=digest, given={},
        )  # fmt: skip
        return await claims.claim(tx, worker_id="w1", limit=9)

    (claim,) = await store.transact(work)
    return claim


async def supervisor(store: Store, *, retry: str, effect: str) -> float:
    """Microseconds of CPU of this process for one call."""
    claim = await claimed(store, f"{retry}-{time.time_ns()}")
    calls = ToolCalls(
        Journal(store, claim, Terms.of(Limits(), {}, ResourceClass.STANDARD)), epoch=1, answers={}
    )
    begin = {
        "op": "tool.begin", "tool": "look", "effect": effect, "retry": retry, "scope": "",
        "arguments": {"number": 1},
    }  # fmt: skip

    async def one(number: int) -> None:
        said = await calls.answer({**begin, "request": f"{number:064}"}, [])
        end = {"op": "tool.end", "call": said.header["call"], "state": "done", "encoding": "json"}
        await calls.answer(end, [b'"delivered"'])

    began = time.process_time()
    for first in range(0, CALLS, SIDE_BY_SIDE):
        await asyncio.gather(*map(one, range(first, first + SIDE_BY_SIDE)))
    return (time.process_time() - began) / CALLS * 1e6


def inside() -> float:
    """Microseconds of CPU in the agent's process for one call, its frames left out."""

    @penstock.tool(effect="read", retry="safe")
    def look(number: int) -> str:
        return f"order {number} is delivered"

    def work() -> None:
        for number in range(CALLS):
            look(number)

    records = Records()
    began = time.process_time()
    records.run(work)
    spent = time.process_time() - began
    return spent / CALLS * 1e6


async def main() -> None:
    """Print the figures."""
    print(f"in the agent's process, with the decisions: {inside():6.0f} µs a call")
    url = sys.argv[1] if len(sys.argv) > 1 else None
    for name, target in (("SQLite", None), ("PostgreSQL", url)):
        if name == "PostgreSQL" and url is None:
            continue
        for retry, effect in (("never", "write"), ("safe", "read")):
            with tempfile.TemporaryDirectory() as home:
                store = Store(home=Path(home), url=target)
                await store.open()
                spent = await supervisor(store, retry=retry, effect=effect)
                await store.close()
            print(f"in the server, {name}, {effect} {retry}: {spent:6.0f} µs a call")


if __name__ == "__main__":
    asyncio.run(main())
