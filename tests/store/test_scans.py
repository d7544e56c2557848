"""What loops and scrapes ask again and again looks at no task and no session that does not matter."""

from __future__ import annotations

import contextlib
import sqlite3

import asyncpg
import pytest

from penstock.store.queries import load

# What is due is a range of an index, found at once when nothing is: its statement and index.
DUE = [
    ("tasks.ripen", "tasks_timed"),
    ("tasks.waited_out", "tasks_waiting"),
    ("tasks.load", "tasks_timed"),
    ("deletions.expired", "sessions_expiring"),
    ("memories.expired", "memories_expiring"),
]


async def plan(database, query):
    """How a statement is carried out, when a scan costs more than it does in an empty table."""
    compiled = load(database.kind)[query]
    if database.url is None:
        with contextlib.closing(sqlite3.connect(database.home / "penstock.sqlite")) as connection:
            connection.create_function("now_us", 0, lambda: 0)
            given = dict.fromkeys(compiled.parameters, 1)
            rows = connection.execute(f"explain query plan {compiled.sql}", given)
            return [row[3] for row in rows]
    connection = await asyncpg.connect(database.url)
    try:
        await connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        rows = await connection.fetch(f"explain {compiled.sql}", *[1 for _ in compiled.parameters])
        return [row[0].strip() for row in rows]
    finally:
        await connection.close()


@pytest.mark.parametrize(("query", "index"), DUE)
async def test_what_is_due_is_found_by_its_time(database, query, index):
    await database.open()
    steps = await plan(database, query)
    found = [at for at, step in enumerate(steps) if index in step]
    assert found, steps
    range_of = steps[found[0]] if database.url is None else steps[found[0] + 1]
    assert ("_us<?" if database.url is None else "Index Cond") in range_of, steps


async def test_tasks_are_counted_from_two_indexes(database):
    await database.open()
    steps = "\n".join(await plan(database, "tasks.counts"))
    assert "tasks_live" in steps
    assert "tasks_ended" in steps
    assert "tasks_by_agent" not in steps
    assert "Seq Scan" not in steps
