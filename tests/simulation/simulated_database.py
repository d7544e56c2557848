"""One database that many simulated servers share: the real SQL, on a clock that a test moves.

It is SQLite in memory, but servers see it as they see PostgreSQL: over a network that is slow,
loses answers, cuts off one of them, or all.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from functools import cache, partial

from virtual_time import WHO

from penstock.domain.errors import Conflict, Unavailable
from penstock.store.commits import apply
from penstock.store.migrate import migrate_sqlite
from penstock.store.queries import load

START_US = 1_700_000_000_000_000
PATIENCE_SECONDS = 10.0  # after which a driver gives a silent connection up


class Rollback(Exception):
    """The server died in the middle of a transaction."""


class Transaction:
    """What a unit of work sees; it may die after so many statements."""

    def __init__(self, connection, queries, dies_after=None):
        self._connection = connection
        self._queries = queries
        self._left = dies_after
        self.notices = []

    async def fetch_all(self, query, /, **parameters):
        return self._run(query, parameters).fetchall()

    async def fetch_one(self, query, /, **parameters):
        cursor = self._run(query, parameters)
        row = cursor.fetchone()
        cursor.close()
        return row

    async def execute(self, query, /, **parameters):
        return self._run(query, parameters).rowcount

    async def execute_many(self, query, rows):
        for parameters in rows:
            self._run(query, parameters)

    def notify(self, channel, payload):
        self.notices.append((channel, payload))

    def _run(self, query, parameters):
        if self._left is not None:
            if self._left == 0:
                raise Rollback
            self._left -= 1
        return self._connection.execute(self._queries[query].sql, parameters)


@cache
def schema() -> bytes:
    """An empty, migrated database."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.create_function("now_us", 0, lambda: START_US)
    migrate_sqlite(connection)
    return connection.serialize()


