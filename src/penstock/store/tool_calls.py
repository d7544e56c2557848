"""Tool calls: the journal of what an agent does to the world."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.domain.errors import Stale
from penstock.domain.tool_calls import CallState, ToolCall
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def put(tx: Transaction, call: ToolCall) -> None:
    """Keep a call as it stands, under the fence of its epoch; the clock is the database's.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
    """
    row = await tx.fetch_one(
        "tool_calls.put",
        task_id=call.task_id,
        place=call.place,
        request=call.request,
        number=call.number,
        tool=call.tool,
        effect=call.effect,
        retry=call.retry,
        arguments=_text(call.arguments),
        epoch=call.epoch,
        state=call.state.value,
        encoding=call.encoding,
        result=call.result,
        error=None if call.error is None else _text(call.error),
        ended=int(call.state is not CallState.BEGUN),
    )
    if row is None:
        raise Stale(f"epoch {call.epoch} no longer owns task {call.task_id}; nothing was written")


async def find(
    tx: Transaction, *, task_id: str, place: str, request: str, number: int
) -> ToolCall | None:
    """A call, if it is on record."""
    row = await tx.fetch_one(
        "tool_calls.get", task_id=task_id, place=place, request=request, number=number
    )
    return None if row is None else _record(row)


async def of_task(tx: Transaction, task_id: str) -> list[ToolCall]:
    """Every call of a task, in the order in which they were begun."""
    return [_record(row) for row in await tx.fetch_all("tool_calls.of_task", task_id=task_id)]


def _text(value: Any) -> str:
    return _encode(value).decode()


def _record(row: Row) -> ToolCall:
    return ToolCall(
        task_id=row["task_id"],
        place=row["place"],
        request=row["request"],
        number=row["number"],
        tool=row["tool"],
        effect=row["effect"],
        retry=row["retry"],
        arguments=_decode(row["arguments"]),
        epoch=row["epoch"],
        state=CallState(row["state"]),
        encoding=row["encoding"],
        result=None if row["result"] is None else bytes(row["result"]),
        error=None if row["error"] is None else _decode(row["error"]),
        begun_us=row["begun_us"],
        ended_us=row["ended_us"],
    )
