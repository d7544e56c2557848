"""Two equal prompts through the real system: how often is one rolled back?

Forty short runs, each with a seed of its own for customers and simulated model: a server starts, a
release whose prompt says the same as the stable one's is rolled out as a canary, some hundred real
sessions come, and the run ends. A rollback is a false alarm.

    python benchmarks/equal_prompts.py [--runs 40] [--sessions 400]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from penstock.cli.demo import example
from penstock.cli.demo_server import DemoServer
from penstock.cli.demo_traffic import Customers
from penstock.cli.projects import packed
from penstock.client import AsyncClient

KEY = "psk_" + "e" * 64
MOST_ROLLBACKS = 5
LATENCY = 0.1
CLIENTS = 32
WARM_UP = 120
ROLLED_BACK = ("rolling_back", "rolled_back")


async def releases(place: Path, project: Path) -> tuple[str, list[str]]:
    """The agent's name, and two releases whose prompts differ in what no model sees."""
    async with (
        DemoServer(place / "home", seed=0, latency=LATENCY, key=KEY) as server,
        AsyncClient(server.url, KEY) as client,
    ):
        prompt = project / "prompts" / "system.prompt"
        text = prompt.read_text(encoding="utf-8")
        digests = []
        agent = ""
        for name in ("one", "other"):
            prompt.write_text(text.replace("description:", f"note: the {name}\ndescription:", 1))
            cut = await client.cut_release(packed(project), message=name)
            agent = cut["release"]["agent"]
            digests.append(cut["release"]["digest"])
        await client.deploy(agent, ref=digests[0])
        return agent, digests


async def run(place: Path, agent: str, digests: list[str], *, seed: int, sessions: int) -> Any:
    """One rollout of an equal release, ended after ``sessions`` sessions; as the API has it."""
    async with (
        DemoServer(place / "home", seed=seed, latency=LATENCY, key=KEY) as server,
        AsyncClient(server.url, KEY) as client,
    ):
        customers = Customers(client, agent, seed=seed, count=CLIENTS)
        await customers.drive(asyncio.Event(), sessions=WARM_UP)
        stable = (await client.agent(agent))["deployments"][0]["stable"]["digest"]
        candidate = next(digest for digest in digests if digest != stable)
        deployed = await client.deploy(agent, ref=candidate, strategy="canary")
        rollout_id = deployed["rollout"]["id"]
        await customers.drive(asyncio.Event(), sessions=sessions)
        view = await client.rollout(rollout_id)
        while view["lag"] and view["rollout"]["ended_us"] is None:
            await asyncio.sleep(0.2)
            view = await client.rollout(rollout_id)
        if view["rollout"]["ended_us"] is None:
            await client.change_rollout(agent, "abort")
        return view


async def main(runs: int, sessions: int) -> int:
    """Every run; the exit status."""
    begun = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="penstock-equal-"))
    try:
        project = place / "project"
        shutil.copytree(example(), project)
        agent, digests = await releases(place, project)
        rolled_back = 0
        for seed in range(1, runs + 1):
            view = await run(place, agent, digests, seed=seed, sessions=sessions)
            phase = view["rollout"]["phase"]
            rolled_back += phase in ROLLED_BACK
            counts = view["assigned"]
            print(
                f"seed {seed:3}: {phase:12} {counts['candidate']:4} candidate"
                f" {counts['stable']:4} stable   rolled back so far: {rolled_back}",
                flush=True,
            )
            if phase in ROLLED_BACK:
                print(f"          {view['explanation'][-2]}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    ok = rolled_back <= MOST_ROLLBACKS
    print(
        f"\n{rolled_back} of {runs} rollouts of an equal prompt were rolled back"
        f" (at most {MOST_ROLLBACKS} of 40 wanted: {'met' if ok else 'NOT met'}),"
        f" {sessions} sessions each, {time.monotonic() - begun:.0f} s"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--sessions", type=int, default=400)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.runs, arguments.sessions)))
