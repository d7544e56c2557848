"""Vectors that the database compares: what Penstock finds one by one is what is found there."""

import random
import sys
from array import array
from functools import partial

import pytest

from comparing import LOADS, by_sqlite_vec, one_by_one
from penstock.domain.errors import Invalid
from penstock.domain.memories import MemoryScope, NewMemory
from penstock.rules.memories import ranked
from penstock.runtime.memories import Memories
from penstock.store import memories, vectors
from penstock.store.sqlite import SqliteDatabase
from rollout_world import AGENT, ENVIRONMENT

SCOPE = MemoryScope(agent=AGENT, environment=ENVIRONMENT)
DIMENSIONS = 24


class Reader:
    """What a search needs of an attempt's journal."""

    def __init__(self, store):
        self.read = store.read
        self.compares_vectors = store.vectors is not None


@pytest.fixture
async def store(database, monkeypatch):
    if database.kind == "postgres":
        pytest.skip("PostgreSQL compares no vectors")
    with by_sqlite_vec(monkeypatch):
        yield await database.open()


def vector(*numbers):
    return array("f", numbers).tobytes()


def memory(namespace, key, *found, **more):
    return NewMemory(namespace=namespace, key=key, value={}, vectors=found, **more)


async def keep(store, *new, scope=SCOPE):
    async def work(tx):
        for one in new:
            await memories.put(tx, scope, one)

    await store.transact(work)


def nearest(store, query, *, scope=SCOPE, prefix=(), limit=1000, offset=0):
    return store.read(
        partial(
            memories.nearest, scope=scope, prefix=prefix, vector=query, limit=limit, offset=offset
        )
    )  # fmt: skip


async def near(store, query, *, scope=SCOPE, prefix=()):
    """Namespaces and keys as the database ranks them."""
    return [place for place, _ in await nearest(store, query, scope=scope, prefix=prefix)]


@pytest.mark.parametrize("seed", range(3))
async def test_the_database_ranks_as_penstock_does(store, seed):
    random.seed(seed)

    def some():
        if random.random() < 0.1:
            return vector(*[0.0] * DIMENSIONS)
        return vector(*(random.gauss(0, 10 ** random.randint(-3, 3)) for _ in range(DIMENSIONS)))

    for number in range(120):
        namespace = random.choice(
            [("facts",), ("facts", "deep"), ("users", "ada"), ("users", "bob")]
        )
        await keep(store, memory(namespace, f"{number:03}", *(some() for _ in range(number % 4))))
    for scope in (SCOPE, MemoryScope(agent=AGENT, environment=ENVIRONMENT, user_id="ada")):
        for prefix in ((), ("facts",), ("facts", "deep"), ("users",), ("nothing",)):
            query = some()
            kept = await store.read(
                partial(memories.vectors, scope=scope, prefix=prefix, limit=1000)
            )
            expected = dict(ranked(query, kept))
            found = await nearest(store, query, scope=scope, prefix=prefix)
            assert dict(found) == pytest.approx(expected, abs=1e-5)
            scores = [score for _, score in found]
            assert scores == sorted(scores, reverse=True)
            if scope.user_id:
                assert not any(namespace == ("users", "bob") for (namespace, _), _ in found)


async def test_pages_follow_each_other(store):
    await keep(store, *(memory(("a",), f"{n:02}", vector(1.0, n)) for n in range(50)))
    query = vector(1.0, 0.0)
    whole = await nearest(store, query)
    pages = [await nearest(store, query, limit=7, offset=start) for start in range(0, 50, 7)]
    assert [place for page in pages for place in page] == whole
    assert [key for (_, key), _ in whole] == [f"{n:02}" for n in range(50)]


