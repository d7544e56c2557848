"""SQLite: one writer thread with group commit, reader threads beside it.

Only one process opens the file; a lock file says which. The writer takes whatever units of work
are queued at that moment into one commit, each in a savepoint of its own: under load many share
one fsync, and a lone write never waits for company.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from penstock.domain.errors import Conflict, Unavailable
from penstock.kit.clock import BootClock, Clock
from penstock.store.commits import Commit, apply
from penstock.store.queries import Query, load
from penstock.store.transaction import Line, Row, Value, Values, Work
from penstock.store.vectors import load_sqlite_vec

T = TypeVar("T")

_GROUP = 256  # units of work that may share a commit
_READERS = 2
_SCRUB_MS = 100
_CHUNK_ROWS = 1000
_CHUNK_BYTES = 1 << 20

_PRAGMAS = """
pragma journal_mode = wal;
pragma synchronous = full;
pragma foreign_keys = on;
pragma secure_delete = on;
pragma temp_store = memory;
pragma cache_size = -65536;
pragma busy_timeout = 5000;
"""


class _Transaction:
    """The transaction that a unit of work sees; its awaits never suspend."""

    def __init__(self, connection: sqlite3.Connection, queries: dict[str, Query]) -> None:
        self._connection = connection
        self._queries = queries
        self.notices: list[tuple[str, str]] = []

    async def fetch_all(self, query: str, /, **parameters: Values) -> Sequence[Row]:
        return cast("Sequence[Row]", self._run(query, parameters).fetchall())

    async def fetch_one(self, query: str, /, **parameters: Values) -> Row | None:
        cursor = self._run(query, parameters)
        row = cursor.fetchone()
        cursor.close()
        return cast("Row | None", row)

    async def execute(self, query: str, /, **parameters: Values) -> int:
        return self._run(query, parameters).rowcount

    async def execute_many(self, query: str, rows: Sequence[Mapping[str, Value]], /) -> None:
        if rows:
            self._connection.executemany(self._queries[query].sql, rows)

    def notify(self, channel: str, payload: str) -> None:
        self.notices.append((channel, payload))

    def _run(self, query: str, parameters: dict[str, Any]) -> sqlite3.Cursor:
        return self._connection.execute(self._queries[query].sql, parameters)


class _Snapshot:
    """The database as it was at one moment, read in a thread of its own."""

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._queries = load("sqlite")

    async def fetch_all(self, query: str, /, **parameters: Values) -> Sequence[Row]:
        def fetch() -> list[Row]:
            return self._connection.execute(self._queries[query].sql, parameters).fetchall()

        return await self._run(fetch)

    async def stream(self, sql: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        cursor = await self._run(lambda: self._connection.execute(sql))
        while chunk := await self._run(lambda: self._chunk(cursor)):
            yield chunk

    @staticmethod
    def _chunk(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
        rows, size = [], 0
        for row in cursor:
            rows.append(tuple(row))
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(rows) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                break
        return rows

    async def _run(self, read: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except sqlite3.Error as error:
            raise Unavailable(f"the database cannot be read: {error}") from error


class _Job:
    """A unit of work on its way to a thread, and the future that waits for it."""

    __slots__ = ("error", "future", "notices", "result", "work")

    def __init__(self, work: Work[Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.notices: list[tuple[str, str]] = []


def _answer(job: _Job) -> None:
    """Tell whoever waits for a unit of work what has become of it; runs on the waiter's loop."""
    if job.future.done():
        return
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)


