"""What an edit of a state holds, and what a fork takes along; on either database."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from penstock.actions.deletions import DeletionActions
from penstock.actions.states import StateActions
from penstock.control.expiries import Expiries
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, NotFound
from penstock.domain.states import StateWish
from penstock.rules.checkpoints import snapshot
from penstock.runtime.states import States
from penstock.store import attachments, checkpoints, claims, endings, sessions, tasks
from penstock.store.checkpoints import Checkpoint
from rollout_world import AGENT, ENVIRONMENT, release


@pytest.fixture
async def digest(store):
    return (await release(store, "one")).digest


async def begin(store, digest):
    async def work(tx):
        await sessions.add(
            tx, session_id="ses_1", agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id="u", metadata={"a": 1}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        await tasks.add(
            tx, task_id="task_1", session_id="ses_1", agent=AGENT, environment=ENVIRONMENT,
            release=digest, given=None,
        )  # fmt: skip

    await store.transact(work)


async def place(store, digest, number, session="ses_1"):
    checkpoint = Checkpoint(
        namespace="", checkpoint_id=str(number), parent_id=None, task_id="edit", data=snapshot({}),
        metadata=b"{}", depth=0,
    )  # fmt: skip
    commit, _ = checkpoints.of(
        checkpoint, sealer=store.sealer, session_id=session, epoch=0, release=digest, said=()
    )

    async def work(tx):
        for query, rows in commit.rows:
            await tx.execute_many(query, rows)

    await store.transact(work)


async def test_nobody_claims_a_task_while_its_sessions_state_is_edited(database, store, digest):
    await begin(store, digest)
    held, go = asyncio.Event(), asyncio.Event()

    async def edits(tx):
        found = await tasks.hold(tx, "ses_1")
        held.set()
        if database.kind == "postgres":  # an embedded database has one writer anyway
            await go.wait()
        return [task.id for task in found]

    editing = asyncio.create_task(store.transact(edits))
    await held.wait()
    claim = partial(claims.claim, worker_id="w", limit=10)
    if database.kind == "postgres":
        assert await store.transact(claim) == []
    go.set()
    assert await editing == ["task_1"]
    assert [one.task.id for one in await store.transact(claim)] == ["task_1"]


async def test_a_fork_has_the_states_up_to_its_beginning_and_none_that_come_later(store, digest):
    await begin(store, digest)
    states = StateActions(store, framework=None)
    with pytest.raises(Conflict, match="no state"):
        await states.fork(SYSTEM, "ses_1")
    for number in (1, 2, 3):
        await place(store, digest, number)
    given = {"attachment_id": "att_1", "digest": "d" * 64, "content": b"file"}
    await store.transact(
        partial(
            attachments.add, session_id="ses_1", content_type="text/plain", filename="f", **given
        )
    )
    latest = partial(checkpoints.latest, session_id="ses_1")
    assert await store.read(latest) == "3"
    forked = await states.fork(SYSTEM, "ses_1", checkpoint_id="2", metadata={"b": 2})
    assert forked.metadata == {"a": 1, "b": 2, "forked_from": "ses_1"}
    assert await store.read(partial(checkpoints.latest, session_id=forked.id)) == "2"
    await place(store, digest, 9, session=forked.id)
    # Its files, under the ids that its state names, also when the other session is gone.
    await store.transact(partial(endings.cancel, task_id="task_1"))
    assert await DeletionActions(store).session(SYSTEM, "ses_1")
    await Expiries(store, quiet_seconds=-1).sweep()
    kept = partial(attachments.content, session_id=forked.id, attachment_id="att_1")
    assert (await store.read(kept))[1] == b"file"
    assert await store.read(partial(checkpoints.latest, session_id=forked.id)) == "9"
    with pytest.raises(NotFound):
        await states.fork(SYSTEM, forked.id, checkpoint_id="3")


async def test_a_fork_lives_as_long_after_its_last_use_as_where_it_came_from(
    database, store, digest
):
    await begin(store, digest)
    await place(store, digest, 1)
    states = StateActions(store, framework=None)
    assert (await states.fork(SYSTEM, "ses_1")).expires_us is None
    await database.execute("update sessions set ttl_us = 60000000 where id = 'ses_1'")
    forked = await states.fork(SYSTEM, "ses_1")
    assert forked.expires_us - forked.created_us == pytest.approx(60_000_000, abs=5_000_000)


class DeafHost:
    """A process whose answer is of no use."""

    def __init__(self):
        self.done = []

    async def send(self, header):
        self.done.append(header["t"])

    async def receive(self):
        raise LookupError("something nobody expects")

    def kill(self):
        self.done.append("kill")

    def close(self):
        self.done.append("close")


async def test_a_wish_that_breaks_off_is_ended_in_its_process_too(store, digest, monkeypatch):
    await begin(store, digest)
    host, framework = DeafHost(), States(store, zygotes=None)

    async def process(*_):
        return SimpleNamespace(attempt=lambda: host)

    monkeypatch.setattr(framework, "_process", process)
    session = await store.read(partial(sessions.get, session_id="ses_1"))
    with pytest.raises(LookupError):
        await framework.ask(session, StateWish(kind="get"))
    assert host.done == ["order", "kill", "close"]
