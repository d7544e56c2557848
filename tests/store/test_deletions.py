"""What was deleted is gone, every byte of it, and what is counted stays; on either database."""

from __future__ import annotations

import hashlib
import re
from functools import partial

import pytest

from penstock.actions.deletions import DeletionActions
from penstock.control.expiries import Expiries
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, NotFound, Stale
from penstock.domain.exchanges import Caller, Exchange, Usage
from penstock.domain.tasks import TaskState, Wait
from penstock.domain.tool_calls import CallState, ToolCall
from penstock.gateway.records import Records
from penstock.store import (
    attachments,
    blobs,
    claims,
    endings,
    events,
    exchanges,
    fences,
    logs,
    sessions,
    steps,
    tasks,
    tool_calls,
    waiting,
)
from penstock.store.queries import load
from rollout_world import AGENT, ENVIRONMENT, release

CANARY = "canary-7f3a9c"
OTHERS = "shared-between-two"
_DELETE = ("deletions.", "checkpoints.remove_session")


@pytest.fixture
async def digest(store):
    return (await release(store, "one")).digest


def exchange(session, task, digest, *texts, number=1):
    contents = {hashlib.sha256(text.encode()).hexdigest(): text.encode() for text in texts}
    first = next(iter(contents))
    found = Exchange(
        id=f"exc_{session}_{number}",
        caller=Caller(
            task_id=task, session_id=session, agent=AGENT, environment=ENVIRONMENT,
            release=digest, epoch=1, step=0,
        ),
        alias="main", request_digest=first, request={"messages": list(contents)},
        response={"body": first}, status=200, outcome="ok", streamed=False, provider="p",
        model="m", model_returned="m", fingerprint=None, attempts=(), replayed_from=None,
        usage=Usage(input_tokens=3, output_tokens=4), cost_nanos=5, started_us=1,
        first_token_us=None, duration_us=1,
    )  # fmt: skip
    return found, contents


def call_of(task, text):
    return ToolCall(
        task_id=task, place="0", request="r", number=1, tool="say", effect="write", retry="never",
        arguments={"text": text}, epoch=1, state=CallState.DONE, encoding="bytes",
        result=text.encode(),
    )  # fmt: skip


async def filled(store, digest, session="ses_1", text=CANARY, ttl=None):
    """A session that says ``text`` wherever something can be said, its one task still running."""
    task = f"task_{session}"

    async def begin(tx):
        await sessions.add(
            tx, session_id=session, agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=text, metadata={"about": text}, rollout_id=None, arm=None, judge=digest,
            ttl_seconds=ttl,
        )  # fmt: skip
        await tasks.add(
            tx, task_id=task, session_id=session, agent=AGENT, environment=ENVIRONMENT,
            release=digest, given={"text": text}, idempotency_key=f"{text}-{session}",
        )  # fmt: skip
        await claims.claim(tx, worker_id="w", limit=10)
        await steps.commit(tx, task_id=task, epoch=1, key="a#1", output=text, said=[("say", text)])
        await logs.append(tx, task_id=task, epoch=1, first=1, pieces=[("stdout", text)])
        await attachments.add(
            tx, attachment_id=f"att_{session}", session_id=session, content=f"file {text}".encode(),
            digest=hashlib.sha256(f"file {text}".encode()).hexdigest(), content_type="text/plain",
            filename=text,
        )  # fmt: skip
        await tool_calls.put(tx, call_of(task, text))
        wait = Wait(id="a", kind="interrupt", value=text)
        at_rest = await waiting.wait(tx, task_id=task, epoch=1, waits=[wait])
        await waiting.resume(tx, task=at_rest, answers={"a": text}, said={"by": text})
        await claims.claim(tx, worker_id="w", limit=10)

    await store.transact(begin)
    await Records(store).commit(*exchange(session, task, digest, text, OTHERS))
    return task


