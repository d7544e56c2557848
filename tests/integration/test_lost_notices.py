"""Notifications wake servers up. Here every one of them is lost, and everything happens all the same."""

from __future__ import annotations

from functools import partial

import pytest
from test_runtime import World

from penstock.actions.signing import SigningActions
from penstock.domain.tasks import Stop
from penstock.drivers.signing.files import FileKeys
from penstock.store import endings, tasks
from rollout_world import AGENT, ENVIRONMENT, release


@pytest.fixture
async def deaf(tmp_path):
    """A worker that hears nothing."""
    world = World(tmp_path)
    await world.store.open()
    world.store._database._deliver = lambda *_: None
    world.digest = (await release(world.store, "one")).digest
    await SigningActions(world.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    await world.worker()
    yield world
    for worker in world.workers:
        await worker.drain(0.5)
    await world.store.close()


async def another(world, number, what, **asked):
    """One more task in the session of the first."""
    await world.store.transact(
        partial(
            tasks.add, task_id=f"task_{number}", session_id="ses_1", agent=AGENT,
            environment=ENVIRONMENT, release=world.digest, given={"what": what}, **asked,
        )
    )  # fmt: skip
    return f"task_{number}"


async def test_a_task_and_those_behind_it_are_found(deaf):
    made = [
        await deaf.submit("work"),
        await another(deaf, 2, "work"),
        await another(deaf, 3, "work"),
    ]
    assert [(await deaf.ended(task)).state for task in made] == ["completed"] * 3


async def test_a_task_is_found_when_its_time_has_come(deaf):
    await deaf.ended(await deaf.submit("work"))
    assert (
        await deaf.ended(await another(deaf, 2, "work", delay_seconds=0.2))
    ).state == "completed"


@pytest.mark.parametrize("why", Stop)
async def test_a_task_is_stopped_and_the_next_begins(deaf, why):
    first = await deaf.submit("hang")

    async def running():
        return (await deaf.task(first)).state == "running"

    await deaf.until(running)
    second = await another(deaf, 2, "work")
    await deaf.store.transact(partial(endings.stop, task_id=first, why=why))
    assert (await deaf.ended(first)).state == "cancelled"
    assert (await deaf.ended(second)).state == "completed"
