"""Backups: every table as lines of JSON, out of one snapshot and into an empty database.

What tables and columns there are says the database itself. A backup of one kind of database goes
into the other: only bytes need a notation (base64), and the secrets that a shared database keeps in
a table are files beside an embedded one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import asyncpg

from penstock.domain.errors import Conflict, Damaged, Unavailable
from penstock.store.migrate import migrate_postgres, migrate_sqlite, migrations
from penstock.store.queries import Dialect, load
from penstock.store.transaction import Row, Value

DATABASE = "penstock.sqlite"
SECRETS = {
    "pepper": "pepper",
    "signing_key": "signing/key.pem",
}  # setting → file of an embedded one

_PART_BYTES = 4 << 20
_BINARY = ("blob", "bytea")
_MIGRATIONS = "migrations"
_MIGRATING = 0x70656E73746F636B  # the lock of migrate.py: a server that starts waits for us

_UNFIT = (
    ValueError, TypeError, OverflowError, sqlite3.IntegrityError, asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)  # fmt: skip

_Fetch = Callable[[str], Awaitable[Sequence[Row]]]


class Snapshot(Protocol):
    """Everything as it was at one moment; what is written meanwhile is not seen."""

    dialect: str

    async def fetch_all(self, query: str, /, **parameters: Value) -> Sequence[Row]:
        """Every row a named query returns."""
        ...

    def stream(self, sql: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows of any query, some at a time, so that memory holds about a megabyte."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table as the database describes it."""

    name: str
    columns: tuple[str, ...]
    binary: frozenset[int]  # positions of the columns that hold bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a database holds and what a start of this program would do to it."""

    database: str  # sqlite | postgres
    schema: int  # the newest migration there; 0 when there is nothing yet
    newest: int  # the newest migration of this program
    pending: tuple[str, ...]  # migrations that a start would apply, in order
    queued: int = 0  # tasks
    running: int = 0  # tasks
    rollouts: tuple[str, ...] = ()  # that are under way: agent/environment phase
    servers: tuple[str, ...] = ()  # that have it open
    database_bytes: int = 0
    free_bytes: int | None = None  # on the disk of an embedded one


# ---------------------------------------------------------------- out of a database


async def schema(snapshot: Snapshot) -> int:
    """The newest migration that was applied."""
    return int((await snapshot.fetch_all("backups.schema"))[0]["version"])


async def tables(snapshot: Snapshot) -> list[Table]:
    """Every table but the list of migrations, by name."""
    found = _tables(await snapshot.fetch_all("backups.columns"))
    return [table for table in found.values() if table.name != _MIGRATIONS]


async def secrets(snapshot: Snapshot) -> dict[str, bytes]:
    """The secrets that are kept in the database, by name."""
    found = {}
    for name in SECRETS:
        for row in await snapshot.fetch_all("backups.secret", name=name):
            found[name] = str(row["value"]).encode()
    return found


async def parts(snapshot: Snapshot, table: Table) -> AsyncIterator[bytes]:
    """A table in parts of some megabytes, at least one; secrets are left out.

    The first line of each names the columns and those of them that hold bytes; every further line
    is a row.
    """
    head = _line({"columns": table.columns, "binary": sorted(table.binary)})
    part = bytearray(head)
    first = True
    async for chunk in snapshot.stream(_select(table)):
        part += await asyncio.to_thread(_encoded, table, chunk)
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part, first = bytearray(head), False
    if first or len(part) > len(head):
        yield bytes(part)


def _tables(rows: Iterable[Row]) -> dict[str, Table]:
    columns: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        columns.setdefault(row["table"], []).append((row["column"], row["type"]))
    return {
        name: Table(
            name=name,
            columns=tuple(column for column, _ in found),
            binary=frozenset(i for i, (_, kind) in enumerate(found) if kind in _BINARY),
        )
        for name, found in columns.items()
    }


def _select(table: Table) -> str:
    columns = ", ".join(f'"{column}"' for column in table.columns)
    kept = ", ".join(f"'{name}'" for name in SECRETS)
    where = f" where name not in ({kept})" if table.name == "settings" else ""
    return f'select {columns} from "{table.name}"{where}'  # noqa: S608 - names from the catalog


def _encoded(table: Table, rows: Iterable[Sequence[Any]]) -> bytes:
    if not table.binary:
        return b"".join(map(_line, rows))
    return b"".join(
        _line(
            [
                base64.b64encode(value).decode()
                if i in table.binary and value is not None
                else value
                for i, value in enumerate(row)
            ]
        )
        for row in rows
    )


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# ---------------------------------------------------------------- into a database


