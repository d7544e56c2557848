"""Sessions: their release, their sums, and how they were judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.domain.errors import NotFound
from penstock.domain.sessions import Session
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def add(
    tx: Transaction,
    *,
    session_id: str,
    agent: str,
    environment: str,
    release: str,
    user_id: str | None,
    metadata: Mapping[str, Any],
    rollout_id: str | None,
    arm: str | None,
    judge: str | None,
    ttl_seconds: float | None = None,
) -> Session:
    """Begin a session on a release; ``judge`` is the release whose evaluator will judge it.

    It is deleted ``ttl_seconds`` after it was last used; never, without that.
    """
    row = await tx.fetch_one(
        "sessions.add",
        id=session_id,
        agent=agent,
        environment=environment,
        release=release,
        user_id=user_id,
        metadata=_encode(metadata).decode(),
        rollout_id=rollout_id,
        arm=arm,
        judge=judge,
        ttl_us=None if ttl_seconds is None else int(ttl_seconds * 1_000_000),
    )
    assert row is not None
    return _record(row)


async def get(tx: Transaction, session_id: str) -> Session:
    """A session.

    Raises:
        NotFound: there is none of this id.
    """
    return _found(await tx.fetch_one("sessions.get", id=session_id), session_id)


async def lock(tx: Transaction, session_id: str) -> Session:
    """A session that nobody else changes before this commit.

    Raises:
        NotFound: there is none of this id.
    """
    return _found(await tx.fetch_one("sessions.lock", id=session_id), session_id)


async def last_like(tx: Transaction, session_id: str, *, other: str) -> Session:
    """Let a session live for as long after its last use as another one.

    Raises:
        NotFound: there is none of this id.
    """
    row = await tx.fetch_one("sessions.last_like", id=session_id, other=other)
    return _found(row, session_id)


async def listing(
    tx: Transaction,
    *,
    agent: str | None = None,
    state: str | None = None,
    limit: int = 50,
    before: str | None = None,
) -> list[Session]:
    """Sessions from the newest to the oldest, those older than session ``before``."""
    rows = await tx.fetch_all(
        "sessions.listing", agent=agent, state=state, limit=limit, before=before
    )
    return [_record(row) for row in rows]


async def account(
    tx: Transaction, session_id: str, *, failed: bool, cost_nanos: int, busy_us: int
) -> None:
    """Add an ended task to its session's sums."""
    await tx.execute(
        "sessions.account",
        id=session_id,
        failures=int(failed),
        cost_nanos=cost_nanos,
        busy_us=busy_us,
    )


async def close(tx: Transaction, session_id: str) -> None:
    """End a session, if it is open; whoever judges it hears of it at the commit."""
    if await tx.execute("sessions.close", id=session_id):
        tx.notify("judge", session_id)


async def feedback(tx: Transaction, session_id: str, *, thumb: int) -> Session:
    """Keep a person's opinion: -1, 0 or 1.

    Raises:
        NotFound: there is none of this id.
    """
    return _found(await tx.fetch_one("sessions.feedback", id=session_id, thumb=thumb), session_id)


async def to_judge(tx: Transaction, *, limit: int) -> list[tuple[Session, str]]:
    """Closed sessions that wait for a judgement, each with the release that judges."""
    rows = await tx.fetch_all("sessions.to_judge", limit=limit)
    return [(_record(row), row["judge"]) for row in rows]


async def judged(
    tx: Transaction, session_id: str, *, score: float | None, error: str | None
) -> bool:
    """Keep a judgement, unless there is one; whether it was kept."""
    kept = await tx.execute("sessions.judged", id=session_id, score=score, judge_error=error)
    return bool(kept)


def _found(row: Row | None, session_id: str) -> Session:
    if row is None:
        raise NotFound(f"there is no session {session_id}")
    return _record(row)


def _record(row: Row) -> Session:
    return Session(
        id=row["id"],
        agent=row["agent"],
        environment=row["environment"],
        release=row["release"],
        user_id=row["user_id"],
        metadata=_decode(row["metadata"]),
        state=row["state"],
        rollout_id=row["rollout_id"],
        arm=row["arm"],
        tasks=row["tasks"],
        failures=row["failures"],
        cost_nanos=row["cost_nanos"],
        busy_us=row["busy_us"],
        thumb=row["thumb"],
        score=row["score"],
        created_us=row["created_us"],
        closed_us=row["closed_us"],
        expires_us=row["expires_us"],
    )
