"""Tasks: how they get into the queue, and what is on record of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.domain.errors import NotFound
from penstock.domain.queues import QueueLoad, QueueName
from penstock.domain.tasks import (
    Pulse,
    ResourceClass,
    Stop,
    Streaming,
    Task,
    TaskState,
    Wait,
)
from penstock.store import queues
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_waits = msgspec.json.Decoder(tuple[Wait, ...]).decode

_MOST_IN_THE_WAY = 1_000_000


async def add(
    tx: Transaction,
    *,
    task_id: str,
    session_id: str,
    agent: str,
    environment: str,
    release: str,
    given: Any,
    delay_seconds: float = 0.0,
    run_at_us: int = 0,
    priority: int = 0,
    close_session: bool = False,
    stateless: bool = False,
    idempotency_key: str | None = None,
    stream: Streaming | None = None,
    request_digest: str | None = None,
    alone: bool = False,
    admit: Callable[[QueueLoad, QueueLoad], None] | None = None,
) -> Task:
    """Put a task into the queue; workers hear of it at the commit.

    Args:
        tx: in which the session is held, if others may know it.
        task_id: a fresh one.
        session_id: its session; the task runs after those of it that are due before.
        agent: whose queue it is, with the environment.
        environment: where it runs.
        release: what it runs on.
        given: its input.
        delay_seconds: to wait before it is due.
        run_at_us: when it is due, if that is later.
        priority: higher first, among the tasks of one user.
        close_session: whether the session ends with it.
        stateless: whether what the session holds goes with it.
        idempotency_key: that its creator knows it by.
        request_digest: of what was asked under that key.
        stream: what its attempts say of themselves, if that is not the usual.
        alone: whether nothing else can be in the session.
        admit: is shown how full its queue and all queues are, and raises what it thinks of it.
    """
    when = {"delay_us": int(delay_seconds * 1_000_000), "run_at_us": run_at_us}
    if not alone:
        await tx.execute("tasks.step_behind", session_id=session_id, **when)
    row = await tx.fetch_one(
        "tasks.add",
        id=task_id,
        session_id=session_id,
        agent=agent,
        environment=environment,
        release=release,
        input=_text(given),
        **when,
        priority=priority,
        close_session=int(close_session),
        stateless=int(stateless),
        idempotency_key=idempotency_key,
        stream=None if stream is None else _text(stream),
        request_digest=request_digest,
    )
    assert row is not None
    tx.notify("queue", "")
    loads = await queues.arrive(tx, (agent, environment))
    if admit is not None:
        admit(*loads)
    return record(row)


async def find(tx: Transaction, task_id: str) -> Task | None:
    """A task, if there is one of this id."""
    row = await tx.fetch_one("tasks.get", id=task_id)
    return None if row is None else record(row)


async def get(tx: Transaction, task_id: str) -> Task:
    """A task.

    Raises:
        NotFound: there is none of this id.
    """
    task = await find(tx, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id}")
    return task


async def pulses(tx: Transaction, task_ids: Sequence[str]) -> dict[str, Pulse]:
    """How far those of the tasks are that there are, by id."""
    rows = await tx.fetch_all("tasks.pulse", ids=_text(list(task_ids)))
    return {
        row["id"]: Pulse(
            state=TaskState(row["state"]),
            outcome=row["outcome"],
            events=row["events"],
            stream=_streaming(row["stream"]),
        )
        for row in rows
    }


async def by_key(
    tx: Transaction, *, agent: str, idempotency_key: str
) -> tuple[Task, str | None] | None:
    """The task that was created under an idempotency key, and the digest of what was asked."""
    row = await tx.fetch_one("tasks.by_key", agent=agent, idempotency_key=idempotency_key)
    return None if row is None else (record(row), row["request_digest"])


async def listing(
    tx: Transaction,
    *,
    agent: str | None = None,
    session_id: str | None = None,
    state: str | None = None,
    limit: int = 50,
    before: str | None = None,
) -> list[Task]:
    """Tasks from the newest to the oldest, those older than task ``before``."""
    rows = await tx.fetch_all(
        "tasks.listing",
        agent=agent,
        session_id=session_id,
        state=state,
        limit=limit,
        before=before,
    )
    return [record(row) for row in rows]


async def of_session(tx: Transaction, session_id: str) -> list[Task]:
    """The tasks of a session in their order."""
    rows = await tx.fetch_all("tasks.of_session", session_id=session_id)
    return [record(row) for row in rows]


async def in_the_way(tx: Transaction, session_id: str, *, limit: int | None = None) -> list[Task]:
    """The tasks of a session that a new one would have to wait for, in their order."""
    most = _MOST_IN_THE_WAY if limit is None else limit
    rows = await tx.fetch_all("tasks.in_the_way", session_id=session_id, limit=most)
    return [record(row) for row in rows]


async def hold_first(tx: Transaction, session_id: str) -> None:
    """Hold the first task of a session, the only one that may have begun, until the commit.

    To be done before the session itself is held: whoever ends a task takes the two in this order.
    """
    await tx.execute("tasks.hold_first", session_id=session_id)


async def orphaned(tx: Transaction, *, limit: int) -> list[Task]:
    """Running tasks whose worker is gone; no other server sees them until the commit."""
    return [record(row) for row in await tx.fetch_all("tasks.orphaned", limit=limit)]


async def of_worker(tx: Transaction, *, worker_id: str) -> list[Task]:
    """The running tasks that a worker owns, whether it knows or not."""
    return [record(row) for row in await tx.fetch_all("tasks.of_worker", worker_id=worker_id)]


async def load(tx: Transaction, *, most: int) -> tuple[int, int]:
    """How many tasks wait and are due, and how many run; neither is counted beyond ``most``."""
    row = await tx.fetch_one("tasks.load", most=most)
    assert row is not None
    return int(row["backlog"]), int(row["in_flight"])


async def hold(tx: Transaction, session_id: str) -> list[Task]:
    """The tasks of a session that have not ended, which nobody claims before this commit."""
    return [record(row) for row in await tx.fetch_all("tasks.hold", session_id=session_id)]


async def live_in_session(tx: Transaction, session_id: str) -> tuple[int, int]:
    """Whether a session has tasks that have not ended, and whether one will close it: 0 or 1."""
    row = await tx.fetch_one("tasks.live_in_session", session_id=session_id)
    assert row is not None
    return int(row["live"]), int(row["closing"])


async def limit_hit(tx: Transaction, task_id: str) -> str | None:
    """Which limit the gateway saw the task reach."""
    row = await tx.fetch_one("tasks.limit_hit", id=task_id)
    return None if row is None or row["limit_hit"] is None else str(row["limit_hit"])


async def counts(tx: Transaction) -> list[tuple[str, str, TaskState, int]]:
    """How many tasks there are by agent, environment and state."""
    return [
        (row["agent"], row["environment"], TaskState(row["state"]), int(row["count"]))
        for row in await tx.fetch_all("tasks.counts")
    ]


def queue_of(task: Task) -> QueueName:
    """The queue that a task is or was in."""
    return task.agent, task.environment


def _text(value: Any) -> str:
    return _encode(value).decode()


def record(row: Row) -> Task:
    """A row of the table as a task."""
    return Task(
        id=row["id"],
        session_id=row["session_id"],
        agent=row["agent"],
        environment=row["environment"],
        release=row["release"],
        state=TaskState(row["state"]),
        outcome=row["outcome"],
        input=_decode(row["input"]),
        output=None if row["output"] is None else _decode(row["output"]),
        error=None if row["error"] is None else _decode(row["error"]),
        epoch=row["epoch"],
        crashes=row["crashes"],
        losses=row["losses"],
        worker_id=row["worker_id"],
        cancel_requested=bool(row["cancel_requested"]),
        events=row["events"],
        steps=row["steps"],
        cost_nanos=row["cost_nanos"],
        created_us=row["created_us"],
        started_us=row["started_us"],
        finished_us=row["finished_us"],
        tokens=row["tokens"],
        resource_class=ResourceClass(row["resource_class"]),
        waits=() if row["waits"] is None else _waits(row["waits"]),
        wait_until_us=row["wait_until_us"],
        stream=_streaming(row["stream"]),
        priority=row["priority"],
        due_us=row["due_us"],
        stop=None if row["stop"] is None else Stop(row["stop"]),
        stateless=bool(row["stateless"]),
    )


def _streaming(text: str | None) -> Streaming:
    if text is None:
        return Streaming()
    kept = _decode(text)
    return Streaming(modes=tuple(kept["modes"]), subgraphs=kept["subgraphs"])
