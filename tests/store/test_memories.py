"""Memory on either database: like LangGraph's own store, fenced, isolated, forgotten in time."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from comparing import by_sqlite_vec, one_by_one
from penstock.actions.memories import MemoryActions
from penstock.control.expiries import Expiries
from penstock.domain.errors import Exhausted, Forbidden, Invalid, NotFound, Stale
from penstock.domain.memories import MemoryScope, NewMemory
from penstock.domain.releases import Limits
from penstock.inside.frameworks.langgraph_store import PenstockStore
from penstock.rules.limits import Terms
from penstock.runtime.calls import answer_call
from penstock.runtime.journals import Journal
from penstock.runtime.memories import Memories
from penstock.store import claims, endings, memories, sessions, tasks
from rollout_world import ADA, AGENT, ENVIRONMENT, VIEWER, release

SCOPE = MemoryScope(agent=AGENT, environment=ENVIRONMENT)
DAY = 86_400


@pytest.fixture(params=["by the database", "one by one"])
async def store(request, database, monkeypatch):
    """An open store of each way to compare vectors that there is here."""
    if request.param == "one by one":
        one_by_one(monkeypatch)
        yield await database.open()
    elif database.kind == "postgres":
        pytest.skip("PostgreSQL compares no vectors")
    else:
        with by_sqlite_vec(monkeypatch):
            found = await database.open()
            assert found.vectors.startswith("sqlite-vec")
            yield found


@pytest.fixture
async def digest(store):
    return (await release(store, "one")).digest


async def attempt(store, digest, number=1, user=None):
    """The journal of a claimed task, in a session of its own."""

    async def work(tx):
        await sessions.add(
            tx, session_id=f"ses_{number}", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=user, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        await tasks.add(
            tx, task_id=f"task_{number}", session_id=f"ses_{number}", agent=AGENT,
            environment=ENVIRONMENT, release=digest, given={},
        )  # fmt: skip
        return await claims.claim(tx, worker_id="w", limit=10)

    taken = await store.transact(work)
    claim = next(one for one in taken if one.task.id == f"task_{number}")
    return Journal(store, claim, Terms.of(Limits(), {}, claim.task.resource_class))


def memory(journal, *, agent=AGENT, environment=ENVIRONMENT, user=None):
    return Memories(journal, MemoryScope(agent=agent, environment=environment, user_id=user))


def put(key, value, namespace=("facts",), **more):
    return {"op": "put", "namespace": namespace, "key": key, "value": value, **more}


def get(key, namespace=("facts",), **more):
    return {"op": "get", "namespace": namespace, "key": key, **more}


def search(namespace=(), **more):
    return {"op": "search", "namespace": namespace, **more}


async def do(found, *ops, blobs=()):
    return await found.batch(ops, blobs)


async def keys(found, *args, **more):
    [items] = await do(found, search(*args, **more))
    return [item["key"] for item in items]


class Inside:
    """What an agent's process sees of its supervisor, without the process."""

    def __init__(self, journal):
        self._journal = journal

    async def aremember(self, ops, blobs=()):
        call = json.loads(json.dumps({"op": "memory.batch", "ops": ops}))
        answer = await answer_call(self._journal, call, list(blobs), said=list)
        return json.loads(json.dumps(answer.header))["results"]


def embed(texts):
    """A direction for each of a few letters: texts with the same letters are near."""
    return [[text.lower().count(letter) + 0.01 for letter in "abcdxyz"] for text in texts]


# ---------------------------------------------------------------- as LangGraph's own store


INDEX = {"dims": 7, "embed": embed, "fields": ["text", "more[*]"]}

