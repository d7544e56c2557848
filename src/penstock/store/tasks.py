"""Tasks: the queue, the fence, and what a task has come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.domain.errors import Conflict, NotFound, Stale
from penstock.domain.queues import QueueLoad, QueueName, Turns
from penstock.domain.tasks import (
    TERMINAL,
    WORKFLOWS,
    Claim,
    Ending,
    Pulse,
    ResourceClass,
    Stop,
    Streaming,
    Task,
    TaskState,
    Wait,
)
from penstock.rules.queues import after_claims, deal
from penstock.rules.tasks import because, stopped, undone
from penstock.store import contents, events, queues, sessions
from penstock.store.transaction import Row, Transaction, Value

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_waits = msgspec.json.Decoder(tuple[Wait, ...]).decode

_RIPEN = 500  # tasks whose time has come, at one look
_MOST_IN_THE_WAY = 1_000_000

EventItem = tuple[str, Any]  # kind, data


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


async def claim(
    tx: Transaction, *, worker_id: str, limit: int, turns: Turns | None = None
) -> list[Claim]:
    """Take up to ``limit`` due tasks: a new epoch, the exposure and the event in one commit.

    Whose tasks they are is dealt out in turns (``rules/queues.py``), beginning behind ``turns``.
    """
    turns = turns or Turns()
    claims: list[Claim] = []
    while len(claims) < limit:
        found, more = await _round(tx, worker_id=worker_id, free=limit - len(claims), turns=turns)
        turns = after_claims(turns, found)
        claims += found
        if not more:
            break
    begun = Counter(_queue(claim.task) for claim in claims if claim.epoch == 1)
    await _started(tx, [claim.task for claim in claims])
    await queues.depart(tx, begun)
    return claims


async def _started(tx: Transaction, begun: Sequence[Task]) -> None:
    """Note the exposures of tasks that were just claimed, and say that they have begun."""
    rows: list[dict[str, Value]] = []
    for task in begun:
        said: list[EventItem] = [("started", {"epoch": task.epoch})]
        if task.epoch > 1:  # what the try before said of this step is void
            said.append(("step.restarted", {"epoch": task.epoch, "step": task.steps}))
        rows += events.rows(task_id=task.id, epoch=task.epoch, last=task.events, said=said)
        tx.notify("task", task.id)
    exposed = [{"task_id": task.id, "session_id": task.session_id} for task in begun]
    await tx.execute_many("tasks.expose", exposed)
    await tx.execute_many("events.add", rows)


async def ripen(tx: Transaction) -> None:
    """Let what has waited for its time be claimed."""
    await tx.execute("tasks.ripen", limit=_RIPEN)


async def _round(
    tx: Transaction, *, worker_id: str, free: int, turns: Turns
) -> tuple[list[Claim], bool]:
    """One deal of the free places; what was claimed, and whether another deal may find more."""
    ready = await _ready(tx)
    claims: list[Claim] = []
    more = False
    for queue, places in deal(free, ready, behind=turns.queue).items():
        behind = turns.tenants.get(queue)
        tenants = await _tenants(tx, queue, ready[queue], behind=behind, limit=places)
        for tenant, number in deal(places, tenants, behind=behind).items():
            rows = await tx.fetch_all(
                "tasks.claim",
                worker_id=worker_id,
                agent=queue[0],
                environment=queue[1],
                tenant=tenant,
                limit=number,
            )
            more = more or len(rows) == number
            found = [_claim(row, tenant) for row in rows]
            claims += sorted(found, key=lambda one: (-one.task.priority, one.task.due_us))
    return claims, more


async def _ready(tx: Transaction) -> dict[QueueName, tuple[str, str]]:
    """The queues that have something to be claimed, each with its first and its last tenant."""
    rows = await tx.fetch_all("tasks.queues")
    if rows and rows[0]["ripe"]:
        await ripen(tx)
        rows = await tx.fetch_all("tasks.queues")
    return {
        (row["agent"], row["environment"]): (row["first_tenant"], row["last_tenant"])
        for row in rows
        if row["first_tenant"] is not None
    }


async def _tenants(
    tx: Transaction, queue: QueueName, ends: tuple[str, str], *, behind: str | None, limit: int
) -> list[str]:
    """Up to ``limit`` tenants that have something to be claimed: those whose turn is next."""
    first, last = ends
    if first == last:
        return [first]
    found: list[str] = []
    for start in dict.fromkeys((behind, None)):
        if start is None:
            found.append(first)  # once around: the search goes on behind it
        rows = await tx.fetch_all(
            "tasks.tenants",
            agent=queue[0],
            environment=queue[1],
            behind=first if start is None else start,
            limit=limit,
        )
        found += [row["tenant"] for row in rows]
        if len(set(found)) >= limit:
            break
    return list(dict.fromkeys(found))[:limit]


async def advance(
    tx: Transaction, *, task_id: str, epoch: int, steps: int = 0, said: Sequence[EventItem] = ()
) -> int:
    """Pass the fence, count ``steps`` more and append events; the task's committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.advance", id=task_id, epoch=epoch, steps=steps, events=len(said)
    )
    if row is None:
        raise _stale(task_id, epoch)
    if said:
        await events.append(tx, task_id=task_id, epoch=epoch, last=row["events"], said=said)
    return int(row["steps"])


