"""Fixtures of every suite: a fresh database of each kind that is at hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's business, not the strategy's.
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")

# As in an agent's process, and before any test module imports LangGraph.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

_SERVER = "PENSTOCK_TEST_POSTGRES"  # postgresql://user@host:port/database; may create databases


@dataclass
class Database:
    """An empty database; every store it opens sees the same data."""

    kind: str  # sqlite | postgres
    home: Path
    url: str | None
    opened: list = field(default_factory=list)

    async def open(self):
        """One more store on it; on SQLite the one before must have been closed."""
        from penstock.store import Store  # noqa: PLC0415 - unit tests need no database driver

        store = Store(home=self.home, url=self.url)
        await store.open()
        self.opened.append(store)
        if self.url is not None:
            await _listening(self, store)
        return store

    async def execute(self, sql: str) -> None:
        """Changes the data behind Penstock's back."""
        if self.url is None:
            with contextlib.closing(sqlite3.connect(self.home / "penstock.sqlite")) as connection:
                connection.executescript(sql)  # one statement, or a migration's many
            return
        import asyncpg  # noqa: PLC0415 - unit tests need no database driver

        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def close(self, store) -> None:
        self.opened.remove(store)
        await store.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request, tmp_path) -> AsyncIterator[Database]:
    """A fresh database of each kind; PostgreSQL only where a server is named."""
    if request.param == "sqlite":
        found = Database(kind="sqlite", home=tmp_path / "home", url=None)
        yield found
        await _close(found)
        return
    server = os.environ.get(_SERVER)
    if not server:
        pytest.skip(f"{_SERVER} is not set")
    import asyncpg  # noqa: PLC0415 - see above

    name = f"penstock_test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name} template template0")
        url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        found = Database(kind="postgres", home=tmp_path / "home", url=url)
        yield found
        await _close(found)
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


@pytest.fixture
async def store(database):
    """An open store on a fresh database."""
    return await database.open()


async def _listening(database: Database, store) -> None:
    """Waits until what others tell arrives, so that no test is quicker than the listener."""
    import asyncpg  # noqa: PLC0415 - unit tests need no database driver

    heard = asyncio.Event()
    unsubscribe = store.subscribe("probe", lambda _: heard.set())
    other = await asyncpg.connect(database.url)
    try:
        while not heard.is_set():
            await other.execute("select pg_notify('penstock', 'another probe ')")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), 0.02)
    finally:
        await other.close()
        unsubscribe()


async def _close(database: Database) -> None:
    for store in list(database.opened):
        await database.close(store)