class SharedDatabase:
    """The data, the network before it, and what goes wrong with both."""

    def __init__(self, loop, chance, content, *, queries=None, watch=None):
        self.loop = loop
        self.chance = chance
        self.clock_offset = 0.0  # what somebody has moved the database's clock by
        self.listeners = {}  # server → (context, deliver)
        self.operations = 0
        self.planned = {}  # number of an operation → what goes wrong with it
        self.happened = lambda *_: None  # told of a fault that has struck
        self.crash = lambda _who: None
        self.restless = False  # notifications are lost and come twice
        self.begun = lambda: None  # told of every transaction that begins, and of its commit
        self.committed = lambda _who: None
        self.closed = False
        self._away = None  # (until, how): nobody reaches it
        self._cut = {}  # server → until when it does not reach it
        self._neutral = loop.context("network")
        self._queries = queries or load("sqlite")
        self.connection = connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.deserialize(content)
        connection.row_factory = sqlite3.Row
        connection.execute("pragma foreign_keys = on")
        connection.create_function("now_us", 0, self.now_us)
        if watch is not None:
            watch(connection)

    def now_us(self):
        return START_US + int((self.loop.time() + self.clock_offset) * 1e6)

    def go_away(self, seconds, how):
        """Answer nobody: ``refuse`` at once, or ``stall`` until it is back."""
        self._away = (self.loop.time() + seconds, how)

    def cut(self, server, seconds):
        """Let one server's words, or the answers to them, get lost."""
        self._cut[server] = self.loop.time() + seconds

    # ------------------------------------------------------------ the network

    async def ask(self, who, server, work, *, write):
        """One operation of a server, on its way there and back."""
        if self.closed:
            raise asyncio.CancelledError
        future = self.loop.create_future()
        self.operations += 1
        fault = self.planned.get(self.operations) if write or self.chance.random() < 0.5 else None
        self._later(self._travel(), self._arrive, who, server, work, write, fault, future)
        return await future

    def _travel(self):
        return self.chance.uniform(0.0003, 0.004)

    def _later(self, seconds, function, *arguments):
        self.loop.call_later(seconds, function, *arguments, context=self._neutral)

    def _arrive(self, who, server, work, write, fault, future):
        now = self.loop.time()
        if self._away is not None and now < self._away[0]:
            until, how = self._away
            if how == "stall":
                self._later(until - now, self._arrive, who, server, work, write, fault, future)
            else:
                self._answer(future, None, Unavailable("the database is away"))
            return
        if now < self._cut.get(server, 0.0):
            # The request is lost, or only the answer to it is.
            if self.chance.random() < 0.3:
                self._execute(who, work, write)
            self._later(PATIENCE_SECONDS, self._answer, future, None, Unavailable("cut off"))
            return
        self._carry_out(who, work, write, fault, future)

    def _carry_out(self, who, work, write, fault, future):
        if fault is not None:
            self.happened(fault, who, work)
        match fault:
            case "crash before":
                self.crash(who)
            case "crash inside":
                self._execute(who, work, write, dies_after=self.chance.randrange(4))
                self.crash(who)
            case "crash after":
                self._execute(who, work, write)
                self.crash(who)
            case "answer lost":
                self._execute(who, work, write)
                self._answer(future, None, Unavailable("the connection was lost"))
            case "request lost":
                self._answer(future, None, Unavailable("the connection was lost"))
            case "late":  # the connection is gone, and its commit comes after all
                self._later(self.chance.uniform(0.05, 4.0), self._execute, who, work, write)
                self._answer(future, None, Unavailable("the connection was lost"))
            case "slow":
                self._later(
                    self.chance.uniform(0.5, 5.0), self._carry_out, who, work, write, None, future
                )
            case _:
                self._answer(future, *self._execute(who, work, write))

    def _answer(self, future, result, error):
        self._later(self._travel(), self._settle, future, result, error)

    def _settle(self, future, result, error):
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    # ------------------------------------------------------------ the data

    def _execute(self, who, work, write, *, dies_after=None):
        """One transaction, at one moment; its result and its error."""
        tx = Transaction(self.connection, self._queries, dies_after)
        token = WHO.set(who)
        self.begun()
        try:
            self.connection.execute("begin immediate" if write else "begin")
            coroutine = work(tx)
            try:
                coroutine.send(None)
            except StopIteration as stop:
                self.connection.execute("commit" if write else "rollback")
                if write:
                    self.committed(who)
                    self._notify(tx.notices)
                return stop.value, None
            coroutine.close()
            return None, RuntimeError("a unit of work may await only its transaction")
        except Rollback:
            return None, None
        except sqlite3.IntegrityError as error:
            return None, Conflict(f"the database refused the write: {error}")
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the work
            return None, error
        finally:
            if self.connection.in_transaction:
                self.connection.execute("rollback")
            WHO.reset(token)

    def _notify(self, notices):
        for channel, payload in dict.fromkeys(notices):
            for context, deliver in tuple(self.listeners.values()):
                times = 1
                if self.restless:
                    times = self.chance.choice((0, 1, 1, 2))
                for _ in range(times):
                    self.loop.call_later(self._travel(), deliver, channel, payload, context=context)

    def rows(self, sql, *parameters):
        """Look at the data from outside."""
        return self.connection.execute(sql, parameters).fetchall()


class ServersDatabase:
    """A server's way to the database: what a Store stands on."""

    def __init__(self, shared, who, server, context, deliver):
        self._shared, self._who, self._server = shared, who, server
        shared.listeners[who] = (context, deliver)

    async def transact(self, work):
        return await self._shared.ask(self._who, self._server, work, write=True)

    async def read(self, work):
        return await self._shared.ask(self._who, self._server, work, write=False)

    async def commit(self, commit):
        return await self.transact(partial(apply, commit=commit))

    async def glance(self, work):
        return await self.read(work)

    def line(self):
        return self

    def snapshot(self):
        raise NotImplementedError("no simulated server makes a backup")

    async def close(self):
        with contextlib.suppress(KeyError):
            del self._shared.listeners[self._who]
