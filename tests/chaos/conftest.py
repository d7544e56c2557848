"""Databases that servers are attacked on."""

from __future__ import annotations

import pytest
from cluster import Cluster

from postgres_database import fresh_database


@pytest.fixture(scope="session", autouse=True)
def _built_once(tmp_path_factory):
    """An agent's environment is built by the first test that needs it."""
    Cluster.built = tmp_path_factory.mktemp("built")


@pytest.fixture
async def postgres_url():
    """An empty database of the tests' PostgreSQL."""
    async with fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def url(request):
    """A database of each kind; None stands for SQLite."""
    if request.param == "sqlite":
        yield None
        return
    async with fresh_database() as url:
        yield url
