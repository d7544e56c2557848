"""Limits with real agents: only the task that breaks one ends, and it says which and whose."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from test_runtime import World
from zygote_harness import is_alive

from penstock.actions.agents import AgentActions
from penstock.actions.signing import SigningActions
from penstock.domain.access import SYSTEM
from penstock.domain.releases import Isolation
from penstock.drivers.signing.files import FileKeys
from penstock.runtime import procfs
from penstock.store import deployments, environments, events, logs, steps
from rollout_world import ADA, AGENT, ENVIRONMENT, release
from waiting import wait_until

CODE = """
import ctypes, os, re, signal, sys, threading, time
from pathlib import Path
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
    if what == "large step":
        return step("large", lambda: "x" * given["count"])
    if what == "files":
        return len([open("/dev/null") for _ in range(given["count"])])
    if what == "allocate":
        held = [bytearray(1 << 20) for _ in range(given["count"])]
        return len(held)
    if what == "bomb":
        for _ in range(11):  # 2,048 processes, and no more, whatever the limits do
            try:
                os.fork()
            except OSError:
                pass
        time.sleep(100)
    if what == "hogs":
        for _ in range(6):
            if not os.fork():
                held = [bytearray(1 << 20) for _ in range(100)]
                time.sleep(100)
        time.sleep(100)
    if what == "burners":
        for _ in range(2):
            if not os.fork():
                break
        while True:
            pass
    if what == "deaf":
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        threading.Thread(target=re.match, args=("(a*)*b", "a" * 64)).start()
        re.match("(a*)*b", "a" * 64)
    if what == "prints":
        print("x" * given["count"])
    if what == "flood":
        while True:
            os.write(1, b"x" * 65536)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "escape":
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.setsid()
                Path(folder, f"escaped-{given['then']}").write_text(str(os.getpid()))
                time.sleep(100)
            os._exit(0)
        while not Path(folder, f"escaped-{given['then']}").exists():
            time.sleep(0.01)
        if given["then"] == "hang":
            time.sleep(100)
        if given["then"] == "die":
            os.kill(os.getpid(), 9)
    if what == "neighbour":
        for number in range(25):
            step(f"s{number}", lambda: number)
            time.sleep(0.05)
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


async def test_a_task_that_prints_too_much_and_ends_well_says_so(world):
    await world.worker(output_bytes=1000)
    task = await world.ends("prints", count=2000)
    assert task.outcome == "ok"
    lines = await world.store.read(lambda tx: logs.of_task(tx, task_id=task.id))
    assert lines[-1].text == "[1001 characters more were dropped: the limit is reached]\n"


async def test_the_result_of_a_step_is_limited_as_that_of_a_task(world):
    await world.worker(output_bytes=1000)
    task = await world.ends("large step", 1, count=2000)
    assert (task.state, task.outcome, task.steps, task.epoch) == ("failed", "output", 0, 1)
    assert limit_of(task) == {"limit": "output", "limit_value": 1000, "used": 2002, "scope": "task"}
    assert (task.error["type"], task.error["message"].rpartition(": ")[2]) == (
        "OutputTooLarge",
        "the result of step large#1",
    )
    assert (await world.ends("large step", 2, count=900)).outcome == "ok"


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


RUNAWAYS = {
    "bomb": ("processes", {"limit_value": 24}),
    "hogs": ("memory", {"limit_value": 256 << 20}),
    "burners": ("cpu", {"limit_value": 1.0}),
    "deaf": ("timeout", {"limit_value": 1.0}),
    "flood": ("timeout", {"limit_value": 1.0}),
    "segfault": ("crash", {}),
}


@pytest.mark.parametrize("groups", [True, False], ids=["cgroups", "watched"])
@pytest.mark.parametrize("what", RUNAWAYS)
async def test_only_the_task_that_goes_too_far_ends(world, what, groups):
    worker = await world.worker(
        processes=24, attempts=1, output_bytes=100_000,
        memory_bytes=(256 << 20) if what == "hogs" else (1 << 30),
        time_seconds=120.0, cpu_seconds=1.0 if what == "burners" else None,
    )  # fmt: skip
    if groups and worker.wardens.cgroups is None:
        pytest.skip("this machine delegates no control groups")
    if not groups:
        worker.wardens.use(None)
    neighbours = [await world.submit("neighbour", number) for number in range(2, 5)]

    async def running():
        return worker.running == len(neighbours)

    await world.until(running)
    outcome, said = RUNAWAYS[what]
    if outcome == "timeout":
        worker._caps = {"time_seconds": 1.0}  # for what begins now
    task = await world.ends(what, 1)
    assert task.outcome == outcome, task.error
    if said:
        assert task.error["limit_value"] == said["limit_value"]
        assert task.error["used"] >= said["limit_value"]
        assert task.error["limit"] == ("time" if outcome == "timeout" else outcome)
    for neighbour in neighbours:
        assert (await world.ended(neighbour)).outcome == "ok"
    (pool,) = worker.zygotes._pools.values()
    # What is left are the zygote's other children: those that the worker knows.
    wait_until(lambda: set(procfs.descendants(pool.zygote.pid)) <= set(worker.pids()))


async def test_what_is_printed_beyond_the_limit_is_counted_and_dropped(world):
    await world.worker(time_seconds=1.0, output_bytes=100_000)
    task = await world.ends("flood")
    lines = await world.store.read(lambda tx: logs.of_task(tx, task.id))
    assert sum(len(line.text) for line in lines if line.stream == "stdout") == 100_000
    assert "characters more were dropped" in lines[-1].text


