"""Memory outside of Penstock, and what a filter means."""

from __future__ import annotations

import asyncio

import pytest

from penstock import memory


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(memory, "_local", {})


def test_an_agent_runs_without_penstock():
    memory.put("facts", "a", {"text": "An owl", "n": 1})
    memory.put(memory.user("likes"), "b", {"text": "owl by day", "n": 2}, ttl=5)
    assert memory.get(("facts",), "a") == {"text": "An owl", "n": 1}
    assert memory.get(("facts",), "c") is None
    assert [item.key for item in memory.search(query="owl day")] == ["b", "a"]
    assert [item.key for item in memory.search(filter={"n": {"$lt": 2}})] == ["a"]
    assert [item.key for item in memory.search(limit=1, offset=1)] == ["a"]
    assert memory.namespaces() == [("facts",), ("users", "local", "likes")]
    assert memory.namespaces(("users",)) == [("users", "local", "likes")]
    memory.delete("facts", "a")
    memory.delete("facts", "a")
    assert memory.search(("facts",)) == []


def test_async_code_does_the_same():
    async def agent():
        await memory.aput("facts", "a", {"n": 1})
        found = [
            await memory.aget("facts", "a"),
            await memory.asearch(),
            await memory.anamespaces(),
        ]
        await memory.adelete("facts", "a")
        return found, await memory.aget("facts", "a")

    (value, [item], names), gone = asyncio.run(agent())
    assert (value, item.value, names, gone) == ({"n": 1}, {"n": 1}, [("facts",)], None)
    assert repr(item) == "Item(facts/a: {'n': 1})"


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        ({"n": 1}, {}, True),
        ({"n": 1}, {"n": 1}, True),
        ({"n": 1}, {"n": "1"}, False),
        ({"n": 3}, {"n": {"$gt": 1, "$lte": 3}}, True),
        ({"n": 3}, {"n": {"$gt": 3}}, False),
        ({"n": 3}, {"n": {"$gte": 3}}, True),
        ({"n": 3}, {"n": {"$lt": 3}}, False),
        ({"n": "4"}, {"n": {"$gt": 3}}, True),
        ({"n": None}, {"n": {"$gt": 3}}, False),
        ({}, {"n": {"$lt": 3}}, False),
        ({}, {"n": None}, True),
        ({"n": 1}, {"n": {"$ne": 2}}, True),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": {"$gt": 1}}]}}, True),
        ({"a": {"b": [1]}}, {"a": {"b": [1, 2]}}, False),
        ({"a": 1}, {"a": {"b": 1}}, False),
    ],
)
def test_a_filter_compares_members(value, wanted, fits):
    assert memory.matches(value, wanted) is fits


def test_an_operator_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"knows no \$in"):
        memory.matches({"n": 1}, {"n": {"$in": [1]}})
