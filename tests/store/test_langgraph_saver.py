"""LangGraph's checkpoints in our tables behave as LangGraph's own do, on either database."""

from __future__ import annotations

import os

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"  # as in an agent's process, before the import

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from rollout_world import release
from saver_attempt import claimed, saver_of, session


@pytest.fixture
async def digest(store):
    found = (await release(store, "one")).digest
    await session(store, found)
    return found


async def test_it_passes_langgraphs_own_conformance_suite(store, digest):
    claim = await claimed(store, digest)

    @checkpointer_test(name="PenstockSaver")
    async def ours():
        yield saver_of(store, claim)

    report = await validate(ours)
    assert {
        name: result.failures for name, result in report.results.items() if not result.passed
    } == {}
    assert sum(result.tests_passed for result in report.results.values()) > 60
