"""What becomes of a tool call that an earlier attempt has begun.

::

    begun ──returned──▶ done         given again from the record, never made again
      │ ├───raised────▶ raised       ┐ made again if the tool may be repeated (safe, keyed);
      │ └───(killed)                 ┘ otherwise a person says what came of it:
      │                                {"result": …} ▶ done, {"retry": true} ▶ begun,
      │                                {"fail": "…"} ▶ given_up
      └─────stopped to ask ▶ suspended     made again: the tool begins with its question

An error is not given again from the record. Whoever calls a tool that failed may try it again, and
a network that was down before a restart may be up after it; only what a person has said stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.tool_calls import CallState, ToolCall

ANSWERS = '{"result": …}, {"retry": true} or {"fail": "why"}'


class Next(StrEnum):
    """What an attempt does with a call it is about to make."""

    MAKE = "make"
    RETURN = "return"  # what is on record
    ACCEPT = "accept"  # a person's word for what it returned
    FAIL = "fail"
    WAIT = "wait"  # for a person


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and with what."""

    what: Next
    value: Any = None  # ACCEPT: the result; FAIL: the message


def verdict(found: ToolCall | None, *, retry: str, answer: Any = None) -> Verdict:
    """What an attempt does with a call.

    Args:
        found: what earlier attempts have on record of it.
        retry: ``safe``, ``keyed`` or ``never``.
        answer: what a person has said about it; None when nobody has.
    """
    if found is None or found.state is CallState.SUSPENDED:
        return Verdict(Next.MAKE)
    if found.state is CallState.DONE and found.encoding is not None:
        return Verdict(Next.RETURN)
    if found.state is CallState.GIVEN_UP:
        return Verdict(Next.FAIL, (found.error or {}).get("message", ""))
    if retry != "never":
        return Verdict(Next.MAKE)
    return Verdict(Next.WAIT) if answer is None else _told(check_answer(answer))


def _told(answer: Mapping[str, Any]) -> Verdict:
    """What a person's answer comes to."""
    if "result" in answer:
        return Verdict(Next.ACCEPT, answer["result"])
    if "fail" in answer:
        return Verdict(Next.FAIL, answer["fail"])
    return Verdict(Next.MAKE)


def check_answer(answer: Any) -> Mapping[str, Any]:
    """What a person says about an interrupted call, if it is one of the three things to say.

    Raises:
        Invalid: it is something else.
    """
    known = isinstance(answer, Mapping) and len(answer) == 1
    if known and "result" in answer:
        return dict(answer)
    if known and answer.get("retry") is True:
        return dict(answer)
    if known and isinstance(answer.get("fail"), str):
        return dict(answer)
    raise Invalid(
        "an interrupted tool call is answered with what came of it", hint=f"Say one of {ANSWERS}."
    )


def idempotency_key(task_id: str, place: str, request: str, number: int) -> str:
    """The key under which a call is known outside: the same at every attempt."""
    return f"{task_id}-{_digest(place, request, str(number))}"


def scope_of(place: str, request: str, number: int) -> str:
    """The place of what a call does inside: steps, model calls, other tools."""
    return f"{place}/{request[:16]}#{number}"


def wait_id(call: ToolCall) -> str:
    """The name of the question about an interrupted call; a new interruption is a new question."""
    return f"tool_{_digest(call.place, call.request, str(call.number), str(call.epoch))}"


def question(call: ToolCall) -> dict[str, Any]:
    """What a person is asked about an interrupted call."""
    return {
        "tool": call.tool,
        "arguments": call.arguments,
        "began_us": call.begun_us,
        "epoch": call.epoch,
        "state": call.state.value,
        "error": None if call.error is None else dict(call.error),
        "question": _QUESTIONS[call.state].format(tool=call.tool, error=_said(call)),
        "answers": ANSWERS,
    }


_QUESTIONS = {
    CallState.BEGUN: "{tool} was interrupted, and must not be repeated unasked. Was it done?",
    CallState.DONE: "{tool} ended, but what it returned could not be kept. What came back?",
    CallState.RAISED: "{tool} raised {error}, and must not be repeated unasked. Was it done?",
}


def _said(call: ToolCall) -> str:
    error = call.error or {}
    return f"{error.get('type', 'an error')}: {error.get('message', '')}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
