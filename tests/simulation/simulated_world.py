"""Servers, agents, clients and faults, all drawn from one seed, in one thread and no time at all.

What runs is the real thing: workers, heartbeats, reapers, attempts, journals, rules, and every SQL
statement. What is simulated is around it: time, the network, processes, and what goes wrong.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

from histories import TERMINAL, History, violations
from simulated_agents import Ledger, Policies, SimulatedHost
from simulated_database import START_US, ServersDatabase, SharedDatabase, Transaction, schema
from virtual_time import WHO, VirtualLoop

from penstock.actions.sessions import Judges
from penstock.actions.submissions import Submission
from penstock.actions.tasks import TaskActions
from penstock.domain.errors import PenstockError, Unavailable
from penstock.domain.releases import Limits, Policy
from penstock.kit import ids, presence
from penstock.runtime.workers import Worker
from penstock.store import Store, deployments
from penstock.store.queries import load
from rollout_world import ADA, AGENT, ENVIRONMENT, release

FAULTS_SECONDS = 15.0
RECOVERY_SECONDS = 120.0  # tasks of up to a minute of work, in sessions of several, behind faults
SETTLES_SECONDS = 4.0  # in which a worker hears that it was buried, and registers again
ATTEMPTS = 3
POLICY = SimpleNamespace(
    policy=Policy(limits=Limits(time_seconds=40.0, attempts=ATTEMPTS, memory_bytes=None)),
    sources=(),
)
OPERATION_FAULTS = (
    "crash before", "crash inside", "crash after", "answer lost", "request lost", "late", "slow",
)  # fmt: skip
TIMED_FAULTS = (
    "crash", "crash", "pause", "replace", "replace", "cut", "refuse", "stall", "drain", "hurry",
    "jump",
)  # fmt: skip


class Quiet:
    """Stands where a loop is that has nothing to do here."""

    def start(self):
        pass

    def wake(self):
        pass

    async def stop(self):
        pass


class InTask:
    """Runs what would run in a thread as a task: nothing in here blocks."""

    def __init__(self, _name, aside):
        self._aside = aside
        self._stopping = asyncio.Event()
        self._task = None

    def start(self):
        self._task = asyncio.get_running_loop().create_task(self._aside(self._stopping))

    async def stop(self):
        self._stopping.set()
        if self._task is not None:
            await self._task


class Server:
    """A server process: crashed, paused, drained and started again under the same name."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.times = 0
        self.who = name
        self.hosts = set()
        self.worker = None
        self.up = False
        self.comes_back = True

    def boot(self):
        if not self.comes_back:
            return
        self.times += 1
        self.who = f"{self.name}.{self.times}"
        self.up = True
        context = self.world.loop.context(self.who)
        self.world.loop.create_task(self._live(context), context=context)

    async def _live(self, context):
        world = self.world
        store = Store(
            home=Path("/nowhere"),
            database=lambda deliver: ServersDatabase(
                world.database, self.who, self.name, context, deliver
            ),
        )
        await store.open()
        worker = Worker(
            store, builder=None, gateway_url="http://127.0.0.1:1/gateway", concurrency=4,
            scratch=Path("/nowhere"), chance=random.Random(world.chance.random()),
            clock=world.loop.time, beside=InTask,
        )  # fmt: skip
        worker.zygotes = Policies(POLICY)
        worker._loops.remove(worker._readiness)
        worker._readiness = worker._evaluations = Quiet()
        worker._host = self._host
        worker._reaper._is_gone = world.is_gone
        try:
            await worker.start()
        except Unavailable:
            self.end()  # as a real server would: whoever started it starts it again
            return
        self.worker = worker

    async def _host(self, *_, **__):
        await asyncio.sleep(self.world.chance.uniform(0.001, 0.03))
        return SimulatedHost(self.world, self)

    def end(self):
        """The process is gone, with everything it has started; it comes back."""
        if not self.up:
            return
        self.up = False
        self.worker = None
        self.world.loop.kill(self.who)
        self.world.database.listeners.pop(self.who, None)
        for host in tuple(self.hosts):
            host.end(-9)
        if self.comes_back:
            self.world.later(self.world.chance.uniform(0.1, 4.0), self.boot)

    async def leave(self, *, hurried):
        """Drain, and end."""
        worker = self.worker
        draining = asyncio.ensure_future(worker.drain(self.world.chance.uniform(1.0, 8.0)))
        if hurried:
            await asyncio.sleep(self.world.chance.uniform(0.0, 1.0))
            await worker.hurry()
        await draining
        self.world.history.line(f"{self.who} has drained")
        self.end()