async def end(store, task, text=CANARY):
    await store.transact(
        partial(
            endings.finish, task_id=task, epoch=2, state=TaskState.FAILED, outcome="error",
            output=text, error={"message": text}, crashes=0, losses=0,
        )
    )  # fmt: skip


async def everywhere(database, store):
    """Every value of every table, as one text by table."""
    found = {}
    async with store.snapshot() as snapshot:
        if database.kind == "sqlite":
            names = "select name from sqlite_schema where type = 'table'"
        else:
            names = "select table_name from information_schema.tables where table_schema = 'public'"
        for (name,) in [row async for rows in snapshot.stream(names) for row in rows]:
            rows = [row async for some in snapshot.stream(f"select * from {name}") for row in some]
            found[name] = repr(rows)
    return found


async def holding(database, store, text):
    return sorted(
        name for name, said in (await everywhere(database, store)).items() if text in said
    )


async def test_nothing_that_was_said_is_left_and_nothing_of_others_is_missing(
    database, store, digest
):
    task = await filled(store, digest)
    await end(store, task)
    await end(store, await filled(store, digest, "ses_2", "somebody else"), "somebody else")
    assert {"tasks", "sessions", "events", "logs", "steps", "blobs", "tool_calls"} <= set(
        await holding(database, store, CANARY)
    )
    before = await store.read(exchanges.totals)
    assert await DeletionActions(store).session(SYSTEM, "ses_1") is True
    expiries = Expiries(store, quiet_seconds=-1)
    assert await expiries.sweep() == 2
    assert await expiries.sweep() == 0
    assert await holding(database, store, CANARY) == []
    shared = hashlib.sha256(OTHERS.encode()).hexdigest()
    assert await store.read(lambda tx: blobs.get(tx, shared)) == OTHERS.encode()
    assert (await store.read(lambda tx: tasks.get(tx, "task_ses_2"))).output == "somebody else"
    kept = partial(attachments.content, session_id="ses_2", attachment_id="att_ses_2")
    assert (await store.read(kept))[1] == b"file somebody else"
    assert await store.read(exchanges.totals) == before  # what it cost is still counted
    with pytest.raises(NotFound):
        await store.read(lambda tx: sessions.get(tx, "ses_1"))
    with pytest.raises(NotFound):
        await DeletionActions(store).session(SYSTEM, "ses_1")
    assert [one.id for one in await store.read(sessions.listing)] == ["ses_2"]


async def test_its_bytes_are_gone_from_the_disk(database, store, digest):
    if database.kind != "sqlite":
        pytest.skip("PostgreSQL's own vacuum decides when a page is written again")
    task = await filled(store, digest, text=CANARY * 2000)
    await end(store, task, text=CANARY * 2000)
    files = [database.home / f"penstock.sqlite{end}" for end in ("", "-wal")]
    assert any(CANARY.encode() in file.read_bytes() for file in files)
    await DeletionActions(store).session(SYSTEM, "ses_1")
    await Expiries(store, quiet_seconds=-1).sweep()
    assert await store.scrub()
    assert not any(CANARY.encode() in file.read_bytes() for file in files)


async def test_what_a_session_came_to_is_still_counted(database, store, digest):
    await end(store, await filled(store, digest))
    await DeletionActions(store).session(SYSTEM, "ses_1")
    async with store.snapshot() as snapshot:
        ask = "select tasks, failures, cost_nanos, state, user_id from sessions where id = 'ses_1'"
        rows = [row async for some in snapshot.stream(ask) for row in some]
    assert rows == [(1, 1, 5, "closed", None)]


async def test_what_has_not_ended_is_not_deleted_unless_it_is_forced(store, digest):
    task = await filled(store, digest)
    deletions = DeletionActions(store)
    with pytest.raises(Conflict, match="has not ended"):
        await deletions.session(SYSTEM, "ses_1")
    with pytest.raises(Conflict):
        await deletions.task(SYSTEM, task)
    assert await deletions.session(SYSTEM, "ses_1", force=True) is False
    assert (await store.read(lambda tx: tasks.get(tx, task))).cancel_requested
    expiries = Expiries(store)
    await expiries._round()
    assert await store.read(lambda tx: tasks.get(tx, task))  # its attempt may still write
    await end(store, task)
    await expiries._round()
    with pytest.raises(NotFound):
        await store.read(lambda tx: tasks.get(tx, task))