async def wished_stop(tx: Transaction, *, task_id: str, epoch: int) -> Stop | None:
    """Pass the fence and hold the task until the commit; what it is to be stopped for.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one("tasks.advance", id=task_id, epoch=epoch, steps=0, events=0)
    if row is None:
        raise _stale(task_id, epoch)
    return None if row["stop"] is None else Stop(row["stop"])


async def ensure_owned(tx: Transaction, *, task_id: str, epoch: int) -> None:
    """Pass the fence without changing anything.

    Raises:
        Stale: the epoch no longer owns the task.
    """
    if await tx.fetch_one("tasks.owned", id=task_id, epoch=epoch) is None:
        raise _stale(task_id, epoch)


async def finish(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    state: TaskState,
    outcome: str,
    output: Any = None,
    error: Mapping[str, Any] | None = None,
    crashes: int,
    losses: int,
    waited_us: int = 0,
) -> Task:
    """End a task under the fence, with its session's sums, in one commit.

    ``waited_us`` is what the attempt waited for its process: our time, not the release's.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.finish",
        id=task_id,
        epoch=epoch,
        state=state.value,
        outcome=outcome,
        output=None if output is None else _text(output),
        error=None if error is None else _text(error),
        crashes=crashes,
        losses=losses,
    )
    if row is None:
        raise _stale(task_id, epoch)
    return await _ended(tx, row, waited_us=waited_us)


async def requeue(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    crashes: int,
    losses: int,
    delay_seconds: float,
    why: Mapping[str, Any],
    resource_class: ResourceClass | None = None,
) -> None:
    """Give a task back to the queue under the fence, its next attempt in a resource class.

    One that somebody has cancelled meanwhile ends instead.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.requeue",
        id=task_id,
        epoch=epoch,
        crashes=crashes,
        losses=losses,
        delay_us=int(delay_seconds * 1_000_000),
        resource_class=None if resource_class is None else resource_class.value,
    )
    if row is None:
        raise _stale(task_id, epoch)
    await events.append(
        tx, task_id=task_id, epoch=epoch, last=row["events"], said=[("requeued", dict(why))]
    )
    if row["cancel_requested"]:
        # Its owner has not heard, and there is nothing left to stop.
        await stop(tx, task_id, Stop(row["stop"] or "cancel"))
        return
    tx.notify("queue", "")


async def wait(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    waits: Sequence[Wait],
    wait_seconds: float | None = None,
) -> Task:
    """Let a task wait for a person, under the fence; at most for ``wait_seconds``.

    One that somebody has asked to stop meanwhile is cancelled instead.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tasks.wait",
        id=task_id,
        epoch=epoch,
        waits=_text(waits),
        wait_us=None if wait_seconds is None else int(wait_seconds * 1_000_000),
    )
    if row is None:
        raise _stale(task_id, epoch)
    task = record(row)
    await events.append(
        tx, task_id=task_id, epoch=epoch, last=task.events, said=[("waiting", {"waits": waits})]
    )
    if task.stop is not None:
        return await stop(tx, task_id, task.stop)
    tx.notify("done", task_id)
    return task


async def resume(
    tx: Transaction, *, task: Task, answers: Mapping[str, Any], said: Mapping[str, Any]
) -> Task:
    """Queue a waiting task again, with the answers that its next attempt is given.

    Raises:
        Conflict: it does not wait any more, or for something else by now.
    """
    row = await tx.fetch_one(
        "tasks.resume", id=task.id, epoch=task.epoch, answers=_text(dict(answers))
    )
    if row is None:
        raise Conflict(
            f"somebody else was faster: task {task.id} waits no longer",
            hint="Its events say what was answered, and by whom.",
        )
    resumed = record(row)
    await events.append(
        tx,
        task_id=task.id,
        epoch=task.epoch,
        last=resumed.events,
        said=[("resumed", {"answers": dict(answers), **said})],
    )
    tx.notify("queue", "")
    return resumed