CASES = {
    "a key": lambda s: [
        s.aput(("a",), "k", {"n": 1}), s.aget(("a",), "k"), s.aget(("a",), "other"),
        s.aget(("a", "b"), "k"), s.aput(("a",), "k", {"n": 2}), s.aget(("a",), "k"),
        s.adelete(("a",), "k"), s.aget(("a",), "k"), s.adelete(("a",), "k"),
    ],
    "below": lambda s: [
        s.aput(("a",), "1", {}), s.aput(("a", "b"), "2", {}), s.aput(("ab",), "3", {}),
        s.aput(("a", "b", "c"), "4", {}), s.aput(("a b",), "5", {}), s.asearch(("a",)),
        s.asearch(()), s.asearch(("a", "b")), s.asearch(("b",)), s.asearch(("a",), limit=0),
        s.aput(("ä", "日本"), "6", {"é": "\u2028\x00"}), s.asearch(("ä",)),
    ],
    "filters": lambda s: [
        *(s.aput(("f",), str(n), {"n": n, "even": n % 2 == 0, "in": {"x": n, "y": [n, 1]}})
          for n in range(6)),
        s.asearch(("f",), filter={"n": 3}), s.asearch(("f",), filter={"even": True}),
        s.asearch(("f",), filter={"n": {"$gt": 1, "$lte": 4}, "even": True}),
        s.asearch(("f",), filter={"n": {"$ne": 1}}), s.asearch(("f",), filter={"n": {"$eq": 1}}),
        s.asearch(("f",), filter={"n": {"$gte": 4}}), s.asearch(("f",), filter={"n": {"$lt": 2}}),
        s.asearch(("f",), filter={"in": {"x": 2}}), s.asearch(("f",), filter={"in": {"y": [2, 1]}}),
        s.asearch(("f",), filter={"in": {"x": {"$gt": 4}}}), s.asearch(("f",), filter={"z": 1}),
        s.asearch(("f",), filter={"z": None}), s.asearch(("f",), filter={"in": 5}),
        s.asearch(("f",), filter={"n": {"$in": [1]}}),
    ],
    "namespaces": lambda s: [
        *(s.aput(n, "k", {}) for n in
          [("a", "b", "c"), ("a", "b", "d"), ("a", "x", "c"), ("b",), ("c", "b", "c")]),
        s.alist_namespaces(), s.alist_namespaces(prefix=("a",)), s.alist_namespaces(suffix=("c",)),
        s.alist_namespaces(prefix=("a", "*", "c")), s.alist_namespaces(max_depth=1),
        s.alist_namespaces(prefix=("a",), suffix=("d",)), s.alist_namespaces(limit=2, offset=1),
        s.alist_namespaces(prefix=("a", "b", "c", "d")), s.alist_namespaces(suffix=("*",)),
    ],
    "batches": lambda s: [
        s.abatch([PutOp(("a",), "k", {"n": 1}), GetOp(("a",), "k"), PutOp(("a",), "k", {"n": 2}),
                  SearchOp(("a",))]),
        s.abatch([GetOp(("a",), "k"), PutOp(("a",), "k", None), PutOp(("a",), "l", {})]),
        s.abatch([GetOp(("a",), "k"), GetOp(("a",), "l")]),
    ],
    "bad": lambda s: [
        s.aput((), "k", {}), s.aput(("",), "k", {}), s.aput(("a.b",), "k", {}),
        s.aput(("langgraph",), "k", {}), s.aput((1,), "k", {}),
    ],
    "meaning": lambda s: [
        s.aput(("m",), "1", {"text": "aaa"}), s.aput(("m",), "2", {"text": "bbb"}),
        s.aput(("m",), "3", {"text": "aab", "more": ["ccc", "ddd"]}),
        s.aput(("m",), "4", {"text": "aaaa"}, index=False),
        s.aput(("m",), "5", {"text": "aaa", "title": "xyz"}, index=["title"]),
        s.asearch(("m",), query="a"), s.asearch(("m",), query="d"), s.asearch(("m",), query="x"),
        s.asearch(("m",), query="a", limit=2), s.asearch(("m",), query="a", limit=1, offset=1),
        s.asearch(("m",), query="a", filter={"text": "bbb"}),
        s.aput(("m",), "1", {"text": "ddd"}), s.asearch(("m",), query="d", limit=2),
        s.adelete(("m",), "1"), s.asearch(("m",), query="d", limit=1), s.asearch(("m",)),
        s.abatch([PutOp(("m",), "9", {"text": "z"}), PutOp(("m",), "9", {"text": "y"}),
                  SearchOp(("m",), query="z", limit=1)]),
        s.asearch(("m",), query="y", limit=1),
    ],
}  # fmt: skip


def plain(result):
    if isinstance(result, list):
        items = [plain(one) for one in result]
        scored = [item for item in items if isinstance(item, tuple) and isinstance(item[0], float)]
        scored.sort(key=lambda item: (-item[0], item[2]))  # equals in any order
        rest = sorted((item for item in items if item not in scored), key=repr)
        return [*scored, *rest]
    if hasattr(result, "value"):
        score = getattr(result, "score", None)
        return (
            None if score is None else round(score, 4), result.namespace, result.key, result.value,
        )  # fmt: skip
    return result


