"""The messages of a request, sorted by who says what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.drivers.providers.simulated import facts


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call the model asks for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(kw_only=True, slots=True)
class Conversation:
    """The messages, sorted by who says what."""

    instructions: str = ""
    questions: list[str] = field(default_factory=list)  # the user's messages
    calls: list[ToolCall] = field(default_factory=list)  # since the last of them
    results: list[Any] = field(default_factory=list)  # … and what they answered
    rounds: int = 0
    all_results: list[Any] = field(default_factory=list)

    @property
    def question(self) -> str:
        """What the user said last."""
        return self.questions[-1] if self.questions else ""

    @property
    def earlier(self) -> str:
        """What the user said before."""
        return "\n".join(reversed(self.questions[:-1]))


def read(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Sort the messages of a request."""
    found = Conversation()
    instructions = []
    for message in messages:
        role = message.get("role")
        text = _text(message.get("content"))
        if role in {"system", "developer"}:
            instructions.append(text)
        elif role == "user":
            found.questions.append(text)
            found.calls, found.results, found.rounds = [], [], 0
        elif role == "assistant" and message.get("tool_calls"):
            found.rounds += 1
            found.calls += [_call(call) for call in message["tool_calls"]]
        elif role in {"tool", "function"}:
            result = facts.parse(text)
            found.results.append(result)
            found.all_results.append(result)
    # Without instructions the whole task stands in the user's message.
    found.instructions = "\n".join(instructions) or found.question
    return found


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = {}
    known = arguments if isinstance(arguments, dict) else {}
    return ToolCall(name=str(function.get("name")), arguments=known)
