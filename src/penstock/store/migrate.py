"""Applies ``sql/migrations/NNNN_name.<dialect>.sql`` in order, forward only."""

from __future__ import annotations

import sqlite3
from importlib import resources
from typing import Any

from penstock.domain.errors import Conflict
from penstock.store.queries import Dialect

_TABLE = "create table if not exists migrations (version bigint primary key, name text not null)"
_LOCK = 0x70656E73746F636B  # "penstock": one server at a time migrates a shared database


def migrations(dialect: Dialect) -> list[tuple[int, str, str]]:
    """Version, name and SQL of every migration, in order."""
    found = []
    for file in resources.files("penstock.store").joinpath("sql/migrations").iterdir():
        if file.name.endswith(f".{dialect}.sql"):
            version, _, name = file.name.removesuffix(f".{dialect}.sql").partition("_")
            found.append((int(version), name, file.read_text(encoding="utf-8")))
    return sorted(found)


def newest(dialect: Dialect) -> int:
    """The newest migration of this program."""
    return max(version for version, _, _ in migrations(dialect))


def between(dialect: Dialect, after: int, until: int) -> list[tuple[int, str, str]]:
    """The migrations behind one version, up to another one."""
    return [found for found in migrations(dialect) if after < found[0] <= until]


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Bring an embedded database up to date, each migration in a transaction of its own.

    Raises:
        Conflict: the file was written by a newer Penstock.
    """
    connection.execute(_TABLE)
    row = connection.execute("select max(version) from migrations").fetchone()
    present = int(row[0] or 0)
    known = migrations("sqlite")
    _refuse_newer(present, known)
    for version, name, sql in known:
        if version > present:
            # executescript() commits first, so the bracket must stand in the script itself.
            insert = f"insert into migrations (version, name) values ({version}, '{name}');"  # noqa: S608
            connection.executescript(f"begin immediate;\n{sql}\n{insert}\ncommit;")


async def migrate_postgres(connection: Any) -> None:
    """Bring a shared database up to date under an advisory lock.

    Raises:
        Conflict: the database was written by a newer Penstock.
    """
    # One transaction, so that it stays on one connection of a pooler, and is whole or not at all.
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_TABLE)
        present = int(await connection.fetchval("select max(version) from migrations") or 0)
        known = migrations("postgres")
        _refuse_newer(present, known)
        for version, name, sql in known:
            if version > present:
                await connection.execute(sql)
                await connection.execute(
                    "insert into migrations (version, name) values ($1, $2)", version, name
                )


def _refuse_newer(present: int, known: list[tuple[int, str, str]]) -> None:
    newest = known[-1][0] if known else 0
    if present > newest:
        raise Conflict(
            f"the data was written by a newer Penstock (schema {present}, this program knows"
            f" {newest})",
            hint="Install the newer version again, or point PENSTOCK_HOME at another directory."
            " Nothing was changed.",
        )
