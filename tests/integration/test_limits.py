"""Limits with real agents: only the task that breaks one ends, and it says which and whose."""

from __future__ import annotations

import asyncio

import pytest
from test_runtime import World

from penstock.actions.signing import SigningActions
from penstock.domain.access import SYSTEM
from penstock.drivers.signing.files import FileKeys
from penstock.store import environments, events
from rollout_world import AGENT, ENVIRONMENT, release

CODE = """
import os, sys, time
from penstock import step

def agent(given):
    what, folder = given["what"], given.get("folder")
    if what == "steps":
        try:
            return [step(f"s{number}", lambda n=number: n * 10) for number in range(9)]
        except Exception:
            if given.get("stubborn"):
                while True:
                    time.sleep(0.01)
            raise
    if what == "files":
        return len([open("/dev/null") for _ in range(given["count"])])
    if what == "allocate":
        held = [bytearray(1 << 20) for _ in range(given["count"])]
        return len(held)
    return {"did": what}
"""

GRAPH = """
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    what: str
    folder: str
    count: int

def more(state):
    return {"count": state.get("count", 0) + 1}

builder = StateGraph(State)
builder.add_node("more", more)
builder.add_edge(START, "more")
builder.add_conditional_edges("more", lambda state: "more" if state["count"] < 50 else END)
agent = builder.compile()
"""


class LimitsWorld(World):
    """The world of the runtime's tests, with agents that go too far."""

    def write(self, code):
        (self.folder / "project" / "app.py").write_text(code)

    async def ends(self, what, number=1, **more):
        return await self.ended(await self.submit(what, number, **more))


@pytest.fixture
async def world(tmp_path):
    found = LimitsWorld(tmp_path)
    found.write(CODE)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


def limit_of(task):
    return {name: task.error[name] for name in ("limit", "limit_value", "used", "scope")}


@pytest.mark.parametrize("stubborn", [False, True])
async def test_the_step_over_the_limit_is_refused_and_the_others_are_kept(world, stubborn):
    await world.worker(steps=3)
    task = await world.ends("steps", stubborn=stubborn)
    assert (task.state, task.outcome, task.steps) == ("failed", "steps", 3)
    assert limit_of(task) == {"limit": "steps", "limit_value": 3, "used": 3, "scope": "task"}
    assert task.output == {
        "steps": [{"key": f"s{number}#1", "output": number * 10} for number in range(3)]
    }


async def test_a_graph_at_its_limit_of_steps_leaves_its_last_state(world):
    world.write(GRAPH)
    await world.worker(steps=5)
    task = await world.ends("count")
    assert (task.state, task.outcome, task.steps) == ("failed", "steps", 5)
    assert task.output["what"] == "count"
    assert 2 <= task.output["count"] <= 5


async def test_open_files_end_the_task_by_their_name(world):
    await world.worker(open_files=40)
    task = await world.ends("files", count=100)
    assert (task.state, task.outcome) == ("failed", "files")
    assert limit_of(task) == {"limit": "files", "limit_value": 40, "used": 40, "scope": "task"}
    assert 'File "app.py"' in task.error["traceback"]
    assert (await world.ends("files", 2, count=10)).outcome == "ok"


async def test_a_task_that_ran_out_of_memory_is_tried_once_more_with_more(world):
    mib = 1 << 20
    await world.worker(memory_bytes=128 * mib, memory_large_bytes=512 * mib)
    small, large, huge = await asyncio.gather(
        world.ends("allocate", 1, count=10),
        world.ends("allocate", 2, count=300),
        world.ends("allocate", 3, count=2000),
    )
    assert (small.epoch, small.resource_class, small.output) == (1, "standard", 10)
    assert (large.epoch, large.resource_class, large.output) == (2, "large", 300)
    assert (large.crashes, large.losses) == (0, 0)
    (requeued,) = [e for e in await _events(world, large.id) if e.kind == "requeued"]
    assert (requeued.data["outcome"], requeued.data["resource_class"]) == ("memory", "large")
    assert requeued.data["error"]["limit_value"] == 128 * mib
    assert (huge.state, huge.outcome, huge.epoch) == ("failed", "memory", 2)
    assert huge.error["limit_value"] == 512 * mib


async def test_whose_limit_it_was_is_said(world):
    worker = await world.worker(steps=4)
    worker._caps = {"steps": 2}
    assert limit_of(await world.ends("steps", 1))["scope"] == "installation"
    worker._caps = {}

    async def overlay(tx):
        seen = await environments.get(tx, AGENT, ENVIRONMENT)
        await environments.change(
            tx, seen, overlay={"policy.limits.steps": "4"}, variables={}, updated_by=SYSTEM.name
        )

    await world.store.transact(overlay)
    task = await world.ends("steps", 2)
    assert limit_of(task) == {
        "limit": "steps",
        "limit_value": 4,
        "used": 4,
        "scope": "environment",
    }


async def _events(world, task_id):
    return await world.store.read(lambda tx: events.after(tx, task_id=task_id, after=0, limit=100))