class _Line:
    """The writer thread answers to any event loop, so that a line is the database itself."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def transact(self, work: Work[T]) -> T:
        return await self._database.transact(work)

    async def close(self) -> None:
        return


class SqliteDatabase:
    """The embedded database of one server process."""

    dialect = "sqlite"

    def __init__(self, home: Path, deliver: Callable[[str, str], None]) -> None:
        """Prepare ``home``; ``deliver`` receives notifications on the event loop."""
        self._path = home / "penstock.sqlite"
        self._lock_path = home / "lock"
        self._deliver = deliver
        self._queries = load("sqlite")
        self._writes: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock_file: int | None = None
        self._clock: Clock = BootClock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.vectors: str | None = None

    # ------------------------------------------------------------ life

    async def open(self, migrate: Callable[[sqlite3.Connection], None]) -> None:
        """Take the directory's lock, bring the schema up to date, start the threads.

        Raises:
            Conflict: another server has the directory open, or its schema is newer.
        """
        self._loop = asyncio.get_running_loop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            writer = self._connect()
            migrate(writer)
            self.vectors = load_sqlite_vec(writer)
            self._clock = BootClock(not_before_us=self._last_time_us(writer))
        except BaseException:
            self._drop_lock()
            raise
        self._start("penstock-writer", self._write_loop, writer)
        for number in range(_READERS):
            reader = self._connect()
            if self.vectors is not None:
                load_sqlite_vec(reader)
            reader.execute("pragma query_only = on")
            self._start(f"penstock-reader-{number}", self._read_loop, reader)

    async def close(self) -> None:
        """Finish what is queued, stop the threads, give the directory back."""
        self._writes.put(None)
        for _ in range(_READERS):
            self._reads.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._threads.clear()
        self._drop_lock()

    # ------------------------------------------------------------ work

    async def transact(self, work: Work[T]) -> T:
        """Run ``work`` and commit it; returns once it is on disk."""
        return await self._submit(self._writes, work)

    async def commit(self, commit: Commit) -> int:
        """Write a commit; the task's committed steps."""
        return await self._submit(self._writes, partial(apply, commit=commit))

    def line(self) -> Line:
        """A way to write from another thread's event loop."""
        return _Line(self)

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a snapshot; it may not write."""
        return await self._submit(self._reads, work)

    async def scrub(self) -> bool:
        """Move what the journal still holds into the file, and empty the journal; whether it is.

        Deleted rows are overwritten where they stood (``secure_delete``); their older copies in the
        journal are gone then. It is not emptied while somebody reads a snapshot.
        """

        def truncate() -> bool:
            with contextlib.closing(self._connect()) as connection:
                # Writers wait meanwhile, so it does not wait long for a reader.
                connection.execute(f"pragma busy_timeout = {_SCRUB_MS}")
                row = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
                return not row[0]

        return not self._threads or await asyncio.to_thread(truncate)

    async def glance(self, work: Work[T]) -> T:
        """Run ``work``, which is one statement that reads."""
        return await self._submit(self._reads, work)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[_Snapshot]:
        """The database as it is now, for as long as it takes; writers go on meanwhile.

        Raises:
            Unavailable: the database is closed, or its file cannot be read.
        """
        if not self._threads:
            raise Unavailable("the database is closed")
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="penstock-snapshot")
        beginning = thread.submit(self._begin_snapshot)
        try:
            try:
                connection = await asyncio.wrap_future(beginning)
            except sqlite3.Error as error:
                raise Unavailable(f"the database cannot be read: {error}") from error
            yield _Snapshot(connection, thread)
        finally:
            # In the same thread: a read that was given up may still be at work there.
            thread.submit(lambda: beginning.result().close())
            thread.shutdown(wait=False)

    async def _submit(self, to: queue.SimpleQueue[_Job | None], work: Work[T]) -> T:
        if not self._threads:
            raise Unavailable("the database is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        to.put(_Job(work, future))
        return cast("T", await future)

    # ------------------------------------------------------------ threads

    def _start(
        self,
        name: str,
        target: Callable[[sqlite3.Connection], None],
        connection: sqlite3.Connection,
    ) -> None:
        thread = threading.Thread(target=target, args=(connection,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _write_loop(self, connection: sqlite3.Connection) -> None:
        stopping = False
        while not stopping:
            first = self._writes.get()
            if first is None:
                break
            group = [first]
            while len(group) < _GROUP:
                try:
                    job = self._writes.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    stopping = True
                    break
                group.append(job)
            self._commit_group(connection, group)
            self._finish(group)
        connection.close()

    def _commit_group(self, connection: sqlite3.Connection, group: list[_Job]) -> None:
        try:
            connection.execute("begin immediate")
            if len(group) == 1:
                self._drive(connection, group[0])
                connection.execute("commit" if group[0].error is None else "rollback")
                return
            for job in group:
                connection.execute("savepoint work")
                self._drive(connection, job)
                if job.error is not None:
                    connection.execute("rollback to work")
                connection.execute("release work")
            connection.execute("commit")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("rollback")
            for job in group:
                job.error = Unavailable(
                    f"the database did not take the write: {error}",
                    hint=f"Is the disk of {self._path.parent} full or read-only?"
                    " Nothing was changed.",
                )

    def _read_loop(self, connection: sqlite3.Connection) -> None:
        while (job := self._reads.get()) is not None:
            try:
                connection.execute("begin")
                self._drive(connection, job)
            except sqlite3.Error as error:
                job.error = Unavailable(f"the database cannot be read: {error}")
            finally:
                if connection.in_transaction:
                    connection.execute("rollback")
            self._finish([job])
        connection.close()

    def _drive(self, connection: sqlite3.Connection, job: _Job) -> None:
        tx = _Transaction(connection, self._queries)
        coroutine: Coroutine[Any, Any, Any] | None = None
        try:
            coroutine = cast("Coroutine[Any, Any, Any]", job.work(tx))
            coroutine.send(None)
        except StopIteration as stop:
            job.result = stop.value
            job.notices = tx.notices
        except sqlite3.IntegrityError as error:
            job.error = Conflict(f"the database refused the write: {error}")
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the work
            job.error = error
        else:
            coroutine.close()
            job.error = RuntimeError("a unit of work may await only its transaction")

    def _finish(self, jobs: list[_Job]) -> None:
        loop = self._loop
        aside = [job for job in jobs if job.future.get_loop() is not loop]
        for job in aside:  # of another thread, which must not have to wait for our event loop
            with contextlib.suppress(RuntimeError):  # that thread has ended
                job.future.get_loop().call_soon_threadsafe(_answer, job)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._settle, jobs, aside)

    def _settle(self, jobs: list[_Job], aside: list[_Job]) -> None:
        for job in jobs:
            if job not in aside:
                _answer(job)
            if job.error is None:
                for channel, payload in job.notices:
                    self._deliver(channel, payload)

    # ------------------------------------------------------------ files

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        connection.row_factory = sqlite3.Row
        connection.executescript(_PRAGMAS)
        connection.create_function("now_us", 0, lambda: self._clock.now_us())  # noqa: PLW0108 - the clock is replaced once the past is known
        return connection

    def _begin_snapshot(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("pragma query_only = on")
        connection.execute("begin")
        connection.execute("select 1 from sqlite_schema limit 1").fetchall()  # the moment
        return connection

    @staticmethod
    def _last_time_us(connection: sqlite3.Connection) -> int:
        # After a wall clock that was set back, recorded times must not lie in the future.
        row = connection.execute(
            "select max(t) from (select max(heartbeat_us) t from workers"
            " union all select max(created_us) from tasks)"
        ).fetchone()
        return int(row[0] or 0) + 1

    def _take_lock(self) -> None:
        handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise Conflict(
                f"another Penstock server (process {holder}) is using {self._path.parent}",
                hint="Stop it, or give this one its own directory: PENSTOCK_HOME=… penstock up."
                " Several servers on one database need PostgreSQL: PENSTOCK_DATABASE_URL.",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock_file = handle

    def _drop_lock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
