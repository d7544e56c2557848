"""The tool calls of one attempt: what it may make, what is on record already, and what came back.

The agent's process says what it is about to call; the answer says whether to. Equal requests of one
place are told apart by counting them, so calls that run side by side need no order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from penstock.domain.errors import Invalid
from penstock.domain.tool_calls import CallState, ToolCall
from penstock.rules.tool_calls import (
    Next,
    Verdict,
    idempotency_key,
    question,
    scope_of,
    verdict,
    wait_id,
)
from penstock.runtime.calls import Answer
from penstock.runtime.journals import Journal
from penstock.store import tool_calls

log = logging.getLogger(__name__)

_ENDS = (CallState.DONE, CallState.RAISED, CallState.SUSPENDED)


class ToolCalls:
    """Decides about the calls of one attempt, and keeps them."""

    def __init__(self, journal: Journal, *, epoch: int, answers: Mapping[str, Any]) -> None:
        """``answers`` is what people have said about interrupted calls, by the question's id."""
        self._journal = journal
        self._epoch = epoch
        self._answers = answers
        self._counted: Counter[tuple[str, str]] = Counter()
        self._open: dict[int, tuple[ToolCall, bool]] = {}  # … and whether its intent is on record
        self._numbers = 0

    async def answer(self, call: Mapping[str, Any], blobs: Sequence[bytes]) -> Answer:
        """Do what a frame of the agent's process asks.

        Raises:
            Stale: another attempt owns the task.
            KeyError, TypeError, ValueError: the frame asks for nothing, or lacks something.
        """
        match call["op"]:
            case "tool.begin":
                return await self._begin(call)
            case "tool.end":
                await self._end(call, blobs)
                return Answer({"ok": True})
            case unknown:
                raise ValueError(f"there is no call {unknown!r}")

    async def _begin(self, asked: Mapping[str, Any]) -> Answer:
        place = str(asked["scope"]) or str(self._journal.base)
        request = str(asked["request"])
        self._counted[place, request] += 1
        made = ToolCall(
            task_id=self._journal.task_id,
            place=place,
            request=request,
            number=self._counted[place, request],
            tool=str(asked["tool"]),
            effect=str(asked["effect"]),
            retry=str(asked["retry"]),
            arguments=asked["arguments"],
            epoch=self._epoch,
            state=CallState.BEGUN,
        )
        found = await self._find(made) if self._epoch > 1 else None
        said = self._verdict(found, made)
        match said.what:
            case Next.RETURN:
                assert found is not None
                header = {"ok": True, "do": "return", "encoding": found.encoding}
                return Answer(header, [found.result or b""])
            case Next.WAIT:
                assert found is not None
                wait = {"id": wait_id(found), "kind": "tool", "value": question(found)}
                return Answer({"ok": True, "do": "wait", "wait": wait})
            case Next.ACCEPT:
                return await self._accept(made, said.value)
            case Next.FAIL:
                error = {"type": "ToolFailed", "message": str(said.value)}
                if found is None or found.state is not CallState.GIVEN_UP:
                    given_up = replace(made, state=CallState.GIVEN_UP, error=error)
                    await self._keep(given_up)
                return Answer({"ok": True, "do": "fail", "error": error})
        return await self._make(made, recorded=found is not None)

    async def _find(self, made: ToolCall) -> ToolCall | None:
        """What earlier attempts have on record of a call that is about to be made."""
        return await self._journal.read(
            partial(
                tool_calls.find,
                task_id=made.task_id,
                place=made.place,
                request=made.request,
                number=made.number,
            )
        )

    async def _keep(self, call: ToolCall) -> None:
        """Commit a call as it stands; a second try writes the same again.

        Raises:
            Stale: another attempt owns the task.
        """
        await self._journal.commit(partial(tool_calls.put, call=call))

    def _verdict(self, found: ToolCall | None, made: ToolCall) -> Verdict:
        answer = None if found is None else self._answers.get(wait_id(found))
        try:
            return verdict(found, retry=made.retry, answer=answer)
        except Invalid as error:  # said before it was checked: the question is asked again
            log.warning("task %s, tool %s: %s", made.task_id, made.tool, error)
            return verdict(found, retry=made.retry)

    async def _make(self, made: ToolCall, *, recorded: bool) -> Answer:
        # What may be read again at any time leaves no doubt behind when it is interrupted.
        harmless = made.retry == "safe" and made.effect == "read" and not recorded
        if not harmless:
            await self._keep(made)
        self._numbers += 1
        self._open[self._numbers] = (made, not harmless)
        return Answer(
            {
                "ok": True,
                "do": "make",
                "call": self._numbers,
                "key": idempotency_key(made.task_id, made.place, made.request, made.number),
                "scope": scope_of(made.place, made.request, made.number),
            }
        )

    async def _accept(self, made: ToolCall, value: Any) -> Answer:
        """Keep what a person says that a call returned, as if it had returned that."""
        result = msgspec.json.encode(value)
        await self._keep(replace(made, state=CallState.DONE, encoding="json", result=result))
        return Answer({"ok": True, "do": "return", "encoding": "json"}, [result])

    async def _end(self, said: Mapping[str, Any], blobs: Sequence[bytes]) -> None:
        made, recorded = self._open.pop(int(said["call"]))
        state = CallState(said["state"])
        if state not in _ENDS:
            raise ValueError(f"a call does not end {state.value}")
        encoding = said.get("encoding")
        if encoding is None and not recorded:
            return  # nothing to give back, and no doubt to clear up
        await self._keep(
            replace(
                made,
                state=state,
                encoding=None if encoding is None else str(encoding),
                result=None if encoding is None else blobs[0],
                error=said.get("error"),
            )
        )
