"""A worker with real processes: every way an attempt can end, and what becomes of its task."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial

import pytest
from zygote_harness import SOURCE, is_alive

from penstock.actions.signing import SigningActions
from penstock.domain.errors import BuildFailed
from penstock.domain.releases import FileEntry, Isolation, Limits, Manifest, Policy
from penstock.domain.tasks import TERMINAL
from penstock.drivers.builders import Launch
from penstock.drivers.signing.files import FileKeys
from penstock.runtime.workers import Worker
from penstock.store import Store, claims, endings, logs, sessions, steps, tasks
from rollout_world import AGENT, ENVIRONMENT, release
from waiting import wait_until

CODE = """
import os, sys, threading, time
from pathlib import Path
from penstock import step

def agent(given):
    what, folder = given["what"], given.get("folder")
    print("about to", what)
    if what == "raise":
        raise ValueError("a bad day")
    if what == "exit":
        sys.exit(3)
    if what == "hang":
        time.sleep(1000)
    if what == "allocate":
        return len(bytearray(2 << 30)) and "".join(["x" * (1 << 20) for _ in range(2048)])
    if what == "die":
        os.kill(os.getpid(), 9)
    if what == "nonsense":
        import penstock.inside.context as context
        context.current()._channel.send({"t": "call", "a": 1, "nothing": "known"})
        time.sleep(1000)
    if what == "large":
        return "x" * 200_000
    if what == "leak":
        threading.Thread(target=time.sleep, args=(1000,)).start()
    if what == "steps":
        seen = step("first", note, folder, "first")
        step("second", note, folder, "second")
        while not Path(folder, "go").exists():
            time.sleep(0.01)
        return [seen, step("third", note, folder, "third")]
    return {"did": what}

def note(folder, name):
    with open(Path(folder, "done"), "a") as file:
        file.write(name + "\\n")
    return name

def good(record):
    return 1.0 if record["tasks"][0]["outcome"] == "ok" else 0.25
