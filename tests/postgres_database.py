"""A database of its own on the tests' PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

_SERVER = "PENSTOCK_TEST_POSTGRES"


@contextlib.asynccontextmanager
async def fresh_database() -> AsyncIterator[str]:
    """The URL of an empty database that is gone afterwards; skips where there is no server."""
    server = os.environ.get(_SERVER)
    if not server:
        pytest.skip(f"{_SERVER} is not set")
    name = f"penstock_e2e_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name} template template0")
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()
