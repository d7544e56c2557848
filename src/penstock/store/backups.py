"""Backups: every table as lines of JSON, out of one snapshot.

What tables and columns there are says the database itself. A backup of one kind of database goes
into the other: only bytes need a notation (base64), and the secrets that a shared database keeps in
a table are files beside an embedded one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from penstock.domain.errors import Unavailable
from penstock.store.queries import Dialect, load
from penstock.store.transaction import Row, Value

DATABASE = "penstock.sqlite"
SECRETS = {
    "pepper": "pepper",
    "signing_key": "signing/key.pem",
}  # setting → file of an embedded one
_PART_BYTES = 4 << 20
_BINARY = ("blob", "bytea")
MIGRATIONS = "migrations"


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


async def schema(snapshot: Snapshot) -> int:
    """The newest migration that was applied."""
    return int((await snapshot.fetch_all("backups.schema"))[0]["version"])


async def tables(snapshot: Snapshot) -> list[Table]:
    """Every table but the list of migrations, by name."""
    found = described(await snapshot.fetch_all("backups.columns"))
    return [table for table in found.values() if table.name != MIGRATIONS]


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


def described(rows: Iterable[Row]) -> dict[str, Table]:
    """Tables by name, out of what the database says of its columns."""
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


def statement(dialect: Dialect, verb: str) -> str:
    """A named query of backups, for whoever has no transaction of the store."""
    return load(dialect)[f"backups.{verb}"].sql


async def connected(url: str) -> Any:
    """A connection to PostgreSQL.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        return await asyncpg.connect(url, timeout=10)
    except (OSError, asyncpg.PostgresError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"PostgreSQL does not answer: {error}",
            hint="Check the database url (postgresql://user@host:5432/database).",
        ) from None