"""


class FolderBuilder:
    """Hands out a directory as it is."""

    def __init__(self, folder, policy, tools=()):
        self._folder, self._policy, self._tools = folder, policy, tools
        self.failures = 0  # how often it cannot do what it is asked

    async def build(self, archive, *, ci=False):
        raise NotImplementedError

    async def prepare(self, found, fetch):
        if self.failures:
            self.failures -= 1
            raise BuildFailed("the packages cannot be installed here")
        file = FileEntry(path="x", digest="0" * 64)
        manifest = Manifest(
            agent=AGENT, entrypoint="app:agent", python="3.11", code=(), prompts=(),
            tool_files=(), tools=self._tools, models={}, lock=file, graph={}, state_schema="",
            policy=self._policy, components={},
        )  # fmt: skip
        return Launch(
            release=found.digest, manifest=manifest, python=sys.executable,
            project=str(self._folder), paths=(), vendor="/nonexistent", inside=SOURCE, prompts={},
        )  # fmt: skip


class World:
    """A store, a release, and workers on them."""

    def __init__(self, tmp_path):
        self.folder = tmp_path
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "app.py").write_text(CODE)
        self.store = Store(home=tmp_path / "home")
        self.workers = []
        self.tools = ()  # that the release pins

    async def worker(
        self,
        isolation=Isolation.PROCESS,
        *,
        failures=0,
        gateway_url="http://127.0.0.1:9/gateway",
        **limits,
    ):
        policy = Policy(
            limits=Limits(**{"time_seconds": 30.0, "attempts": 2, **limits}),
            isolation=isolation,
            evaluators={"completion": "app:good"},
        )
        builder = FolderBuilder(self.folder / "project", policy, self.tools)
        builder.failures = failures
        found = Worker(
            self.store, builder=builder,
            gateway_url=gateway_url, concurrency=8,
            scratch=self.folder / "scratch",
        )  # fmt: skip
        await found.start()
        self.workers.append(found)
        return found

    async def submit(self, what, number=1, **more):
        digest = self.digest

        async def work(tx):
            await sessions.add(
                tx, session_id=f"ses_{number}", agent=AGENT, environment=ENVIRONMENT,
                release=digest, user_id=None, metadata={}, rollout_id=None, arm=None, judge=digest,
            )  # fmt: skip
            return await tasks.add(
                tx, task_id=f"task_{number}", session_id=f"ses_{number}", agent=AGENT,
                environment=ENVIRONMENT, release=digest, close_session=True,
                given={"what": what, "folder": str(self.folder), **more},
            )  # fmt: skip

        return (await self.store.transact(work)).id

    async def task(self, task_id):
        return await self.store.read(lambda tx: tasks.get(tx, task_id))

    async def until(self, condition, seconds=30):
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                await asyncio.sleep(0.02)
            return found

    async def ended(self, task_id):
        async def over():
            task = await self.task(task_id)
            return task if task.state in TERMINAL else None

        return await self.until(over)

    async def printed(self, task_id):
        lines = await self.store.read(lambda tx: logs.of_task(tx, task_id))
        return "".join(line.text for line in lines if line.stream == "stdout")


@pytest.fixture
async def world(tmp_path):
    found = World(tmp_path)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


ENDINGS = {
    "work": ("completed", "ok", None),
    "leak": ("completed", "ok", None),
    "raise": ("failed", "error", "a bad day"),
    "exit": ("failed", "exit", "sys.exit(3)"),
    "hang": ("failed", "timeout", "its limit"),
    "allocate": ("failed", "memory", "its limit"),
    "large": ("failed", "output", "the limit is"),
    "die": ("dead_lettered", "crash", "SIGKILL"),
}


@pytest.mark.parametrize("what", ENDINGS)
async def test_an_attempt_ends_as_it_should(world, what):
    limits = {"time_seconds": 1.0} if what == "hang" else {}
    await world.worker(memory_bytes=256 << 20, output_bytes=100_000, **limits)
    task = await world.ended(await world.submit(what))
    state, outcome, said = ENDINGS[what]
    assert (task.state, task.outcome) == (state, outcome)
    if said is None:
        assert task.output == {"did": what}
    else:
        assert said in task.error["message"]
    assert f"about to {what}\n" in await world.printed(task.id)


async def test_an_error_names_the_authors_line(world):
    await world.worker()
    task = await world.ended(await world.submit("raise"))
    assert 'File "app.py", line 10' in task.error["traceback"]
    assert "penstock" not in task.error["traceback"]


@pytest.mark.parametrize("isolation", Isolation)
async def test_many_tasks_run_side_by_side(world, isolation):
    await world.worker(isolation)
    submitted = [await world.submit("work", number) for number in range(30)]
    done = [await world.ended(task) for task in submitted]
    assert {task.state for task in done} == {"completed"}


async def test_a_closed_session_is_judged(world):
    await world.worker()
    await world.ended(await world.submit("raise"))

    async def score():
        return (await world.store.read(lambda tx: sessions.get(tx, "ses_1"))).score

    assert await world.until(score) == 0.25


async def test_a_cancelled_task_ends_with_its_process(world):
    worker = await world.worker()
    task = await world.submit("hang")

    async def running():
        return "about to" in await world.printed(task)

    await world.until(running)
    await world.store.transact(lambda tx: endings.cancel(tx, task))
    assert (await world.ended(task)).state == "cancelled"
    assert worker.running == 0 or await world.until(lambda: _idle(worker))


async def _idle(worker):
    return worker.running == 0


async def at_second_step(world, task):
    async def journaled():
        return len(await world.store.read(lambda tx: steps.journal(tx, task))) == 2

    await world.until(journaled)


async def test_a_drained_task_goes_on_elsewhere_without_repeating_a_step(world):
    first = await world.worker()
    task = await world.submit("steps")
    await at_second_step(world, task)
    await first.drain(1.0)
    assert first.pids() == []
    world.workers.remove(first)
    assert (await world.task(task)).state == "queued"
    (world.folder / "go").touch()
    await world.worker()
    done = await world.ended(task)
    assert (done.output, done.crashes, done.losses) == (["first", "third"], 0, 0)
    assert (world.folder / "done").read_text() == "first\nsecond\nthird\n"


@pytest.mark.parametrize("victim", ["zygote", "attempt"])
async def test_a_killed_process_costs_no_task_and_repeats_no_step(world, victim):
    worker = await world.worker()
    task = await world.submit("steps")
    await at_second_step(world, task)
    (attempt,) = worker._attempts.values()
    pids = [pid for pid in worker.pids() if pid != attempt.pid]
    os.kill(attempt.pid if victim == "attempt" else pids[0], signal.SIGKILL)
    (world.folder / "go").touch()
    done = await world.ended(task)
    assert done.output == ["first", "third"]
    assert (world.folder / "done").read_text() == "first\nsecond\nthird\n"
    assert done.crashes == (1 if victim == "attempt" else 0)


async def test_a_claim_that_landed_without_our_knowing_is_given_back(world):
    worker = await world.worker()
    await worker._claims.stop()
    task = await world.submit("work")
    # The commit landed, and its answer was lost on the way back.
    await world.store.transact(partial(claims.claim, worker_id=worker.id, limit=1))
    await worker._look_for_unknown()
    assert (await world.task(task)).state == "queued"
    worker._claims.start()
    assert (await world.ended(task)).losses == 1


async def test_a_machine_that_cannot_prepare_a_release_costs_no_attempt(world):
    await world.worker(attempts=1, failures=4)
    task = await world.ended(await world.submit("work"))
    assert (task.state, task.crashes) == ("completed", 0)


async def test_a_process_that_talks_nonsense_ends_its_task(world):
    await world.worker()
    done = await world.ended(await world.submit("nonsense"))
    assert (done.state, done.outcome) == ("dead_lettered", "crash")


async def test_nothing_outlives_a_drained_worker(world):
    worker = await world.worker()
    await world.submit("hang")

    async def forked():
        return len(worker.pids()) >= 2

    await world.until(forked)
    pids = worker.pids()
    await worker.drain(0.2)
    world.workers.remove(worker)
    wait_until(lambda: not any(map(is_alive, pids)))


async def test_the_tasks_of_a_server_that_was_killed_go_on_at_the_next_start(world):
    first = await world.worker()
    task = await world.submit("steps")
    await at_second_step(world, task)
    # What kill -9 leaves behind: a running task, and a worker whose lease still lives.
    for loop in (*first._loops, first._evaluations._loop, first._reaper, first._heart):
        await loop.stop()
    await first.zygotes.stop()
    world.workers.remove(first)
    for running in tuple(first._running):
        running.cancel()
    await world.store.transact(partial(_run_again, task))
    (world.folder / "go").touch()
    await world.worker()
    done = await world.ended(task)
    assert done.output == ["first", "third"]
    assert (world.folder / "done").read_text() == "first\nsecond\nthird\n"


async def _run_again(task, tx):
    """As if the killed worker's last words had never been written."""
    found = await tasks.get(tx, task)
    if found.state == "queued":
        await claims.claim(tx, worker_id="wrk_gone", limit=1)