async def outcomes(calls):
    found = []
    for call in calls:
        try:
            found.append(plain(await call))
        except Exception as error:  # noqa: BLE001 - which one it is is what is compared
            found.append(type(error).__mro__[-4].__name__)
    return found


@pytest.mark.parametrize("case", CASES)
async def test_it_does_what_langgraphs_own_store_does(store, digest, case):
    index = INDEX if case == "meaning" else None
    ours = PenstockStore(Inside(await attempt(store, digest)), index=index)
    theirs = InMemoryStore(index=index)
    expected = await outcomes(CASES[case](theirs))
    assert await outcomes(CASES[case](ours)) == expected


# ---------------------------------------------------------------- the fence, and who sees what


async def test_a_late_attempt_remembers_nothing(store, digest):
    journal = await attempt(store, digest)
    found = memory(journal)
    await do(found, put("k", {"n": 1}))
    await store.transact(
        partial(
            endings.requeue, task_id="task_1", epoch=1, crashes=1, losses=0, delay_seconds=0, why={}
        )
    )
    for op in (put("k", {"n": 2}), put("k", None)):
        with pytest.raises(Stale):
            await do(found, op)
    [item] = await do(found, get("k"))
    assert item["value"] == {"n": 1}


async def test_a_batch_is_written_whole_or_not_at_all(store, digest):
    found = memory(await attempt(store, digest))
    with pytest.raises(Exhausted):
        await do(found, put("a", {}), put("b", {"text": "x" * (2 << 20)}))
    with pytest.raises(Invalid):
        await do(found, put("a", {}), {"op": "explode"})
    assert await keys(found) == []


async def test_what_is_written_again_after_a_crash_is_there_once(store, digest):
    found = memory(await attempt(store, digest))
    first = await do(found, put("k", {"n": 1}), get("k"))
    again = await do(found, put("k", {"n": 1}), get("k"))
    assert first == [None, None]
    assert again[1]["value"] == {"n": 1}
    assert await keys(found) == ["k"]


async def test_agents_and_environments_do_not_see_each_other(store, digest):
    journal = await attempt(store, digest)
    await do(memory(journal), put("k", {"mine": True}))
    for other in (memory(journal, agent="other"), memory(journal, environment="staging")):
        assert await do(other, get("k"), search(), {"op": "namespaces"}) == [None, [], []]
        await do(other, put("k", None))
    assert await keys(memory(journal)) == ["k"]


async def test_a_session_reaches_its_own_users_memories_only(store, digest):
    journal = await attempt(store, digest)
    ada, bob, nobody = (memory(journal, user=user) for user in ("ada", "bob", None))
    await do(ada, put("k", {"of": "ada"}, ("users", "ada", "likes")), put("s", {"of": "all"}))
    await do(bob, put("b", {"of": "bob"}, ("users", "bob")))
    for op in (
        get("k", ("users", "ada", "likes")),
        put("k", {}, ("users", "ada")),
        put("k", None, ("users", "ada", "likes")),
        search(("users", "ada")),
    ):
        with pytest.raises(Forbidden):
            await do(bob, op)
    assert await keys(bob) == ["b", "s"]
    assert await keys(bob, ("users",)) == ["b"]
    assert await keys(bob, query="ada bob") == ["b"]
    vector = b"\x00\x00\x80?"
    await do(ada, put("v", {}, ("users", "ada"), vectors=1), blobs=[vector])
    [near] = await bob.batch([search(vector=True)], [vector])
    assert {item["key"] for item in near} == {"b", "s"}
    [names] = await do(bob, {"op": "namespaces"})
    assert names == [["facts"], ["users", "bob"]]
    # A user whose name begins like another's is another.
    assert await keys(memory(journal, user="ad"), ("users",)) == []
    assert set(await keys(nobody)) == {"k", "s", "b", "v"}


# ---------------------------------------------------------------- searching