class World:
    """One history, from its seed to its end."""

    def __init__(self, seed, *, queries=None, plan=None, calm=False, only=None):
        """A world of its own.

        Args:
            seed: decides everything that is not decided here.
            queries: the SQL, where a test has changed some of it.
            plan: which operation goes wrong how.
            calm: whether nothing else goes wrong, and little happens.
            only: the faults that may strike, at any time and not at an operation.
        """
        self.seed = seed
        self.chance = random.Random(seed)
        self.loop = VirtualLoop(self.chance)
        self.history = History(self.loop)
        self.ledger = Ledger()
        self.acknowledged = {}  # key → task
        self.poisonous = set()  # tasks that kill what runs them
        self.refused = []
        self.healed_at = FAULTS_SECONDS
        self._neutral = self.loop.context("world")
        self._pending = 0  # tasks that clients have not had acknowledged
        self.database = SharedDatabase(
            self.loop, self.chance, content(), queries=queries, watch=self._watch
        )
        self.database.crash = self.crash
        self.database.happened = lambda fault, who, work: self.history.line(
            f"{who:8} *** {fault}: {getattr(work, 'func', work).__qualname__}"
        )
        self.database.begun, self.database.committed = self.history.begin, self.history.commit
        self.servers = [Server(self, f"s{n}") for n in range(1, 3 if calm else 4)]
        if not calm and self.chance.random() < 0.5:
            self.servers.pop()
        self._one_machine = self.chance.random() < 0.25
        self.zombies = []  # servers that others have taken the place of
        self._plan, self._calm, self._only = plan or {}, calm, only

    def _watch(self, connection):
        self.history.watch(connection)
        connection.create_function("owner_of", 2, self.history.owner)

    # ------------------------------------------------------------ what others need

    def later(self, seconds, function, *arguments):
        self.loop.call_later(seconds, function, *arguments, context=self._neutral)

    def network(self, function, *arguments):
        """Between two processes of one machine."""
        # Always the same: frames of one channel do not overtake each other.
        self.later(0.0002, function, *arguments)

    def is_gone(self, who):
        """Whether a neighbour sees that a process has ended."""
        return self._one_machine and not self.loop.lives(who)

    def note(self, what, task, message):
        self.refused.append(f"{what}: {task}: {message}")

    def crash(self, who):
        for server in (*self.servers, *self.zombies):
            if server.who == who and server.up:
                self.history.line(f"{who:8} *** crashes")
                server.end()

    # ------------------------------------------------------------ its course

    def run(self) -> list[str]:
        """Let everything happen; what is wrong with it."""
        known = ids.os, ids.time, presence.of_this_process
        presence.of_this_process = WHO.get
        ids.os = SimpleNamespace(urandom=self.chance.randbytes)
        ids.time = SimpleNamespace(time_ns=lambda: int((START_US + self.loop.time() * 1e6) * 1000))
        try:
            self.loop.run_until_complete(self._run())
            found = violations(self)
            self.loop.run_until_complete(self._clean_up())
            return found
        finally:
            self.loop.close()
            ids.os, ids.time, presence.of_this_process = known

    async def _run(self):
        for server in self.servers:
            self.later(self.chance.uniform(0, 0.5), server.boot)
        self._draw_faults()
        for number in range(2 if self._calm else self.chance.randint(2, 4)):
            self._customer(number)
        deadline = FAULTS_SECONDS + RECOVERY_SECONDS
        while self.loop.time() < deadline and not self._all_over():
            await asyncio.sleep(0.25)
        if not self._calm:
            await asyncio.sleep(SETTLES_SECONDS)

    def _all_over(self):
        states = self.history.states
        return (
            not self._pending
            and all(states.get(task) in TERMINAL for task in self.acknowledged.values())
            and (self._calm or self.loop.time() > self.healed_at)
        )

    async def _clean_up(self):
        self.database.closed = True
        self.loop.revive()
        mine = asyncio.current_task()
        for _ in range(20):
            left = [task for task in asyncio.all_tasks() if task is not mine]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=30)

    # ------------------------------------------------------------ clients

    def _customer(self, number):
        who = f"client {number}"
        context = self.loop.context(who)
        store = Store(
            home=Path("/nowhere"),
            database=lambda deliver: ServersDatabase(self.database, who, who, context, deliver),
        )
        actions = TaskActions(store, Quiet(), Judges())
        tasks = [self._draw_task() for _ in range(2 if self._calm else self.chance.randint(1, 4))]
        self._pending += len(tasks)
        talking = self.loop.create_task(self._talk(number, actions, tasks), context=context)
        talking.add_done_callback(self._talked)

    async def _talk(self, number, actions, given):
        """One conversation: a session, and messages that may come before the last is answered."""
        session = None
        for index, task in enumerate(given):
            last = index == len(given) - 1
            await asyncio.sleep(0.05 if self._calm else self.chance.uniform(0, 3))
            key = f"c{number}-{index}"
            asked = Submission(
                agent=AGENT, input=task, session_id=session, idempotency_key=key, close_session=last
            )  # fmt: skip
            found = await self._insist(partial(actions.create, ADA, asked))
            session = found.session_id
            self.acknowledged[key] = found.id
            self._pending -= 1
            if task.get("poison"):
                self.poisonous.add(found.id)
            self.history.line(f"client {number}: {found.id} is acknowledged")
            if task.get("asks"):
                self.loop.create_task(self._answer(actions, found.id))
            if task.get("cancel") is not None:
                self.loop.create_task(self._cancel(actions, found.id, task["cancel"]))

    def _talked(self, talking):
        if not talking.cancelled() and (error := talking.exception()) is not None:
            self.refused.append(f"a client was told: {error!r}")

    async def _insist(self, ask):
        while True:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(12):
                    return await ask()
            await asyncio.sleep(0.3)

    async def _answer(self, actions, task):
        """A person, who looks in now and then."""
        while self.history.states.get(task) not in TERMINAL:
            await asyncio.sleep(self.chance.uniform(0.2, 2))
            if self.history.states.get(task) == "waiting":
                with suppress(PenstockError, TimeoutError):
                    async with asyncio.timeout(12):
                        await actions.resume(ADA, task, answer="yes")

    async def _cancel(self, actions, task, after):
        await asyncio.sleep(after)
        await self._insist(lambda: actions.cancel(ADA, task))
        self.history.line(f"{task} is asked to stop")

    def _draw_task(self):
        chance = self.chance
        if self._calm:
            return {"steps": 2, "long": 0}
        task = {"steps": chance.randint(0, 5), "long": chance.choice((0, 0.05, 0.2))}
        kind = chance.random()
        if kind < 0.15:
            task["cancel"] = chance.uniform(0, 6)
        elif kind < 0.25 and task["steps"]:
            task |= {"dies_in": chance.randrange(task["steps"]), "dies": 1}
        elif kind < 0.3 and task["steps"]:
            task |= {"dies_in": 0, "dies": 99, "poison": True}
        elif kind < 0.35:
            task["raises"] = True
        elif kind < 0.45:
            task["asks"] = True
        return task

    # ------------------------------------------------------------ what goes wrong

    def _draw_faults(self):
        self.database.planned = dict(self._plan)
        if self._calm:
            return
        chance = self.chance
        self.later(FAULTS_SECONDS, self._heal)
        if self._only is not None:
            for _ in range(2):
                self.later(
                    chance.uniform(1, FAULTS_SECONDS), self._strike, chance.choice(self._only)
                )
            return
        self.database.restless = chance.random() < 0.5
        for _ in range(chance.choice((0, 1, 2, 3, 6))):
            self.database.planned[chance.randint(5, 400)] = chance.choice(OPERATION_FAULTS)
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            self.later(
                chance.uniform(0.3, FAULTS_SECONDS), self._strike, chance.choice(TIMED_FAULTS)
            )

    def _strike(self, fault):
        chance = self.chance
        server = chance.choice(self.servers)
        seconds = chance.choice((chance.uniform(0.1, 5), chance.uniform(5, 14)))
        self.history.line(f"{server.who:8} *** {fault}, {seconds:.1f} s")
        if fault != "crash":
            self.healed_at = max(self.healed_at, self.loop.time() + seconds)
        strikes = {
            "crash": lambda: self.crash(server.who),
            "pause": lambda: self._pause(server, seconds),
            "replace": lambda: self._replace(server, seconds),
            "cut": lambda: self.database.cut(server.name, seconds),
            "refuse": lambda: self.database.go_away(seconds, fault),
            "stall": lambda: self.database.go_away(seconds, fault),
            "drain": lambda: self._drain(server, hurried=False),
            "hurry": lambda: self._drain(server, hurried=True),
            "jump": self._jump,
        }
        strikes[fault]()

    def _pause(self, server, seconds):
        self.loop.pause(server.who)
        self.later(seconds, self.loop.resume, server.who)

    def _drain(self, server, *, hurried):
        if server.up and server.worker is not None:
            context = self.loop.context(server.who)
            self.loop.create_task(server.leave(hurried=hurried), context=context)

    def _jump(self):
        self.database.clock_offset += self.chance.choice((-4.0, 5.0, 30.0, 3600.0))

    def _replace(self, server, seconds):
        """Start a server of the same name elsewhere, and let the old one go on later."""
        if not server.up:
            return
        new = Server(self, server.name)
        new.times = server.times
        self.servers[self.servers.index(server)] = new
        new.boot()
        self.zombies.append(server)
        server.comes_back = False
        self._pause(server, seconds)
        self.later(seconds + 10, server.end)
        self.healed_at = max(self.healed_at, self.loop.time() + seconds + 10)

    def _heal(self):
        self.database.planned.clear()
        self.database.restless = False


@cache
def content() -> bytes:
    """A database with an agent that is deployed."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(schema())
    connection.row_factory = sqlite3.Row
    connection.create_function("now_us", 0, lambda: START_US)

    class Direct:
        async def transact(self, work):
            return await work(Transaction(connection, load("sqlite")))

    async def fill():
        digest = (await release(Direct(), "one")).digest
        await Direct().transact(
            lambda tx: deployments.add(tx, agent=AGENT, environment=ENVIRONMENT, stable=digest)
        )

    filling = fill()
    with suppress(StopIteration):
        filling.send(None)
    return connection.serialize()


def story(world, found) -> str:
    """What went wrong, how to see it again, and everything that happened."""
    return "\n".join(
        [
            f"seed {world.seed}:",
            *(f"  {line}" for line in found),
            f"Again: PENSTOCK_SIMULATION_SEED={world.seed} pytest tests/simulation",
            "",
            *world.history.lines,
        ]
    )