@pytest.mark.parametrize("groups", [True, False], ids=["cgroups", "watched"])
@pytest.mark.parametrize("then", ["return", "hang", "die"])
async def test_a_process_in_a_session_of_its_own_ends_with_its_attempt(world, then, groups):
    worker = await world.worker(time_seconds=2.0, attempts=1)
    if not groups:
        worker.wardens.use(None)
    task = await world.ends("escape", then=then)
    assert task.outcome == {"return": "ok", "hang": "timeout", "die": "crash"}[then]
    escaped = int((world.folder / f"escaped-{then}").read_text())
    wait_until(lambda: not is_alive(escaped))


async def test_a_limit_holds_while_the_servers_loop_is_blocked(world):
    worker = await world.worker(time_seconds=1.0)
    task = await world.submit("deaf")

    async def running():
        return worker.running and next(iter(worker._attempts.values())).pid

    pid = await world.until(running)
    wait_until(lambda: not is_alive(pid))  # blocks this very loop
    assert (await world.ended(task)).outcome == "timeout"


SHARED = """
import asyncio
from pathlib import Path
from penstock import step

async def agent(given):
    if given["what"] == "block":
        while True:
            pass
    if given["what"] == "wait":
        await asyncio.sleep(100)
    await step("first", note, given["folder"])
    while not Path(given["folder"], "go").exists():
        await asyncio.sleep(0.01)
    return "went on"

async def note(folder):
    with open(Path(folder, "done"), "a") as file:
        file.write("first\\n")
"""


async def test_who_blocks_a_shared_process_loses_it_and_the_others_go_on(world):
    world.write(SHARED)
    worker = await world.worker(Isolation.SHARED, time_seconds=60.0)
    waiting = await world.submit("steps", 1)

    async def journaled():
        return await world.store.read(lambda tx: steps.journal(tx, waiting))

    await world.until(journaled)
    (process,) = worker._shared.values()
    worker._caps = {"time_seconds": 1.0}  # for attempts that begin now
    task = await world.ends("block", 2)
    worker._caps = {}
    assert (task.outcome, task.error["limit"]) == ("timeout", "time")
    await world.until(lambda: _is(not process.alive))
    (world.folder / "go").touch()
    done = await world.ended(waiting)
    assert (done.output, done.losses, done.crashes) == ("went on", 0, 0)
    assert (world.folder / "done").read_text() == "first\n"


async def test_an_attempt_in_a_shared_process_is_cancelled_at_its_limit(world):
    world.write(SHARED)
    worker = await world.worker(Isolation.SHARED, time_seconds=0.5)
    task = await world.ends("wait")
    assert (task.outcome, task.error["limit"]) == ("timeout", "time")
    (process,) = worker._shared.values()
    assert process.alive


IDENTITY = """
import http.client, json, os, subprocess, sys, time
from pathlib import Path

PORT = int(os.environ["PENSTOCK_GATEWAY"].split(":")[2].split("/")[0])
client = http.client.HTTPConnection("127.0.0.1", PORT)  # made once, before there is an attempt

ASK = '''import http.client, os, sys
if sys.argv[2] == "own session":
    os.setsid()
client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
client.request("GET", "/")
print(client.getresponse().read().decode())'''

def ask():
    client.request("GET", "/", headers={"authorization": "Bearer penstock"})
    return client.getresponse().read().decode()

def below(how):
    answer = subprocess.run([sys.executable, "-c", ASK, str(PORT), how], capture_output=True)
    return answer.stdout.decode().strip()

def agent(given):
    seen = [ask()]
    Path(given["folder"], given["what"]).touch()
    while len(list(Path(given["folder"]).glob("of-*"))) < 2:  # both run now
        time.sleep(0.01)
    return [*seen, ask(), below("own group"), below("own session")]
"""


async def test_a_connection_is_that_of_the_attempt_whose_process_holds_it(world):
    world.write(IDENTITY)

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                caller = await worker.callers.identify(*writer.get_extra_info("peername")[:2])
                body = (caller.task_id if caller else "nobody").encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        worker = await world.worker(gateway_url=f"http://127.0.0.1:{port}/gateway")
        one, two = await asyncio.gather(world.ends("of-1", 1), world.ends("of-2", 2))
    assert one.output == [one.id] * 4
    assert two.output == [two.id] * 4


THREADED = """
import threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="leftover").start()

held = bytearray(200 << 20)  # by the release, not by an attempt

def agent(given):
    mine = bytearray(50 << 20)
    time.sleep(0.3)  # long enough to be looked at
    return given["what"]
"""


@pytest.mark.parametrize("mode", ["fork", "spare"])
async def test_status_says_how_attempts_get_their_process_and_why(world, mode):
    if mode == "spare":
        world.write(THREADED)
    await world.store.transact(
        lambda tx: deployments.add(tx, agent=AGENT, environment=ENVIRONMENT, stable=world.digest)
    )
    worker = await world.worker(memory_bytes=100 << 20)
    assert (await world.ends("work")).outcome == "ok"  # what the release holds is not counted
    status = await AgentActions(world.store, worker.zygotes.describe).status(ADA, AGENT)
    start = status.deployments[0].starts[world.digest]
    assert start.mode == mode
    if mode == "fork":
        assert start.why is None
    else:
        assert "1 threads running: leftover" in start.why


async def _is(value):
    return value


async def _events(world, task_id):
    return await world.store.read(lambda tx: events.after(tx, task_id=task_id, after=0, limit=100))