class Target(Protocol):
    """An empty database that is filled; nobody sees any of it before :meth:`commit`."""

    async def begin(self, schema: int) -> None:
        """Make the tables as they were at ``schema``.

        Raises:
            Conflict: it is not empty, a server uses it, or its tables are newer than the backup.
            Unavailable: it does not answer.
        """
        ...

    async def put(self, table: str, part: bytes) -> None:
        """Add a part of a table.

        Raises:
            Damaged: it does not fit what is there.
        """
        ...

    async def put_secret(self, name: str, value: bytes) -> None:
        """Keep a secret where servers of this database look for it."""
        ...

    async def finish(self) -> None:
        """Prove what refers to what, then bring the tables up to date.

        Raises:
            Damaged: a row refers to one that is not there.
        """
        ...

    async def commit(self) -> None:
        """Make all of it the database, at once."""
        ...

    async def close(self) -> None:
        """Let go; what was not committed is gone."""
        ...


def target(*, home: Path, url: str | None, staging: Path) -> Target:
    """Where a backup is restored to.

    Args:
        home: directory of the embedded database.
        url: of a PostgreSQL database, instead.
        staging: an empty directory on the disk of ``home``; what is put into it belongs into
            ``home``, once everything is there. A new database is made beside it.
    """
    return _PostgresTarget(url) if url else _SqliteTarget(home, staging)


