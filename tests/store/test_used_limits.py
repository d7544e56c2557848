"""What a task has used of its limits, and which class it is tried in, on either database."""

from __future__ import annotations

from functools import partial

import pytest
from test_fences import begin, claim, submit

from penstock.domain.errors import Stale
from penstock.domain.tasks import ResourceClass
from penstock.store import endings, exchanges, tasks
from rollout_world import release


@pytest.fixture
async def task(store):
    digest = (await release(store, "one")).digest
    await begin(store, digest)
    await submit(store, digest, 1)
    return (await claim(store))[0].task


async def now(store):
    return await store.read(lambda tx: tasks.get(tx, "task_1"))


def back(task, epoch, resource_class=None):
    return partial(
        endings.requeue, task_id=task.id, epoch=epoch, crashes=0, losses=0, delay_seconds=0.0,
        why={}, resource_class=resource_class,
    )  # fmt: skip


async def test_tokens_and_cost_add_up_and_the_first_limit_hit_stays_known(store, task):
    charge = partial(exchanges.charge, task_id=task.id)
    await store.transact(partial(charge, cost_nanos=5, tokens=110))
    standing = await store.transact(partial(charge, cost_nanos=2, tokens=40, limit_hit="tokens"))
    assert (standing.cost_nanos, standing.tokens) == (7, 150)
    await store.transact(partial(charge, cost_nanos=0))
    assert (await now(store)).tokens == 150
    assert await store.read(lambda tx: tasks.limit_hit(tx, task.id)) == "tokens"


async def test_a_task_keeps_its_class_until_it_is_given_another(store, task):
    assert task.resource_class is ResourceClass.STANDARD
    await store.transact(back(task, 1, ResourceClass.LARGE))
    assert (await claim(store))[0].task.resource_class is ResourceClass.LARGE
    await store.transact(back(task, 2))
    assert (await claim(store))[0].task.resource_class is ResourceClass.LARGE


async def test_a_late_owner_gives_a_task_no_other_class(store, task):
    await store.transact(back(task, 1))
    await claim(store)
    with pytest.raises(Stale):
        await store.transact(back(task, 1, ResourceClass.LARGE))
    assert (await now(store)).resource_class is ResourceClass.STANDARD
