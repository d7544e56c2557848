"""The database that other tests stop and start does what they believe it does."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres

GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def test_it_keeps_what_was_committed_and_cuts_who_was_connected():
    with PostgresServer() as server:
        url = await server.database()
        connection = await asyncpg.connect(url)
        await connection.execute("create table kept as select 1 as one")
        server.restart()
        with pytest.raises(GONE):
            await connection.fetchval("select 1")
        again = await asyncpg.connect(url)
        assert await again.fetchval("select one from kept") == 1
        server.pause()
        late = asyncio.create_task(again.fetchval("select 2"))
        done, _ = await asyncio.wait({late}, timeout=0.2)
        assert not done, "a paused server answered"
        server.resume()
        assert await late == 2
        assert await server.cut(url) == 1
        with pytest.raises(GONE):
            await again.fetchval("select 1")