class _SqliteTarget:
    """A new file beside the old one, which takes its place with one rename."""

    def __init__(self, home: Path, staging: Path) -> None:
        self._file = home / DATABASE
        self._staging = staging
        self._new = staging.with_name(DATABASE)
        self._connection: sqlite3.Connection | None = None
        self._tables: dict[str, Table] = {}

    async def begin(self, schema: int) -> None:
        _refuse_rows_sqlite(self._file)
        with _taking("its tables"):
            self._make_tables(schema)

    def _make_tables(self, schema: int) -> None:
        connection = self._connection = sqlite3.connect(self._new, isolation_level=None)
        connection.row_factory = sqlite3.Row
        self._new.chmod(0o600)
        connection.execute("pragma synchronous = off")  # the finished file is synchronised once
        connection.execute("pragma foreign_keys = on")
        connection.execute(_sql("sqlite", "create_migrations"))
        for version, name, sql in _between("sqlite", 0, schema):
            connection.executescript(f"begin;\n{sql}\n;commit;")
            connection.execute(_sql("sqlite", "add_migration"), {"version": version, "name": name})
        self._tables = _tables(connection.execute(_sql("sqlite", "columns")))
        connection.execute("pragma foreign_keys = off")  # checked as a whole, in finish()
        connection.execute("begin")

    async def put(self, table: str, part: bytes) -> None:
        assert self._connection is not None
        columns, rows = _decoded(self._tables, table, part)
        names = ", ".join(f'"{column}"' for column in columns)
        marks = ", ".join("?" * len(columns))
        sql = f'insert into "{table}" ({names}) values ({marks})'  # noqa: S608 - known names
        with _taking(f"table {table}"):
            self._connection.executemany(sql, rows)

    async def put_secret(self, name: str, value: bytes) -> None:
        file = self._staging / SECRETS[name]
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as opened:
            opened.write(value)
            os.fsync(opened.fileno())

    async def finish(self) -> None:
        connection = self._connection
        assert connection is not None
        broken = connection.execute("pragma foreign_key_check").fetchone()
        if broken is not None:
            raise Damaged(f"a row of table {broken[0]} refers to a row of {broken[2]} that is gone")
        with _taking("the end of the restore"):
            connection.execute("commit")
            connection.execute("pragma foreign_keys = on")
            migrate_sqlite(connection)
        await self.close()

    async def commit(self) -> None:
        with self._new.open("rb") as file:
            os.fsync(file.fileno())
        # A journal of the old file would be played into the new one.
        for suffix in ("-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        os.replace(self._new, self._file)  # noqa: PTH105 - atomic, and said so

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _PostgresTarget:
    """One transaction around everything, the making of the tables too."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._transaction: Any = None
        self._tables: dict[str, Table] = {}
        self._keys: Sequence[Row] = ()

    async def begin(self, schema: int) -> None:
        self._connection = await _connected(self._url)
        with _taking("its tables"):
            await self._make_tables(schema)

    async def _make_tables(self, schema: int) -> None:
        connection = self._connection
        if not await connection.fetchval("select pg_try_advisory_lock($1)", _MIGRATING):
            raise Conflict("a Penstock server is starting on this database", hint="Stop it first.")
        self._transaction = connection.transaction()
        await self._transaction.start()
        await connection.execute(_sql("postgres", "create_migrations"))
        present = int(await connection.fetchval(_sql("postgres", "schema")))
        if present > schema:
            raise Conflict(
                f"the database's tables are newer (schema {present}) than the backup's ({schema})",
                hint="Restore into a database without tables: create a new one.",
            )
        for table in _tables(await connection.fetch(_sql("postgres", "columns"))).values():
            if table.name == _MIGRATIONS:
                continue
            await connection.execute(f'lock table "{table.name}"')  # no server may write meanwhile
            if await connection.fetchval(_any_row(table.name)):
                raise _not_empty(table.name)
        for version, name, sql in _between("postgres", present, schema):
            await connection.execute(sql)
            await connection.execute(_sql("postgres", "add_migration"), version, name)
        self._tables = _tables(await connection.fetch(_sql("postgres", "columns")))
        # Made again in finish(): so the order of tables is free, and all rows are checked at once.
        self._keys = await connection.fetch(_sql("postgres", "foreign_keys"))
        for key in self._keys:
            await connection.execute(key["drop"])

    async def put(self, table: str, part: bytes) -> None:
        columns, rows = _decoded(self._tables, table, part)
        with _taking(f"table {table}"):
            await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def put_secret(self, name: str, value: bytes) -> None:
        with _taking(f"secret {name}"):
            sql = _sql("postgres", "put_secret")
            await self._connection.execute(sql, name, value.decode())

    async def finish(self) -> None:
        connection = self._connection
        with _taking("what refers to what is not there"):
            for key in self._keys:
                await connection.execute(key["add"])
        with _taking("the end of the restore"):
            for row in await connection.fetch(_sql("postgres", "counters")):
                last = f'select max("{row["column"]}") from "{row["table"]}"'  # noqa: S608 - catalog
                sql = f"select setval(cast(cast($1 as text) as regclass), ({last}))"
                await connection.execute(sql, row["sequence"])
            await migrate_postgres(connection)

    async def commit(self) -> None:
        with _taking("the commit"):
            await self._transaction.commit()

    async def close(self) -> None:
        if self._connection is not None:
            # Whatever is open is rolled back, and the lock given back, with the connection.
            await self._connection.close(timeout=10)
            self._connection = None


def newest(dialect: Dialect) -> int:
    """The newest migration of this program."""
    return max(version for version, _, _ in migrations(dialect))


def _between(dialect: Dialect, after: int, until: int) -> list[tuple[int, str, str]]:
    return [found for found in migrations(dialect) if after < found[0] <= until]


def _sql(dialect: Dialect, verb: str) -> str:
    return load(dialect)[f"backups.{verb}"].sql


def _any_row(table: str) -> str:
    return f'select exists (select 1 from "{table}")'  # noqa: S608 - a name from the catalog


def _not_empty(table: str) -> Conflict:
    return Conflict(
        f"the target is not empty: its table {table} has rows",
        hint="Restore into a new directory (--home DIR) or a new database (--database-url URL)."
        " Nothing was changed.",
    )


def _refuse_rows_sqlite(file: Path) -> None:
    if not file.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.row_factory = sqlite3.Row
            for name in _tables(connection.execute(_sql("sqlite", "columns"))):
                if name != _MIGRATIONS and connection.execute(_any_row(name)).fetchone()[0]:
                    raise _not_empty(name)
    except sqlite3.Error as error:
        raise Conflict(
            f"{file} is there and cannot be read: {error}", hint="Restore into a new directory."
        ) from None


def _decoded(known: dict[str, Table], name: str, part: bytes) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a part that fit a table.

    Raises:
        Damaged: they do not.
    """
    hint = "Restore it with the version of Penstock that wrote it."
    if name not in known or name == _MIGRATIONS:
        raise Damaged(f"the backup has a table {name}, which its schema does not have", hint=hint)
    try:
        head, *lines = [json.loads(line) for line in part.split(b"\n") if line]
        columns, binary = list(head["columns"]), [int(i) for i in head["binary"]]
        for row in lines:
            for i in binary:
                row[i] = None if row[i] is None else base64.b64decode(row[i], validate=True)
        uneven = any(len(row) != len(columns) for row in lines)
    except (ValueError, LookupError, TypeError, binascii.Error) as error:
        raise Damaged(f"the backup's table {name} cannot be understood: {error}") from None
    strange = sorted(set(columns) - set(known[name].columns))
    if uneven or strange:
        what = f"columns that its schema does not have: {strange}" if strange else "uneven rows"
        raise Damaged(f"the backup's table {name} has {what}", hint=hint)
    return columns, lines


@contextlib.contextmanager
def _taking(what: str) -> Iterator[None]:
    """Says what a database would not take, and whether that is the backup's fault."""
    try:
        yield
    except _UNFIT as error:
        raise Damaged(
            f"the database refuses {what}: {error}", hint="Nothing was changed."
        ) from None
    except (OSError, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(
            f"the database did not take {what}: {error}",
            hint="Is it full or read-only, or its user not its owner? Nothing was changed.",
        ) from None


async def _connected(url: str) -> Any:
    try:
        return await asyncpg.connect(url, timeout=10)
    except (OSError, asyncpg.PostgresError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"PostgreSQL does not answer: {error}",
            hint="Check the database url (postgresql://user@host:5432/database).",
        ) from None


# ---------------------------------------------------------------- before an upgrade


async def standing(*, home: Path, url: str | None) -> Standing:
    """Look at a database without changing anything.

    Raises:
        Unavailable: it does not answer, or cannot be read.
    """
    if url is None:
        return await _standing_sqlite(home)
    connection = await _connected(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):

            async def fetch(verb: str) -> Sequence[Row]:
                found: Sequence[Row] = await connection.fetch(_sql("postgres", verb))
                return found

            size = int((await fetch("size"))[0]["bytes"])
            return await _standing("postgres", fetch, database_bytes=size)
    except asyncpg.PostgresError as error:
        raise Unavailable(f"PostgreSQL cannot be read: {error}") from None
    finally:
        await connection.close(timeout=2)


async def _standing_sqlite(home: Path) -> Standing:
    file = home / DATABASE
    journal = file.with_name(file.name + "-wal")
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if not file.exists():
        pending = tuple(_names("sqlite", 0))
        return Standing(
            database="sqlite", schema=0, newest=newest("sqlite"), pending=pending, free_bytes=free
        )
    # Without a journal nobody writes; to open one would leave files beside the database.
    how = "mode=ro" if journal.exists() else "mode=ro&immutable=1"
    try:
        uri = f"file:{quote(str(file))}?{how}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("begin")

            async def fetch(verb: str) -> Sequence[Row]:
                return connection.execute(_sql("sqlite", verb)).fetchall()

            size = sum(path.stat().st_size for path in (file, journal) if path.exists())
            holder = _holder(home / "lock")
            return await _standing(
                "sqlite",
                fetch,
                database_bytes=size,
                free_bytes=free,
                servers=() if holder is None else (f"process {holder}",),
            )
    except sqlite3.Error as error:
        raise Unavailable(f"{file} cannot be read: {error}") from None


async def _standing(dialect: Dialect, fetch: _Fetch, **more: Any) -> Standing:
    known = newest(dialect)
    there = {row["table"] for row in await fetch("columns")}
    present = int((await fetch("schema"))[0]["version"]) if _MIGRATIONS in there else 0
    if 0 < present <= known:  # what a newer one holds, and where, is not known here
        waiting = {row["state"]: int(row["count"]) for row in await fetch("waiting")}
        more |= {
            "queued": waiting.get("queued", 0),
            "running": waiting.get("running", 0),
            "rollouts": tuple(
                f"{row['agent']}/{row['environment']} {row['phase']}"
                for row in await fetch("rollouts")
            ),
        }
        if dialect == "postgres":
            more["servers"] = tuple(
                f"{row['id']} (process {row['pid']} on {row['host']})"
                for row in await fetch("servers")
            )
    return Standing(
        database=dialect,
        schema=present,
        newest=known,
        pending=tuple(_names(dialect, present)),
        **more,
    )


def _names(dialect: Dialect, after: int) -> list[str]:
    return [
        f"{version:04}_{name}" for version, name, _ in _between(dialect, after, newest(dialect))
    ]


def _holder(lock: Path) -> int | None:
    """Which process holds a lock file; asked of the kernel, so that no start is disturbed."""
    try:
        inode = lock.stat().st_ino
        held = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for fields in (line.split() for line in held):
        if "FLOCK" in fields and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None
