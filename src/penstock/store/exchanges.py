"""Exchanges: the record of every model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import NotFound
from penstock.domain.exchanges import Caller, Exchange, LinkAttempt, Usage
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_attempts = msgspec.json.Decoder(tuple[LinkAttempt, ...]).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a task stands."""

    cost_nanos: int
    tokens: int  # in and out
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeatable:
    """A recorded answer that may be given again."""

    id: str
    body: str  # digest of the answer's bytes
    streamed: bool
    provider: str | None
    model: str | None
    model_returned: str | None
    fingerprint: str | None
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the exchanges of an agent with a model came to."""

    agent: str
    provider: str
    model: str
    outcome: str
    count: int
    input_tokens: int
    output_tokens: int
    cost_nanos: int


async def add(tx: Transaction, exchange: Exchange) -> None:
    """Record an exchange."""
    caller = exchange.caller
    usage = exchange.usage
    await tx.execute(
        "exchanges.add",
        id=exchange.id,
        task_id=caller.task_id,
        session_id=caller.session_id,
        agent=caller.agent,
        release=caller.release,
        epoch=caller.epoch,
        step=caller.step,
        scope=caller.scope,
        alias=exchange.alias,
        request_digest=exchange.request_digest,
        request=_text(exchange.request),
        response=None if exchange.response is None else _text(exchange.response),
        status=exchange.status,
        outcome=exchange.outcome,
        streamed=int(exchange.streamed),
        provider=exchange.provider,
        model=exchange.model,
        model_returned=exchange.model_returned,
        fingerprint=exchange.fingerprint,
        attempts=_text(exchange.attempts),
        replayed_from=exchange.replayed_from,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nanos=exchange.cost_nanos,
        started_us=exchange.started_us,
        first_token_us=exchange.first_token_us,
        duration_us=exchange.duration_us,
    )


async def charge(
    tx: Transaction,
    *,
    task_id: str,
    cost_nanos: int,
    tokens: int = 0,
    limit_hit: str | None = None,
) -> Standing | None:
    """Add a cost and its tokens to a task; where it stands now, or nothing if there is none.

    ``limit_hit`` is kept with the task when a call was refused for it.
    """
    row = await tx.fetch_one(
        "exchanges.charge",
        task_id=task_id,
        cost_nanos=cost_nanos,
        tokens=tokens,
        limit_hit=limit_hit,
    )
    return None if row is None else _standing(row)


async def has(tx: Transaction, exchange_id: str) -> bool:
    """Whether an exchange is on record."""
    return await tx.fetch_one("exchanges.has", id=exchange_id) is not None


async def standing(tx: Transaction, *, task_id: str) -> Standing | None:
    """Where a task stands, or nothing if there is no such task."""
    row = await tx.fetch_one("exchanges.standing", task_id=task_id)
    return None if row is None else _standing(row)


def _standing(row: Row) -> Standing:
    return Standing(cost_nanos=row["cost_nanos"], tokens=row["tokens"], epoch=row["epoch"])


async def repeatable(
    tx: Transaction, *, task_id: str, step: int, scope: str, request_digest: str, epoch: int
) -> list[Repeatable]:
    """What earlier epochs recorded for this request and ``epoch`` has not used yet, in order.

    A call that names its scope is known by it, any other by the steps that were behind it.
    """
    rows = await tx.fetch_all(
        "exchanges.repeatable",
        task_id=task_id,
        step=step,
        scope=scope,
        request_digest=request_digest,
        epoch=epoch,
    )
    return [
        Repeatable(
            id=row["id"],
            body=_decode(row["response"])["body"],
            streamed=bool(row["streamed"]),
            provider=row["provider"],
            model=row["model"],
            model_returned=row["model_returned"],
            fingerprint=row["fingerprint"],
            usage=_usage(row),
        )
        for row in rows
    ]


async def of_task(tx: Transaction, *, task_id: str) -> Sequence[Exchange]:
    """Every exchange of a task, in the order in which they began."""
    return [_record(row) for row in await tx.fetch_all("exchanges.of_task", task_id=task_id)]


async def get(tx: Transaction, exchange_id: str) -> Exchange:
    """One exchange.

    Raises:
        NotFound: there is none of this id.
    """
    row = await tx.fetch_one("exchanges.get", id=exchange_id)
    if row is None:
        raise NotFound(f"there is no exchange {exchange_id}")
    return _record(row)


async def totals(tx: Transaction) -> list[Totals]:
    """Sums over all exchanges."""
    return [
        Totals(
            agent=row["agent"] or "",
            provider=row["provider"] or "",
            model=row["model"] or "",
            outcome=row["outcome"],
            count=int(row["count"]),
            input_tokens=int(row["input_tokens"]),
            output_tokens=int(row["output_tokens"]),
            cost_nanos=int(row["cost_nanos"]),
        )
        for row in await tx.fetch_all("exchanges.totals")
    ]


def _text(value: Any) -> str:
    return _encode(value).decode()


def _usage(row: Row) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_tokens=row["cached_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
    )


def _record(row: Row) -> Exchange:
    return Exchange(
        id=row["id"],
        caller=Caller(
            task_id=row["task_id"],
            session_id=row["session_id"],
            agent=row["agent"],
            environment=row["environment"] or "",
            release=row["release"],
            epoch=row["epoch"],
            step=row["step"],
            scope=row["scope"],
        ),
        alias=row["alias"],
        request_digest=row["request_digest"],
        request=_decode(row["request"]),
        response=None if row["response"] is None else _decode(row["response"]),
        status=row["status"],
        outcome=row["outcome"],
        streamed=bool(row["streamed"]),
        provider=row["provider"],
        model=row["model"],
        model_returned=row["model_returned"],
        fingerprint=row["fingerprint"],
        attempts=_attempts(row["attempts"]),
        replayed_from=row["replayed_from"],
        usage=_usage(row),
        cost_nanos=row["cost_nanos"],
        started_us=row["started_us"],
        first_token_us=row["first_token_us"],
        duration_us=row["duration_us"],
    )
