"""Claims: a worker takes due tasks, each with a new epoch. Turns keep it fair between tenants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from penstock.domain.queues import QueueName, Turns
from penstock.domain.tasks import Claim, Task
from penstock.rules.queues import after_claims, deal
from penstock.store import events, queues, tasks
from penstock.store.transaction import Row, Transaction, Value

_decode = msgspec.json.Decoder().decode

_RIPEN = 500  # tasks whose time has come, at one look


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
    begun = Counter(tasks.queue_of(claim.task) for claim in claims if claim.epoch == 1)
    await _started(tx, [claim.task for claim in claims])
    await queues.depart(tx, begun)
    return claims


async def ripen(tx: Transaction) -> None:
    """Let what has waited for its time be claimed."""
    await tx.execute("tasks.ripen", limit=_RIPEN)


async def _started(tx: Transaction, begun: Sequence[Task]) -> None:
    """Note the exposures of tasks that were just claimed, and say that they have begun."""
    rows: list[dict[str, Value]] = []
    for task in begun:
        said: list[events.EventItem] = [("started", {"epoch": task.epoch})]
        if task.epoch > 1:  # what the try before said of this step is void
            said.append(("step.restarted", {"epoch": task.epoch, "step": task.steps}))
        rows += events.rows(task_id=task.id, epoch=task.epoch, last=task.events, said=said)
        tx.notify("task", task.id)
    exposed = [{"task_id": task.id, "session_id": task.session_id} for task in begun]
    await tx.execute_many("tasks.expose", exposed)
    await tx.execute_many("events.add", rows)


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


def _claim(row: Row, tenant: str) -> Claim:
    answers = {} if row["answers"] is None else _decode(row["answers"])
    return Claim(
        task=tasks.record(row),
        epoch=row["epoch"],
        answers=answers,
        tenant=tenant,
        blank=bool(row["blank"]),
    )