async def test_nothing_can_be_said_in_a_deleted_session(database, store, digest):
    task = await filled(store, digest)
    await end(store, task, text="end")
    await DeletionActions(store).session(SYSTEM, "ses_1")
    with pytest.raises(Stale):
        await store.transact(
            partial(fences.advance, task_id=task, epoch=2, said=[("late", CANARY)])
        )
    await store.transact(
        partial(logs.append, task_id=task, epoch=2, first=9, pieces=[("stdout", CANARY)])
    )
    late = await Records(store).commit(*exchange("ses_1", task, digest, CANARY, number=2))
    assert late.late
    await Expiries(store, quiet_seconds=-1).sweep()
    assert await holding(database, store, CANARY) == []


async def test_a_deleted_task_leaves_its_session(database, store, digest):
    task = await filled(store, digest, text="the session's")
    await end(store, task, text=CANARY)
    assert await DeletionActions(store).task(SYSTEM, task) is True
    assert await holding(database, store, CANARY) == []
    with pytest.raises(NotFound):
        await store.read(lambda tx: tasks.get(tx, task))
    session = await store.read(lambda tx: sessions.get(tx, "ses_1"))
    assert (session.tasks, session.failures, session.user_id) == (1, 1, "the session's")
    assert await store.read(partial(events.after, task_id=task, after=0, limit=9)) == []


async def test_a_content_that_is_sent_again_is_not_swept_away(store, digest):
    records = Records(store)
    await end(store, await filled(store, digest))
    await DeletionActions(store).session(SYSTEM, "ses_1")
    task = await filled(store, digest, "ses_2", "another")
    assert await Expiries(store).sweep() == 0  # it is too young to be looked at
    await records.commit(*exchange("ses_2", task, digest, CANARY, number=2))
    assert await Expiries(store, quiet_seconds=-1).sweep() == 1  # the file, which nobody else has
    kept = hashlib.sha256(CANARY.encode()).hexdigest()
    assert await store.read(lambda tx: blobs.get(tx, kept)) == CANARY.encode()


async def test_a_session_is_deleted_when_its_time_is_over_and_not_while_it_is_used(
    database, store, digest
):
    first = await filled(store, digest, ttl=-1)
    second = await filled(store, digest, "ses_2", "stays", ttl=3600)
    expiries = Expiries(store)
    await expiries._round()
    assert (await store.read(lambda tx: sessions.get(tx, "ses_1"))).expires_us  # a task of it runs
    for task in (first, second):
        await end(store, task)
    await expiries._round()
    assert [one.id for one in await store.read(sessions.listing)] == ["ses_2"]


async def test_every_table_that_knows_a_session_or_a_task_is_thought_of(database, store):
    """A table that is added must be emptied by a deletion, or keep nothing that was said."""
    numbers = {"sessions", "assignments", "exposures", "retired_tasks", "retired_exchanges"}
    if database.kind == "sqlite":
        ask = (
            "select m.name from sqlite_schema m join pragma_table_info(m.name) c"
            " where m.type = 'table' and c.name in ('task_id', 'session_id')"
        )
    else:
        ask = (
            "select table_name from information_schema.columns where table_schema = 'public'"
            " and column_name in ('task_id', 'session_id')"
        )
    async with store.snapshot() as snapshot:
        known = {name async for rows in snapshot.stream(ask) for (name,) in rows}
    said = [sql.sql for name, sql in load("sqlite").items() if name.startswith(_DELETE)]
    emptied = {re.match(r"delete from (\w+)", sql)[1] for sql in said if sql.startswith("delete")}
    missing = known - numbers - emptied
    assert known > numbers - {"retired_exchanges", "sessions", "assignments"}
    assert missing == set()
