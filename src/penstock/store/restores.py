"""Restores: the tables of a backup go into an empty database, all of them or none.

A backup of one kind of database goes into the other. Nobody sees any of it before the commit.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from penstock.domain.errors import Conflict, Damaged, Unavailable
from penstock.store.backups import (
    DATABASE,
    MIGRATIONS,
    SECRETS,
    Table,
    connected,
    described,
    statement,
)
from penstock.store.migrate import between, migrate_postgres, migrate_sqlite
from penstock.store.transaction import Row

_MIGRATING = 0x70656E73746F636B  # the lock of migrate.py: a server that starts waits for us
_UNFIT = (
    ValueError, TypeError, OverflowError, sqlite3.IntegrityError, asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)  # fmt: skip


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
        connection.execute(statement("sqlite", "create_migrations"))
        for version, name, sql in between("sqlite", 0, schema):
            connection.executescript(f"begin;\n{sql}\n;commit;")
            connection.execute(
                statement("sqlite", "add_migration"), {"version": version, "name": name}
            )
        self._tables = described(connection.execute(statement("sqlite", "columns")))
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
        self._connection = await connected(self._url)
        with _taking("its tables"):
            await self._make_tables(schema)

    async def _make_tables(self, schema: int) -> None:
        connection = self._connection
        if not await connection.fetchval("select pg_try_advisory_lock($1)", _MIGRATING):
            raise Conflict("a Penstock server is starting on this database", hint="Stop it first.")
        self._transaction = connection.transaction()
        await self._transaction.start()
        await connection.execute(statement("postgres", "create_migrations"))
        present = int(await connection.fetchval(statement("postgres", "schema")))
        if present > schema:
            raise Conflict(
                f"the database's tables are newer (schema {present}) than the backup's ({schema})",
                hint="Restore into a database without tables: create a new one.",
            )
        for table in described(await connection.fetch(statement("postgres", "columns"))).values():
            if table.name == MIGRATIONS:
                continue
            await connection.execute(f'lock table "{table.name}"')  # no server may write meanwhile
            if await connection.fetchval(_any_row(table.name)):
                raise _not_empty(table.name)
        for version, name, sql in between("postgres", present, schema):
            await connection.execute(sql)
            await connection.execute(statement("postgres", "add_migration"), version, name)
        self._tables = described(await connection.fetch(statement("postgres", "columns")))
        # Made again in finish(): so the order of tables is free, and all rows are checked at once.
        self._keys = await connection.fetch(statement("postgres", "foreign_keys"))
        for key in self._keys:
            await connection.execute(key["drop"])

    async def put(self, table: str, part: bytes) -> None:
        columns, rows = _decoded(self._tables, table, part)
        with _taking(f"table {table}"):
            await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def put_secret(self, name: str, value: bytes) -> None:
        with _taking(f"secret {name}"):
            sql = statement("postgres", "put_secret")
            await self._connection.execute(sql, name, value.decode())

    async def finish(self) -> None:
        connection = self._connection
        with _taking("what refers to what is not there"):
            for key in self._keys:
                await connection.execute(key["add"])
        with _taking("the end of the restore"):
            for row in await connection.fetch(statement("postgres", "counters")):
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
            for name in described(connection.execute(statement("sqlite", "columns"))):
                if name != MIGRATIONS and connection.execute(_any_row(name)).fetchone()[0]:
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
    if name not in known or name == MIGRATIONS:
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
