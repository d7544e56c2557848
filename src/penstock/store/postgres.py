"""PostgreSQL through asyncpg: a small pool, and one connection that listens.

An address with ``?pgbouncer=true`` leads to a pooler in transaction mode: statements are not kept
prepared then, and every read is a transaction, so that it stays on one server connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from penstock.domain.errors import Conflict, Unavailable
from penstock.domain.tasks import Claim
from penstock.store.commits import Commit
from penstock.store.groups import Groups
from penstock.store.notices import Notices, send
from penstock.store.queries import Query, load
from penstock.store.silences import SILENCE_SECONDS, Silences
from penstock.store.transaction import Line, Row, Value, Values, Work
from penstock.store.workflows import Beginning

T = TypeVar("T")

# With the one that listens, a worker's heartbeat and a backup's: ten per process.
_POOL = 5
_LANES = 2
_POOLER = "pgbouncer"  # the parameter of an address that says so
_RETRIES = 5
_SILENCES_FOR_ROOM = 4  # to wait for a connection of the pool
_SILENCES_TO_CONNECT = 2
_CLOSE_SECONDS = 10.0
_CHUNK_ROWS = 1000
_CHUNK_BYTES = 1 << 20

# It is not there, it is going, it is coming back, or it has no room: none of it says anything
# about the work that was asked for.
_GONE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver says when a connection ends under it
)


class _Transaction:
    """The transaction that a unit of work sees."""

    def __init__(self, connection: Any, queries: dict[str, Query]) -> None:
        self._connection = connection
        self._queries = queries
        self.notices: list[tuple[str, str]] = []
        self.answered = 0

    async def fetch_all(self, query: str, /, **parameters: Values) -> Sequence[Row]:
        sql, values = self._bind(query, parameters)
        rows = cast("Sequence[Row]", await self._connection.fetch(sql, *values))
        self.answered += 1
        return rows

    async def fetch_one(self, query: str, /, **parameters: Values) -> Row | None:
        sql, values = self._bind(query, parameters)
        row = cast("Row | None", await self._connection.fetchrow(sql, *values))
        self.answered += 1
        return row

    async def execute(self, query: str, /, **parameters: Values) -> int:
        sql, values = self._bind(query, parameters)
        status: str = await self._connection.execute(sql, *values)
        self.answered += 1
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_many(self, query: str, rows: Sequence[Mapping[str, Value]], /) -> None:
        if rows:
            compiled = self._queries[query]
            values = [[row[name] for name in compiled.parameters] for row in rows]
            await self._connection.executemany(compiled.sql, values)
            self.answered += 1

    def notify(self, channel: str, payload: str) -> None:
        self.notices.append((channel, payload))

    def _bind(self, query: str, parameters: dict[str, Any]) -> tuple[str, list[Any]]:
        compiled = self._queries[query]
        return compiled.sql, [parameters[name] for name in compiled.parameters]


class _Snapshot:
    """The database as it was at one moment, read over a connection of its own."""

    dialect = "postgres"

    def __init__(self, connection: Any) -> None:
        self._tx = _Transaction(connection, load("postgres"))
        self._connection = connection

    async def fetch_all(self, query: str, /, **parameters: Values) -> Sequence[Row]:
        with _readable():
            return await self._tx.fetch_all(query, **parameters)

    async def stream(self, sql: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        with _readable():
            cursor = await self._connection.cursor(sql)
        number = 1  # how large rows are is known once some were seen
        while True:
            with _readable():
                rows = [tuple(row) for row in await cursor.fetch(number)]
            if not rows:
                return
            yield rows
            size = sum(len(v) for row in rows for v in row if isinstance(v, str | bytes))
            number = min(number * 2, _CHUNK_ROWS, max(1, number * _CHUNK_BYTES // max(1, size)))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turns what the driver raises into our error."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"PostgreSQL cannot be read: {error}") from error


_no_transaction = contextlib.nullcontext


class _Line:
    """One connection, made when it is first needed and again when it has gone."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = options
        self._queries = load("postgres")
        self._connection: Any = None

    async def transact(self, work: Work[T]) -> T:
        connection = self._connection
        try:
            if connection is None or connection.is_closed():
                connection = await asyncpg.connect(self._url, **self._options)
                self._connection = connection
            async with connection.transaction():
                tx = _Transaction(connection, self._queries)
                result = await work(tx)
                await send(connection, tx.notices)
                return result
        except _GONE as error:
            self._drop()
            raise _not_taken(error) from error
        except asyncio.CancelledError:
            self._drop()  # whatever it was waiting for may never come
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_GONE):
                await connection.close(timeout=1)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class PostgresDatabase:
    """A PostgreSQL database that any number of servers may share."""

    dialect = "postgres"

    def __init__(
        self,
        url: str,
        deliver: Callable[[str, str], None],
        *,
        connections: int = _POOL,
        lanes: int = _LANES,
        strict: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Remember ``url``; ``deliver`` receives notifications on the event loop.

        Up to ``connections`` are open, beside the one that listens and those of the ``lanes`` that
        commits go through. ``strict`` gives every commit a transaction of its own. A connection
        that has been silent for ``silence_seconds`` is looked after, and dropped if its answer
        will not come.
        """
        self._url, self._pooled = _address(url)
        self._options: dict[str, Any] = {"statement_cache_size": 0} if self._pooled else {}
        self._silence_seconds = silence_seconds
        self._silences = Silences(
            self._url, self._options, pooled=self._pooled, seconds=silence_seconds
        )
        self._queries = load("postgres")
        self._pool: asyncpg.Pool[Any] | None = None
        self._lane_pool: asyncpg.Pool[Any] | None = None
        self._notices = Notices(deliver)
        self._connections = connections
        self._lanes = lanes
        self._groups = Groups(
            self._in_lane,
            self._in_lane if self._pooled else self._alone_in_lane,
            lanes=lanes,
            **({"most": 1} if strict else {}),
        )
        self._listening: asyncio.Task[None] | None = None
        self.vectors: str | None = None

    async def open(self, migrate: Callable[[Any], Awaitable[None]]) -> None:
        """Connect, bring the schema up to date, listen.

        Raises:
            Unavailable: the server does not answer.
            Conflict: the schema is newer than this program.
        """
        try:
            connection = await asyncpg.connect(self._url, timeout=10, **self._options)
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            raise Unavailable(
                f"PostgreSQL does not answer: {error}",
                hint="Check PENSTOCK_DATABASE_URL (postgresql://user@host:5432/database).",
            ) from error
        try:
            await migrate(connection)
        finally:
            await connection.close()
        self._pool = await self._made(1, self._connections)
        # What goes through a lane is one of a few large statements with arrays of any length, which
        # PostgreSQL would plan anew each time.
        planned = {} if self._pooled else {"plan_cache_mode": "force_generic_plan"}
        self._lane_pool = await self._made(0, self._lanes, server_settings=planned)
        self._listening = asyncio.create_task(self._listen(), name="postgres-listen")

    async def scrub(self) -> bool:
        """Nothing: what was deleted nobody reads, and its bytes go with the next vacuum."""
        return True

    async def close(self) -> None:
        """Stop listening and close the pool."""
        await self._groups.close()
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        for pool in (self._lane_pool, self._pool):
            if pool is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):  # then they are dropped
                        await pool.close()
        self._pool = self._lane_pool = None

    async def transact(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction; begins again when the database says so."""
        return await self._write(work, self._pool, whole=True)

    async def commit(self, commit: Commit) -> int:
        """Write a commit, together with those that wait at the same moment."""
        return await self._groups.commit(commit)

    async def begin(self, beginning: Beginning) -> Claim:
        """Put a workflow on record, together with the commits that wait at the same moment."""
        return await self._groups.begin(beginning)

    def line(self) -> Line:
        """A connection apart from the pool, for another thread's event loop."""
        return _Line(self._url, self._options)

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on one snapshot; it may not write."""
        return await self._read(work, isolation="repeatable_read", readonly=True)

    async def glance(self, work: Work[T]) -> T:
        """Run ``work``, which is one statement that reads."""
        return await (self._read(work, readonly=True) if self._pooled else self._read(work))

    async def _read(self, work: Work[T], **transaction: Any) -> T:
        try:
            async with self._connection(self._pool) as connection:
                tx = _Transaction(connection, self._queries)
                begun = connection.transaction(**transaction) if transaction else _no_transaction()
                with self._silences.watched(connection, tx):
                    async with begun:
                        return await work(tx)
        except _GONE as error:
            raise Unavailable(f"PostgreSQL cannot be read: {_said(error)}") from error

    async def _in_lane(self, work: Work[T]) -> T:
        return await self._write(work, self._lane_pool, whole=True)

    async def _alone_in_lane(self, work: Work[T]) -> T:
        """Run ``work``, which is one statement that writes: it is a transaction by itself."""
        return await self._write(work, self._lane_pool, whole=False)

    async def _write(self, work: Work[T], pool: asyncpg.Pool[Any] | None, *, whole: bool) -> T:
        for left in range(_RETRIES, -1, -1):
            try:
                async with self._connection(pool) as connection:
                    tx = _Transaction(connection, self._queries)
                    begun = connection.transaction() if whole else _no_transaction()
                    with self._silences.watched(connection, tx):
                        async with begun:
                            result = await work(tx)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if not left:
                    raise
            except asyncpg.IntegrityConstraintViolationError as error:
                raise Conflict(f"the database refused the write: {error}") from error
            except _GONE as error:
                raise _not_taken(error) from error
            else:
                self._notices.tell(tx.notices)
                return result
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[_Snapshot]:
        """The database as it is now, for as long as it takes; writers go on meanwhile.

        Raises:
            Unavailable: the server does not answer, or stops answering.
        """
        if self._pool is None:
            raise Unavailable("the database is closed")
        with _readable():
            # A connection of its own: this may take an hour, and the pool is small.
            connection = await asyncpg.connect(self._url, timeout=10, **self._options)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                with _readable():
                    await connection.execute("set local idle_in_transaction_session_timeout = 0")
                    await connection.execute("select 1")  # the moment
                yield _Snapshot(connection)
        finally:
            await connection.close(timeout=2)

    async def _made(self, least: int, most: int, **options: Any) -> asyncpg.Pool[Any]:
        return await asyncpg.create_pool(
            self._url,
            min_size=least,
            max_size=most,
            reset=_as_it_is,
            timeout=_SILENCES_TO_CONNECT * self._silence_seconds,
            **self._options,
            **options,
        )

    def _connection(self, pool: asyncpg.Pool[Any] | None) -> Any:
        if pool is None:
            raise Unavailable("the database is closed")
        # Where one is idle nobody waits, and the driver's timer would cost a task of its own.
        waits = None if pool.get_idle_size() else _SILENCES_FOR_ROOM * self._silence_seconds
        return pool.acquire(timeout=waits)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*_GONE, asyncpg.PostgresError):
                connection = await asyncpg.connect(
                    self._url,
                    timeout=10,
                    # Nothing is lost with a wake-up, so none waits for the disk.
                    server_settings={"synchronous_commit": "off"},
                    **self._options,
                )
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _, gone=gone: gone.set())
                speaking = asyncio.ensure_future(self._notices.exchange(connection))
                ended = asyncio.ensure_future(gone.wait())
                try:
                    await asyncio.wait({speaking, ended}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    ended.cancel()
                    speaking.cancel()
                    with contextlib.suppress(Exception, asyncio.CancelledError):
                        await speaking
                    await connection.close(timeout=2)
            # Notifications are a wake-up, never the truth: what was missed is found by polling.
            await asyncio.sleep(1)


def _not_taken(error: Exception) -> Unavailable:
    """What a refused write is to whoever asked for it."""
    hint = "Nothing was changed, unless the connection ended in the commit. Try again in a moment."
    if isinstance(error, asyncpg.InsufficientResourcesError):
        hint = (
            "PostgreSQL has no room: look at its disk, memory and connections. Nothing was changed."
        )
    return Unavailable(f"PostgreSQL did not take the write: {_said(error)}", hint=hint)


def _said(error: Exception) -> str:
    return str(error) or "it does not answer"


async def _as_it_is(_: Any) -> None:
    """Nothing is to be undone when a connection goes back: no query leaves a session's state."""


def _address(url: str) -> tuple[str, bool]:
    """The address without the parameter that is ours, and whether a pooler is there."""
    parts = urlsplit(url)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in parameters if name != _POOLER]
    pooled = any(name == _POOLER and value in ("true", "1") for name, value in parameters)
    return urlunsplit(parts._replace(query=urlencode(kept))), pooled
