"""Exchanges: recorded LLM inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The attempt a model call comes from."""

    task_id: str
    session_id: str
    agent: str
    environment: str
    release: str  # digest
    epoch: int
    step: int  # steps behind the attempt when the call arrived, replayed ones included
    scope: str = ""  # the part of the agent's work that asks, if its HTTP client said so


class Callers(Protocol):
    """Finds out which attempt is at the other end of a connection."""

    async def identify(self, host: str, port: int) -> Caller | None:
        """The attempt whose socket is bound to ``host:port``, or nothing."""
        ...

    def by_token(self, token: str) -> Caller | None:
        """The attempt that was given ``token``; used where attempts share a process."""
        ...

    async def confirm(self, caller: Caller) -> None:
        """Wait until it is known that nobody else has the caller's task.

        Raises:
            Stale: somebody else has it, or may have it.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # part of input_tokens
    reasoning_tokens: int = 0  # part of output_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkAttempt:
    """One try of one link of a chain."""

    provider: str
    model: str
    outcome: str  # ok | skipped | connect | timeout | stall | status | cut | invalid
    detail: str
    status: int | None
    duration_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One model call as it was made and answered."""

    id: str
    caller: Caller
    alias: str
    request_digest: str  # of the canonical request; the key under which it is found again
    request: Mapping[str, Any]  # messages replaced by blob digests
    response: Mapping[str, Any] | None
    status: int
    outcome: str  # ok | error | refused | cut
    streamed: bool
    provider: str | None
    model: str | None
    model_returned: str | None
    fingerprint: str | None
    attempts: tuple[LinkAttempt, ...]
    replayed_from: str | None
    usage: Usage = field(default_factory=Usage)
    cost_nanos: int = 0
    started_us: int = 0
    first_token_us: int | None = None
    duration_us: int = 0