async def test_a_filter_reaches_behind_the_first_page(store):
    """The only one that fits is the farthest of more than two pages."""
    count = 450
    await keep(store, *(memory(("a",), f"{n:03}", vector(1.0, n)) for n in range(count)))
    await keep(
        store,
        NewMemory(namespace=("a",), key="it", value={"fits": True}, vectors=(vector(-1.0, 0.0),)),
    )
    op = {"op": "search", "namespace": [], "vector": True, "filter": {"fits": True}}
    found = Memories(Reader(store), SCOPE)
    [items] = await found.batch([op], [vector(1.0, 0.0)])
    assert [item["key"] for item in items] == ["it"]
    assert items[0]["score"] == pytest.approx(-1.0)


async def test_one_of_another_dimension_is_named_wherever_it_stands(store):
    query = vector(1.0, 0.0)
    await keep(store, memory(("a",), "fits", query), memory(("b",), "does-not", vector(1.0)))
    with pytest.raises(Invalid, match="2 dimensions and a memory 1"):
        await nearest(store, query, limit=1)
    assert await near(store, query, prefix=("a",)) == [(("a",), "fits")]


async def test_what_is_gone_is_not_found(database, store):
    query = vector(1.0, 0.0)
    ada = MemoryScope(agent=AGENT, environment=ENVIRONMENT, user_id="ada")
    for key in ("kept", "deleted", "rewritten"):
        await keep(store, memory(("a",), key, query))
    await keep(store, memory(("a",), "expired", query, ttl_us=60_000_000))
    await keep(store, memory(("a",), "hers", query), scope=ada)
    assert len(await near(store, query)) == 5

    await keep(store, NewMemory(namespace=("a",), key="deleted", value=None))
    await keep(store, memory(("a",), "rewritten"))
    await store.transact(partial(memories.forget, agent=AGENT, user_id="ada"))
    await database.execute("update memories set expires_us = 1 where expires_us is not null")
    assert await near(store, query) == [(("a",), "kept")]


async def test_another_agent_and_another_environment_are_not_seen(store):
    query = vector(1.0, 0.0)
    await keep(store, memory(("a",), "k", query))
    for other in (
        MemoryScope(agent="other", environment=ENVIRONMENT),
        MemoryScope(agent=AGENT, environment="other"),
    ):
        assert await near(store, query, scope=other) == []


async def test_the_extension_may_come_and_go(database, monkeypatch):
    if database.kind == "postgres":
        pytest.skip("PostgreSQL compares no vectors")
    query, op = vector(1.0, 0.0), {"op": "search", "namespace": [], "vector": True}
    expected = []
    for number, ways in enumerate(("one", "vec", "one", "vec")):
        with monkeypatch.context() as patch:
            if ways == "one":
                one_by_one(patch)
                store = await database.open()
                assert store.vectors is None
                expected = await _found_with_one_more(store, op, query, number, expected)
                await database.close(store)
                continue
            with by_sqlite_vec(patch):
                store = await database.open()
                assert store.vectors.startswith("sqlite-vec v")
                expected = await _found_with_one_more(store, op, query, number, expected)
                await database.close(store)


async def _found_with_one_more(store, op, query, number, expected):
    await keep(store, memory(("a",), str(number), vector(1.0, number)))
    expected = [*expected, str(number)]
    [items] = await Memories(Reader(store), SCOPE).batch([op], [query])
    assert [item["key"] for item in items] == expected
    return expected


# ---------------------------------------------------------------- loading it


async def test_a_python_that_loads_extensions_loads_it(tmp_path):
    if not LOADS:
        pytest.skip("the sqlite3 of this Python loads no extensions")
    database = SqliteDatabase(tmp_path, lambda *_: None)
    with database._connect() as connection:
        assert vectors.load_sqlite_vec(connection).startswith("sqlite-vec v")
        with pytest.raises(Exception, match="not authorized"):
            connection.execute("select load_extension('anything')")


async def test_without_the_package_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    database = SqliteDatabase(tmp_path, lambda *_: None)
    assert vectors.load_sqlite_vec(database._connect()) is None


async def test_a_python_that_cannot_load_it_says_so(caplog):
    class Closed:
        """A connection of a Python that was built without extensions."""

    assert vectors.load_sqlite_vec(Closed()) is None
    assert "loads no extensions" in caplog.text