async def test_words_find_and_the_most_of_them_come_first(store, digest):
    found = memory(await attempt(store, digest))
    await do(
        found,
        put("1", {"text": "The Owl sleeps by day", "n": 1042}),
        put("2", {"text": "an owl and a DAY", "tags": ["Night-time", {"deep": "Ünïcode"}]}),
        put("3", {"text": "nothing of that"}),
        put("4", {"text": "owl day"}, searchable=False),
    )
    assert await keys(found, query="owl by day") == ["1", "2"]
    [items] = await do(found, search(query="owl by day"))
    assert [round(item["score"], 2) for item in items] == [1.0, 0.67]
    assert await keys(found, query="ow") == []
    assert await keys(found, query="night") == ["2"]
    assert await keys(found, query="ÜNÏCODE") == ["2"]
    assert await keys(found, query="1042") == ["1"]
    assert await keys(found, query="owl", filter={"n": {"$gt": 1}}) == ["1"]
    assert await keys(found, query="owl", limit=1, offset=1) in (["1"], ["2"])
    # Nothing in a query is an operator.
    for query in ("' & | ! ( :*", "owl' | 'x", "<-> owl", "a" * 5000):
        assert set(await keys(found, query=query)) <= {"1", "2", "3", "4"}


async def test_pages_hold_everything_once(store, digest):
    found = memory(await attempt(store, digest))
    for start in range(0, 450, 150):
        await do(
            found, *(put(f"{n:03}", {"n": n, "text": "word"}) for n in range(start, start + 150))
        )
    for query in (None, "word"):
        seen = []
        for offset in range(0, 450, 100):
            seen += await keys(found, query=query, limit=100, offset=offset)
        assert sorted(seen) == [f"{n:03}" for n in range(450)]
    assert await keys(found, filter={"n": {"$lt": 3}}) != []


async def test_a_vector_of_another_dimension_is_named(store, digest):
    found = memory(await attempt(store, digest))
    await do(found, put("k", {}, vectors=1), blobs=[b"\x00" * 8])
    with pytest.raises(Invalid, match="1 dimensions and a memory 2"):
        await found.batch([search(vector=True)], [b"\x00" * 4])
    with pytest.raises(Invalid, match="float32"):
        await do(found, put("k", {}, vectors=1), blobs=[b"\x00" * 5])
    with pytest.raises(Invalid, match="finite"):
        await do(found, put("k", {}, vectors=1), blobs=[b"\x00\x00\xc0\x7f" * 2])
    with pytest.raises(Invalid, match="finite"):
        await found.batch([search(vector=True)], [b"\x00\x00\x80\x7f" * 2])


@pytest.mark.parametrize(
    "op",
    [
        put("", {}), put("k", [1]), put("k", {}, ()), put("k", {}, ("a\x1fb",)), put("k" * 600, {}),
        put("k", {}, ttl=-1), put("k", {}, ttl=1e300), put("k", {}, tuple("a" * 17)),
        search(limit=-1), search(offset="x"), {"op": "namespaces", "conditions": [["infix", ["a"]]]},
    ],
)  # fmt: skip
async def test_nonsense_is_refused_and_changes_nothing(store, digest, op):
    found = memory(await attempt(store, digest))
    await do(found, put("k", {"kept": True}, ("a",)))
    with pytest.raises((Invalid, OverflowError)):
        await do(found, op)
    assert await keys(found) == ["k"]


# ---------------------------------------------------------------- forgetting


async def shift(database, seconds):
    await database.execute(
        f"update memories set expires_us = expires_us - {int(seconds * 1_000_000)}"
    )


async def test_what_has_had_its_time_is_gone_and_is_swept(database, store, digest):
    found = memory(await attempt(store, digest))
    await do(found, put("short", {}, ttl=DAY, vectors=1), put("long", {}), blobs=[b"\x00" * 4])
    await shift(database, DAY * 2)
    assert await do(found, get("short"), search(query=None)) == [None, [
        item for item in (await do(found, search()))[0] if item["key"] == "long"
    ]]  # fmt: skip
    [near] = await found.batch([search(vector=True)], [b"\x00" * 4])
    assert [item["key"] for item in near] == ["long"]
    assert await store.transact(partial(memories.sweep, limit=10)) == 1
    assert await store.transact(partial(memories.sweep, limit=10)) == 0
    assert await store.read(partial(memories.vectors, scope=SCOPE, prefix=(), limit=9)) == []


async def test_the_loop_that_ends_things_sweeps_memories(database, store, digest):
    found = memory(await attempt(store, digest))
    await do(found, *(put(str(n), {}, ttl=DAY) for n in range(150)), put("kept", {}))
    await shift(database, DAY * 2)
    expiries = Expiries(store)
    expiries.start()
    async with asyncio.timeout(20):
        while await store.read(lambda tx: tx.fetch_all("memories.expired", limit=1)):
            await asyncio.sleep(0.02)
    await expiries.stop()
    assert await keys(found) == ["kept"]


