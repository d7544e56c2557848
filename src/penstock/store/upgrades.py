"""Upgrades: what a database holds, and what a start of this program would do to it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from penstock.domain.errors import Unavailable
from penstock.store.backups import DATABASE, MIGRATIONS, connected, statement
from penstock.store.migrate import between, newest
from penstock.store.queries import Dialect
from penstock.store.transaction import Row

_Fetch = Callable[[str], Awaitable[Sequence[Row]]]


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


async def standing(*, home: Path, url: str | None) -> Standing:
    """Look at a database without changing anything.

    Raises:
        Unavailable: it does not answer, or cannot be read.
    """
    if url is None:
        return await _standing_sqlite(home)
    connection = await connected(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):

            async def fetch(verb: str) -> Sequence[Row]:
                found: Sequence[Row] = await connection.fetch(statement("postgres", verb))
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
                return connection.execute(statement("sqlite", verb)).fetchall()

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
    present = int((await fetch("schema"))[0]["version"]) if MIGRATIONS in there else 0
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
    return [f"{version:04}_{name}" for version, name, _ in between(dialect, after, newest(dialect))]


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
