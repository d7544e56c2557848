"""Garbage collection: everything that somebody needs stays, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from penstock.actions.components import ComponentActions
from penstock.actions.garbage import GarbageActions
from penstock.actions.rollouts import RolloutActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, NotFound
from penstock.kit.clock import BootClock
from penstock.store import blobs
from rollout_world import AGENT, release

LATER_US = 10 * 86_400 * 1_000_000
OLD_US = 1_600_000_000_000_000


class Future:
    """A clock that is ten days ahead: everything that is stored now is old."""

    def now_us(self):
        return BootClock().now_us() + LATER_US


def later(store):
    return GarbageActions(store, clock=Future())


async def put(store, **contents):
    await store.transact(lambda tx: blobs.put(tx, contents))


async def test_only_what_nothing_refers_to_goes(store):
    """Referred to by a release, by a published prompt, by a record: kept. The orphan: gone."""
    made = await release(store, "one")
    pushed = await ComponentActions(store).push_prompt(SYSTEM, AGENT, "system", "Be kind.\n")
    told, orphan = "a" * 64, "b" * 64
    await put(store, **{told: b"said", orphan: b"orphan"})
    await _record(store, request=f'{{"messages": ["{told}"]}}')
    found = await later(store).collect(SYSTEM)
    assert (found.contents, found.removed) == (1, False)
    assert (await later(store).collect(SYSTEM, remove=True)).contents == 1
    for digest in (told, pushed.component.digest, made.manifest.lock.digest):
        assert await store.read(lambda tx, digest=digest: blobs.get(tx, digest))
    with pytest.raises(NotFound):
        await store.read(lambda tx: blobs.get(tx, orphan))


async def test_what_is_young_stays(store):
    await put(store, **{"c" * 64: b"just written"})
    assert (await GarbageActions(store).collect(SYSTEM, remove=True)).contents == 0


async def test_what_is_stored_again_is_young_again(database):
    """An old orphan that somebody publishes while garbage is collected is not garbage."""
    store = await database.open()
    digest = "d" * 64
    await put(store, **{digest: b"again"})
    await database.execute(f"update blobs set created_us = {OLD_US}")
    assert (await GarbageActions(store).collect(SYSTEM)).contents == 1
    await put(store, **{digest: b"again"})
    assert (await GarbageActions(store).collect(SYSTEM, remove=True)).contents == 0
    await database.close(store)


async def test_publications_and_collections_at_once_lose_nothing(database):
    store = await database.open()
    pushing, collecting = ComponentActions(store), GarbageActions(store, grace_seconds=43_300)

    async def publish(number):
        text = f"Prompt {number}.\n"
        from penstock.rules.releases import digest_bytes  # noqa: PLC0415 - one use

        await put(store, **{digest_bytes(text.encode()): text.encode()})
        await database.execute(
            f"update blobs set created_us = {OLD_US} where digest = '{digest_bytes(text.encode())}'"
        )
        await pushing.push_prompt(SYSTEM, AGENT, f"p{number}", text)

    async def collect():
        for _ in range(20):
            await collecting.collect(SYSTEM, remove=True)

    await asyncio.gather(collect(), *(publish(number) for number in range(20)))
    for number in range(20):
        shown = await pushing.show(SYSTEM, AGENT, "prompt", f"p{number}")
        assert shown.text == f"Prompt {number}.\n"
    await database.close(store)


async def test_a_release_that_served_somebody_cannot_be_deleted(store):
    live, unused = await release(store, "live"), await release(store, "unused")
    await RolloutActions(store).deploy(SYSTEM, agent=AGENT, ref=live.digest)
    with pytest.raises(Conflict, match="the stable release in production"):
        await later(store).delete_release(SYSTEM, AGENT, live.digest)
    await later(store).delete_release(SYSTEM, AGENT, unused.digest)
    from penstock.store import releases  # noqa: PLC0415 - one use

    with pytest.raises(NotFound):
        await store.read(lambda tx: releases.get(tx, unused.digest))


async def _record(store, *, request):
    async def work(tx):
        await tx.execute(
            "exchanges.add", id="exc_1", task_id=None, session_id=None, agent=AGENT, release=None,
            epoch=1, step=0, scope="", alias="main", request_digest="e" * 64, request=request, response=None,
            status=200, outcome="ok", streamed=0, provider=None, model=None, model_returned=None,
            fingerprint=None, attempts="[]", replayed_from=None, input_tokens=0, output_tokens=0,
            cached_tokens=0, reasoning_tokens=0, cost_nanos=0, started_us=1, first_token_us=None,
            duration_us=1,
        )  # fmt: skip

    await store.transact(work)