async def test_reading_begins_the_time_anew_unless_it_is_not_to(database, store, digest):
    found = memory(await attempt(store, digest))
    await do(found, put("a", {}, ttl=DAY), put("b", {}, ttl=DAY))
    for _ in range(3):
        await shift(database, DAY / 2)
        await do(found, get("a"), get("b", refresh=False))
    assert await keys(found) == ["a"]


async def test_a_user_is_forgotten_whole(store, digest):
    journal = await attempt(store, digest)
    ada, bob = memory(journal, user="ada"), memory(journal, user="bob")
    await do(ada, put("likes", {}, ("users", "ada")), put("told", {}, vectors=1), blobs=[b"\0" * 4])
    await do(bob, put("likes", {}, ("users", "bob")), put("other", {}))
    await do(memory(journal), put("written-by-nobody", {}, ("users", "ada")))
    actions = MemoryActions(store)
    with pytest.raises(Forbidden):
        await actions.delete(VIEWER, agent=AGENT, user="ada")
    with pytest.raises(Invalid, match="was not said"):
        await actions.delete(ADA, agent=AGENT)
    assert await actions.delete(ADA, agent=AGENT, user="ada") == 3
    assert await actions.delete(ADA, agent=AGENT, user="ada") == 0
    assert await store.read(partial(memories.vectors, scope=SCOPE, prefix=(), limit=9)) == []
    left = await actions.listing(VIEWER, agent=AGENT)
    assert {(item.namespace, item.key) for item in left} == {
        (("users", "bob"), "likes"),
        (("facts",), "other"),
    }


async def test_a_namespace_a_key_or_all_is_forgotten(store, digest):
    found = memory(await attempt(store, digest))
    await do(found, *(put(k, {"text": k}, n) for n in (("a",), ("a", "b"), ("ab",)) for k in "xy"))
    actions = MemoryActions(store)
    assert await actions.get(ADA, agent=AGENT, environment=ENVIRONMENT, namespace=["a"], key="x")
    with pytest.raises(NotFound):
        await actions.get(ADA, agent=AGENT, environment=ENVIRONMENT, namespace=["a"], key="z")
    assert await actions.delete(ADA, agent=AGENT, namespace=["a"], key="x") == 2
    assert await actions.delete(ADA, agent=AGENT, environment="staging", everything=True) == 0
    assert await actions.delete(ADA, agent=AGENT, namespace=["a"]) == 2
    assert [item.namespace for item in await actions.listing(ADA, agent=AGENT)] == [("ab",)] * 2
    assert await actions.delete(ADA, agent="other", everything=True) == 0
    assert await actions.delete(ADA, agent=AGENT, everything=True) == 2


async def test_writers_at_the_same_time_end_with_one_of_their_values(store, digest):
    first = memory(await attempt(store, digest, 1))
    second = memory(await attempt(store, digest, 2))
    await asyncio.gather(
        *(do(found, put("k", {"n": n})) for n in range(10) for found in (first, second))
    )
    [item] = await do(first, get("k"))
    assert item["value"]["n"] in range(10)
    assert await keys(first) == ["k"]


async def test_writers_of_one_vector_wait_for_each_other(database, store):
    if database.kind == "sqlite":
        pytest.skip("SQLite has one writer")
    held, go = asyncio.Event(), asyncio.Event()
    vector = b"\0\0\x80?"

    async def write(tx, value):
        new = NewMemory(namespace=("facts",), key="a", value={"is": value}, vectors=(vector,))
        await memories.put(tx, SCOPE, new)

    async def slow(tx):
        await write(tx, "first")
        held.set()
        await go.wait()

    async def waits():
        async with store.snapshot() as snapshot:
            sql = (
                "select 1 from pg_stat_activity"
                " where wait_event_type = 'Lock' and datname = current_database()"
            )
            return [row async for rows in snapshot.stream(sql) for row in rows]

    first = asyncio.create_task(store.transact(slow))
    await held.wait()
    second = asyncio.create_task(store.transact(partial(write, value="second")))
    async with asyncio.timeout(20):
        while not await waits():
            await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(first, second)
    look = partial(memories.vectors, scope=SCOPE, prefix=("facts",), limit=10)
    assert await store.read(look) == [((("facts",), "a"), vector)]
