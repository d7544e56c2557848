"""The store: every SQL statement, on SQLite and on PostgreSQL.

The four engines meet here and nowhere else. A noun's statements stand in ``sql/<noun>.sql``; the
module of the same name turns rows into records. It decides nothing: what should happen is the
business of the rules, when it happens that of the engines.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

from penstock.domain.errors import Unavailable
from penstock.domain.tasks import Claim
from penstock.kit.clock import steady_seconds
from penstock.rules.checkpoints import Sealer
from penstock.store.backups import Snapshot
from penstock.store.commits import Commit
from penstock.store.databases import Database, Deliver
from penstock.store.migrate import migrate_postgres, migrate_sqlite
from penstock.store.postgres import PostgresDatabase
from penstock.store.sqlite import SqliteDatabase
from penstock.store.transaction import Line, Row, Transaction, Work
from penstock.store.workflows import Beginning, begin

__all__ = ["Commit", "Line", "Row", "Store", "Transaction", "Work"]

T = TypeVar("T")

_REFUSING_SECONDS = 5.0  # after a refused write, whatever small ones may be taken meanwhile


class Store:
    """The one object through which the engines reach the database."""

    def __init__(
        self,
        *,
        home: Path,
        url: str | None = None,
        database: Callable[[Deliver], Database] | None = None,
    ) -> None:
        """Use PostgreSQL at ``url``, or SQLite in ``home`` when there is no url.

        ``database`` makes another one, whose notifications go to the function it is given.
        """
        # Of this object alone, until the server gives it the installation's secret.
        self.sealer = Sealer(secrets.token_bytes(32))
        self._subscribers: dict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._refused_at: float | None = None
        self._database: Database
        if database is not None:
            self._database = database(self._deliver)
        elif url:
            self._database = PostgresDatabase(url, self._deliver)
        else:
            self._database = SqliteDatabase(home, self._deliver)

    @property
    def embedded(self) -> bool:
        """Whether this process alone owns the database."""
        return isinstance(self._database, SqliteDatabase)

    @property
    def vectors(self) -> str | None:
        """Which extension compares vectors in the database, with its version; None: none does."""
        return self._database.vectors

    @property
    def refusing(self) -> bool:
        """Whether the database has refused a write in the last seconds: its disk may be full."""
        at = self._refused_at
        return at is not None and steady_seconds() - at < _REFUSING_SECONDS

    async def open(self) -> None:
        """Connect and migrate.

        Raises:
            Conflict: the data is newer than this program, or another server owns it.
            Unavailable: the database does not answer.
        """
        if isinstance(self._database, SqliteDatabase):
            await self._database.open(migrate_sqlite)
        elif isinstance(self._database, PostgresDatabase):
            await self._database.open(migrate_postgres)

    async def close(self) -> None:
        """Finish what is queued and disconnect."""
        await self._database.close()

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work and commit it; what it returns is durable."""
        with self._watched():
            return await self._database.transact(work)

    async def commit(self, commit: Commit) -> int:
        """Write what an attempt adds under its fence, and what it returns is durable.

        Commits of several attempts that arrive together share a transaction.

        Returns:
            The task's committed steps.

        Raises:
            Stale: the epoch no longer owns the task; nothing was written.
            Conflict: the step is on record already.
            Unavailable: the database did not answer; the commit may have landed.
        """
        with self._watched():
            return await self._database.commit(commit)

    async def begin(self, beginning: Beginning) -> Claim:
        """Put a workflow on record; those that begin together share a transaction, too.

        Raises:
            Conflict: there is a workflow of this function under this key already.
            Unavailable: the database did not answer; it may be on record.
        """
        if not isinstance(self._database, PostgresDatabase):
            return await self.transact(partial(begin, beginning=beginning))
        with self._watched():
            return await self._database.begin(beginning)

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that only reads, on one snapshot."""
        return await self._database.read(work)

    async def glance(self, work: Work[T]) -> T:
        """Run a unit of work that is *one* statement, which reads: it needs no transaction."""
        return await self._database.glance(work)

    def line(self) -> Line:
        """A way to the database that does not lead through this event loop, for one thread."""
        return self._database.line()

    async def scrub(self) -> bool:
        """Let the bytes of deleted rows go from the disk too, if the database can; whether it did.

        It cannot while somebody reads a snapshot.
        """
        return await self._database.scrub()

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Everything as it is at one moment, for as long as the ``async with`` lasts."""
        return self._database.snapshot()

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call ``callback(payload)`` on every notification; returns how to stop it."""
        self._subscribers[channel].append(callback)
        return lambda: self._subscribers[channel].remove(callback)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._refused_at = steady_seconds()
            raise

    def _deliver(self, channel: str, payload: str) -> None:
        for callback in tuple(self._subscribers[channel]):
            callback(payload)
