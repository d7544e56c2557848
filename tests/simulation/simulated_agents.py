"""Agents that are coroutines in processes of their own, and the ledger of what they have done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field

from penstock.domain.errors import Unavailable

_numbers = itertools.count(1000)


@dataclass
class Ledger:
    """What agents did, seen from outside of the system: (time, task, epoch, step)."""

    begun: list = field(default_factory=list)
    ended: list = field(default_factory=list)


class Died(BaseException):
    """The agent's process ends, whatever it was doing."""


class SimulatedHost:
    """The process of one attempt; it speaks the frames of a real one."""

    alone = True

    def __init__(self, world, server):
        self.pid = next(_numbers)
        self._world = world
        self._loop = world.loop
        self._who = f"agent {self.pid}"
        self._status = None  # exit status, once it has ended
        self._frames = []
        self._heard = asyncio.Event()
        self._inbox = asyncio.Queue()
        self._server = server
        server.hosts.add(self)
        context = self._loop.context(self._who)
        self._task = self._loop.create_task(self._live(), context=context)

    # ------------------------------------------------------------ as the server sees it

    async def send(self, header, blobs=()):
        self._world.network(self._inbox.put_nowait, header)

    async def receive(self):
        while not self._frames:
            if self._status is not None:
                return []
            self._heard.clear()
            await self._heard.wait()
        frames, self._frames = self._frames, []
        return frames

    def kill(self):
        self.end(-9)

    async def status(self, seconds):
        return self._status

    def watch(self, output):
        pass

    def close(self):
        pass

    def end(self, status):
        """The process is no more."""
        if self._status is None:
            self._status = status
            self._loop.kill(self._who)
            self._server.hosts.discard(self)
            self._heard.set()

    # ------------------------------------------------------------ as the agent lives

    async def _live(self):
        with contextlib.suppress(Died):
            await Agent(self._world, self, await self._inbox.get(), self._inbox).run()
        self._world.network(self.end, -9 if self._world.chance.random() < 0.1 else 0)

    def say(self, header):
        """A frame to the supervisor."""

        def arrive():
            self._frames.append((header, []))
            self._heard.set()

        self._world.network(arrive)


class Agent:
    """A function of steps, as a task's input describes it."""

    def __init__(self, world, host, order, inbox):
        self._world, self._host, self._order, self._inbox = world, host, order, inbox
        self._chance = world.chance
        self._task, self._epoch = order["task"], order["epoch"]
        self._calls = itertools.count(1)

    async def run(self):
        given = self._order["input"]
        journal = {done["key"]: done["output"] for done in self._order["steps"]}
        outputs = []
        for number in range(given["steps"]):
            key = f"s{number}#1"
            if key in journal:
                await self._call("step.replayed", key=key)
                outputs.append(journal[key])
                continue
            outputs.append(await self._step(key, number, given))
        if given.get("asks") and "person" not in (self._order.get("answers") or {}):
            self._finish(
                ok=True, output=None, waits=[{"id": "person", "kind": "interrupt", "value": 1}]
            )
            return
        if given.get("raises"):
            self._finish(ok=False, error={"type": "ValueError", "message": "no", "traceback": ""})
            return
        self._finish(ok=True, output=outputs)

    async def _step(self, key, number, given):
        moment = (self._task, self._epoch, key)
        self._world.ledger.begun.append((self._world.loop.time(), *moment))
        if given.get("takes_server_down") and number == 0:
            self._world.crash(self._host._server.who)
            raise Died
        await asyncio.sleep(self._seconds(given))
        for _ in range(self._chance.randrange(3)):
            self._host.say({"t": "event", "a": 1, "kind": "progress", "data": {"key": key}})
        self._world.ledger.ended.append((self._world.loop.time(), *moment))
        if given.get("dies_in") == number and self._epoch <= given["dies"]:
            raise Died  # between an answer and its commit
        output = {"key": key, "epoch": self._epoch}
        await self._call("step.commit", key=key, output=output)
        return output

    def _seconds(self, given):
        if self._chance.random() < given.get("long", 0.05):
            return self._chance.uniform(3, 14)
        return self._chance.uniform(0.005, 0.4)

    async def _call(self, op, **fields):
        number = next(self._calls)
        self._host.say({"t": "call", "a": 1, "id": number, "op": op, **fields})
        while True:
            reply = await self._inbox.get()
            if reply.get("id") == number:
                break
        if not reply["ok"]:
            if reply["error"]["type"] == "stale":
                raise Died
            self._world.note("refused", self._task, reply["error"]["message"])
            raise Died

    def _finish(self, **fields):
        self._host.say({"t": "finish", "a": 1, **fields})


class Policies:
    """Stands where the processes of releases do: every release has the same policy."""

    def __init__(self, policy):
        self._manifest = policy

    async def manifest(self, release):
        return self._manifest

    async def keep(self, wanted):
        pass

    async def warm(self, release, names):
        pass

    async def fork(self, *_, **__):
        raise Unavailable("there are no processes here")

    async def stop(self):
        pass

    def pids(self):
        return []