async def expire_waits(tx: Transaction, *, limit: int) -> list[Task]:
    """End tasks that have waited for a person as long as they may."""
    rows = await tx.fetch_all("tasks.waited_out", limit=limit)
    ended = []
    for row in rows:
        error = {"type": "Timeout", "message": "nobody answered in time", "traceback": ""}
        late = await tx.fetch_one("tasks.expire_wait", id=row["id"], error=_text(error))
        if late is not None:
            ended.append(await _ended(tx, late))
    return ended


async def stop(tx: Transaction, task_id: str, why: Stop) -> Task:
    """End a task that waits, or ask the owner of one that runs to stop it.

    A task that has ended already is returned as it is.

    Raises:
        NotFound: there is none of this id.
    """
    ending = stopped(why)
    while True:
        row = await tx.fetch_one(
            "tasks.end_unowned",
            id=task_id,
            state=TaskState.CANCELLED.value,
            outcome=ending.value,
            stop=why.value,
            error=None if why is Stop.CANCEL else _text(because(ending)),
        )
        if row is not None:
            if row["epoch"] == 0:
                await queues.depart(tx, {_queue(record(row)): 1})
            return await _ended(tx, row)
        row = await tx.fetch_one("tasks.request_stop", id=task_id, stop=why.value)
        if row is not None:
            tx.notify("cancel", task_id)
            return record(row)
        task = await get(tx, task_id)
        if task.state in TERMINAL:
            return task  # else it has changed hands between the two looks


async def cancel(tx: Transaction, task_id: str) -> Task:
    """End a task because a person asked for it; see :func:`stop`."""
    return await stop(tx, task_id, Stop.CANCEL)


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


async def close_after(tx: Transaction, session_id: str) -> None:
    """Close the session when its last task that has not ended does."""
    await tx.execute("tasks.close_after", session_id=session_id)


async def close_with_last(tx: Transaction, session_id: str) -> None:
    """Close the session of a task that has ended and was to be its last."""
    if (await live_in_session(tx, session_id))[0]:
        # It was cancelled before its turn: the others end the session.
        await close_after(tx, session_id)
    else:
        await sessions.close(tx, session_id)


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


async def _ended(tx: Transaction, row: Row, *, waited_us: int = 0) -> Task:
    """The last event of a task, and the session's account of it."""
    task = record(row)
    last = events.finished(task.state, task.outcome, output=task.output, error=task.error)
    await events.append(tx, task_id=task.id, epoch=task.epoch, last=task.events, said=[last])
    if task.environment == WORKFLOWS:  # its session holds nothing else, and was closed at once
        tx.notify("done", task.id)
        return task
    begun, ended = task.started_us, task.finished_us
    waited_us += row["waited_us"]  # for a person
    busy_us = ended - begun - waited_us if begun is not None and ended is not None else 0
    await sessions.account(
        tx,
        task.session_id,
        # A person's cancel is no failure of the release.
        failed=task.state in (TaskState.FAILED, TaskState.DEAD_LETTERED),
        cost_nanos=task.cost_nanos,
        busy_us=max(0, busy_us),
    )
    if undone(Ending(row["outcome"])):
        await contents.undo(tx, session_id=task.session_id, task_id=task.id)
    elif task.stateless:
        await contents.forget(tx, session_id=task.session_id, task_id=task.id)
    if await tx.execute("tasks.promote", session_id=task.session_id):
        tx.notify("queue", "")  # the next of this session may begin
    if row["close_session"]:
        await close_with_last(tx, task.session_id)
    tx.notify("done", task.id)
    return task


def _claim(row: Row, tenant: str) -> Claim:
    answers = {} if row["answers"] is None else _decode(row["answers"])
    return Claim(task=record(row), epoch=row["epoch"], answers=answers, tenant=tenant)


def _queue(task: Task) -> QueueName:
    return task.agent, task.environment


def _stale(task_id: str, epoch: int) -> Stale:
    return Stale(f"epoch {epoch} no longer owns task {task_id}; nothing was written")


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
