"""Rollouts: their state, whom they assigned where, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import Conflict, NotFound
from penstock.domain.rollouts import (
    ACTIVE_PHASES,
    Arm,
    Baseline,
    Decision,
    FinishedTask,
    Hold,
    Past,
    Phase,
    Plan,
    Rollout,
    plan_from_json,
    plan_to_json,
)
from penstock.domain.sessions import SessionResult
from penstock.domain.tasks import Ending, TaskState
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_baseline = msgspec.json.Decoder(Baseline).decode

_RECENT = 20_000  # positions among which an arm's latest sessions are looked for
_FAILED = {TaskState.FAILED.value, TaskState.DEAD_LETTERED.value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The place a unit gets in a rollout, and what was in force there."""

    number: int
    weight: float
    salt: str
    stable: str
    candidate: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a unit was given."""

    arm: Arm
    stable: str  # digests of the two sides
    candidate: str


async def add(
    tx: Transaction,
    *,
    rollout_id: str,
    agent: str,
    environment: str,
    stable: str,
    candidate: str,
    plan: Plan,
    salt: str,
    baseline: Baseline,
    begin: Decision,
) -> Rollout:
    """Begin a rollout.

    Raises:
        Conflict: one is under way for this agent and environment.
    """
    row = await tx.fetch_one(
        "rollouts.add",
        id=rollout_id,
        agent=agent,
        environment=environment,
        stable=stable,
        candidate=candidate,
        plan=_encode(plan_to_json(plan)).decode(),
        salt=salt,
        phase=begin.to_phase.value,
        hold=None if begin.hold is None else begin.hold.value,
        step=begin.step,
        weight=begin.weight,
        baseline=_encode(baseline).decode(),
        reason=begin.reason,
    )
    assert row is not None
    tx.notify("rollout", rollout_id)
    return _record(row)


async def get(tx: Transaction, rollout_id: str) -> Rollout:
    """A rollout.

    Raises:
        NotFound: there is none of this id.
    """
    return (await get_with_time(tx, rollout_id))[0]


async def get_with_time(tx: Transaction, rollout_id: str) -> tuple[Rollout, int]:
    """A rollout, and the database's time in microseconds.

    Raises:
        NotFound: there is none of this id.
    """
    row = await tx.fetch_one("rollouts.get", id=rollout_id)
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id}")
    return _record(row), int(row["now_us"])


async def lock(tx: Transaction, rollout_id: str) -> Rollout:
    """A rollout that nobody else moves before this commit.

    Raises:
        NotFound: there is none of this id.
    """
    row = await tx.fetch_one("rollouts.lock", id=rollout_id)
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id}")
    return _record(row)


async def active(tx: Transaction) -> list[Rollout]:
    """The rollouts that have not ended."""
    return [_record(row) for row in await tx.fetch_all("rollouts.active")]


async def active_ids(tx: Transaction) -> list[str]:
    """The ids of the rollouts that have not ended."""
    return [row["id"] for row in await tx.fetch_all("rollouts.active_ids")]


async def listing(tx: Transaction, *, agent: str | None = None, limit: int = 50) -> list[Rollout]:
    """Rollouts from the newest to the oldest."""
    rows = await tx.fetch_all("rollouts.listing", agent=agent, limit=limit)
    return [_record(row) for row in rows]


async def moves(
    tx: Transaction, *, agent: str, environment: str, limit: int = 1000
) -> list[tuple[str, str]]:
    """From which release to which stable has moved here, the oldest move first."""
    rows = await tx.fetch_all("rollouts.moves", agent=agent, environment=environment, limit=limit)
    return [(row["stable"], row["candidate"]) for row in reversed(rows)]


async def stables(
    tx: Transaction, *, agent: str, environment: str, limit: int = 1000
) -> list[Past]:
    """The releases that were stable here before the one that is, the last one first."""
    rows = await tx.fetch_all("rollouts.moves", agent=agent, environment=environment, limit=limit)
    return [Past(release=row["stable"], until_us=row["ended_us"] or 0) for row in rows]


async def transition(tx: Transaction, seen: Rollout, decision: Decision) -> Rollout:
    """Move a rollout on, if it is still as it was seen.

    Raises:
        Conflict: somebody has moved it meanwhile; nothing was changed.
    """
    row = await tx.fetch_one(
        "rollouts.transition",
        id=seen.id,
        revision=seen.revision,
        phase=decision.to_phase.value,
        hold=None if decision.hold is None else decision.hold.value,
        step=decision.step,
        weight=decision.weight,
        reason=decision.reason,
        active=int(decision.to_phase in ACTIVE_PHASES),
    )
    if row is None:
        raise Conflict(f"rollout {seen.id} has moved on meanwhile; nothing was changed")
    tx.notify("rollout", seen.id)
    return _record(row)


async def move_cursor(tx: Transaction, seen: Rollout, *, folded: int) -> bool:
    """Say that the evidence has seen positions up to ``folded``; False if another was faster."""
    return bool(
        await tx.execute(
            "rollouts.fold",
            id=seen.id,
            folded=folded,
            before=seen.folded,
            revision=seen.revision,
        )
    )


async def next_position(tx: Transaction, rollout_id: str, *, unit: str) -> Position | None:
    """The next position, held until the commit.

    Nothing if the rollout has ended, or if the unit has its position already.
    """
    row = await tx.fetch_one("rollouts.position", id=rollout_id, unit=unit)
    if row is None:
        return None
    return Position(
        number=row["assigned"],
        weight=row["weight"],
        salt=row["salt"],
        stable=row["stable"],
        candidate=row["candidate"],
    )


async def assignment(tx: Transaction, rollout_id: str, *, unit: str) -> Assignment | None:
    """What a unit was given, if the rollout is still on and has met it."""
    row = await tx.fetch_one("rollouts.assignment", rollout_id=rollout_id, unit=unit)
    if row is None:
        return None
    return Assignment(arm=Arm(row["arm"]), stable=row["stable"], candidate=row["candidate"])


async def assign(
    tx: Transaction, rollout_id: str, *, unit: str, position: Position, arm: Arm, draw: float
) -> None:
    """Keep what a unit was given at its position."""
    await tx.execute(
        "rollouts.assign",
        rollout_id=rollout_id,
        unit=unit,
        position=position.number,
        arm=arm.value,
        weight=position.weight,
        draw=draw,
    )


async def results(
    tx: Transaction, rollout_id: str, *, after: int, limit: int, horizon_seconds: float
) -> list[SessionResult]:
    """The sessions at positions behind ``after``, in order; some may not have ended.

    Whether a session was closed and judged is told as of the horizon, so that evidence does not
    depend on when it is folded.
    """
    rows = await tx.fetch_all(
        "rollouts.results",
        rollout_id=rollout_id,
        after=after,
        limit=limit,
        horizon_us=int(horizon_seconds * 1_000_000),
    )
    return [
        SessionResult(
            position=row["position"],
            arm=Arm(row["arm"]),
            weight=row["weight"],
            assigned_us=row["assigned_us"],
            closed=bool(row["closed"]),
            tasks=row["tasks"],
            failures=row["failures"],
            cost_nanos=row["cost_nanos"],
            busy_us=row["busy_us"],
            thumb=row["thumb"],
            waits_for_judge=not row["judged"],
            score=row["score"],
        )
        for row in rows
    ]


async def arms(tx: Transaction, rollout_id: str) -> dict[str, int]:
    """How many sessions each arm was given, and how many of all were served."""
    counts = {Arm.STABLE.value: 0, Arm.CANDIDATE.value: 0}
    for row in await tx.fetch_all("rollouts.arms", rollout_id=rollout_id):
        counts[row["arm"]] = int(row["count"])
    exposed = await tx.fetch_one("rollouts.exposed", rollout_id=rollout_id)
    return {**counts, "exposed": 0 if exposed is None else int(exposed["count"])}


async def finished(
    tx: Transaction,
    rollout: Rollout,
    arm: Arm,
    *,
    sessions: int,
    limit: int,
    since_us: int = 0,
) -> tuple[FinishedTask, ...]:
    """The ``limit`` tasks that ended last in an arm, the oldest first.

    They are looked for in the arm's last ``sessions`` sessions, not before ``since_us``.
    """
    rows = await tx.fetch_all(
        "rollouts.finished",
        rollout_id=rollout.id,
        arm=arm.value,
        after=rollout.assigned - _RECENT,
        sessions=sessions,
        since_us=since_us,
        limit=limit,
    )
    return tuple(
        FinishedTask(
            finished_us=row["finished_us"],
            failed=row["state"] in _FAILED,
            cost_capped=row["outcome"] == Ending.BUDGET.value,
        )
        for row in reversed(rows)
    )


async def history(
    tx: Transaction, *, agent: str, environment: str, release: str, limit: int
) -> Sequence[Row]:
    """The last closed sessions of a release, as rows of its sums and judgement."""
    return await tx.fetch_all(
        "rollouts.history", agent=agent, environment=environment, release=release, limit=limit
    )


def _record(row: Row) -> Rollout:
    plan: dict[str, Any] = _decode(row["plan"])
    return Rollout(
        id=row["id"],
        agent=row["agent"],
        environment=row["environment"],
        stable=row["stable"],
        candidate=row["candidate"],
        plan=plan_from_json(plan),
        salt=row["salt"],
        baseline=_baseline(row["baseline"]),
        phase=Phase(row["phase"]),
        hold=None if row["hold"] is None else Hold(row["hold"]),
        step=row["step"],
        weight=row["weight"],
        step_since=row["step_since"],
        revision=row["revision"],
        assigned=row["assigned"],
        folded=row["folded"],
        reason=row["reason"],
        started_us=row["started_us"],
        phase_since_us=row["phase_since_us"],
        ended_us=row["ended_us"],
    )
