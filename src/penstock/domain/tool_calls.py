"""Tool calls: what an agent does to the world, written down before it is done and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CallState(StrEnum):
    """Where a tool call is in its life; drawn in ``rules/tool_calls.py``."""

    BEGUN = "begun"  # the intent is on record; whether it was done is not known
    DONE = "done"
    RAISED = "raised"  # the tool raised an error: it may have been done all the same
    SUSPENDED = "suspended"  # the tool itself stopped to ask a person; nothing was done
    GIVEN_UP = "given_up"  # a person said that it failed


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call of a tool, known by its place in the agent's work and by what was asked."""

    task_id: str
    place: str
    request: str  # sha256 of tool and arguments
    number: int  # among equal requests of the place
    tool: str
    effect: str  # read | write
    retry: str  # safe | keyed | never
    arguments: Any
    epoch: int  # of the attempt that made it last
    state: CallState
    encoding: str | None = None  # of the result; None: there is none, or it could not be kept
    result: bytes | None = None
    error: Mapping[str, Any] | None = None  # type, message
    begun_us: int = 0
    ended_us: int | None = None
