"""Whatever goes wrong, and in whichever order, what was promised is kept.

Every seed is a history of its own: servers that crash before, inside and after a commit, answers
that are lost, commits that come late, outages, partitions, pauses, drains, clocks that jump,
notifications that are lost and doubled, agents that die, people who cancel. A failing seed prints
its history; ``PENSTOCK_SIMULATION_SEED=N pytest tests/simulation`` shows it again.
"""

from __future__ import annotations

import logging
import os
from collections import Counter

import pytest
from simulated_database import Transaction
from simulated_world import OPERATION_FAULTS, World, story

ONE = os.environ.get("PENSTOCK_SIMULATION_SEED")
SEEDS = int(os.environ.get("PENSTOCK_SIMULATION_SEEDS", "1000"))
BLOCK = 100
FIRSTS = [int(ONE)] if ONE else range(0, SEEDS, BLOCK)


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)  # outages are told of, and there are many
    yield
    logging.disable(logging.NOTSET)


def holds(world):
    found = world.run()
    assert not found, story(world, found)


@pytest.mark.parametrize("first", FIRSTS)
def test_every_history_keeps_what_was_promised(first):
    for seed in range(first, first + (1 if ONE else BLOCK)):
        holds(World(seed))


@pytest.mark.parametrize("fault", OPERATION_FAULTS)
def test_any_one_operation_may_go_wrong(fault):
    """The n-th operation fails, for every n until there is none."""
    calm = World(0, calm=True)
    holds(calm)
    for number in range(1, calm.database.operations + 1):
        holds(World(number % 7, calm=True, plan={number: fault}))


def test_no_outage_of_the_database_takes_a_healthy_worker_for_dead():
    for seed in range(60):
        world = World(seed, only=("refuse", "stall"))
        holds(world)
        assert not world.history.buried, story(world, ["the healthy were buried"])
        lost = world.database.rows("select id from tasks where losses > 0")
        assert not lost, story(world, [f"{row['id']} was taken over" for row in lost])


def test_a_seed_is_one_history():
    first, again = World(11), World(11)
    holds(first)
    holds(again)
    assert first.history.lines == again.history.lines
    assert len(first.history.lines) > 20


def test_faults_strike_and_matter():
    """A simulation in which nothing happens proves nothing."""
    seen = Counter()
    for seed in range(40):
        world = World(seed)
        holds(world)
        seen["faults"] += sum("***" in line for line in world.history.lines)
        seen["buried"] += len(world.history.buried)
        seen["given back"] += sum(
            (move.before, move.after) == ("running", "queued") for move in world.history.moves
        )
        seen.update(world.history.states.values())
    assert min(seen[kind] for kind in ("faults", "buried", "given back")) >= 20, seen
    assert min(seen[state] for state in ("completed", "failed", "cancelled", "dead_lettered")), seen


def test_a_transaction_that_dies_inside_leaves_nothing():
    world = World(0, calm=True)
    rows = world.database.rows

    async def work(tx: Transaction):
        await tx.execute(
            "workers.register",
            id="w",
            host="h",
            pid=1,
            process="",
            kind="server",
            lease_us=1,
            capacity=1,
        )
        await tx.fetch_all("workers.registered")

    world.database._execute("s1", work, True, dies_after=1)
    assert rows("select id from workers") == []
    world.database._execute("s1", work, True)
    assert len(rows("select id from workers")) == 1
