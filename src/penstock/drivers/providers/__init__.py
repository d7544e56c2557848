"""Providers: whoever answers a Chat Completions request.

A provider has one verb. It does not retry, choose, price, limit or record: that is the gateway's
business. It tells apart the ways in which a call can fail, because the chain decides by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.domain.errors import Unavailable
from penstock.domain.releases import Price


class ProviderFailed(Unavailable):
    """A provider gave no usable answer."""

    outcome = "connect"  # the word of LinkAttempt.outcome


class ConnectFailed(ProviderFailed):
    """It could not be reached: no address, refused, no TLS, or closed before any answer."""

    outcome = "connect"


class TimedOut(ProviderFailed):
    """It did not answer in time."""

    outcome = "timeout"


class AnswerCut(ProviderFailed):
    """The connection ended in the middle of an answer."""

    outcome = "cut"


class AnswerInvalid(ProviderFailed):
    """It answered something that is not HTTP, or not what was asked for."""

    outcome = "invalid"


class KeyMissing(ProviderFailed):
    """It needs a key and none is configured: the link is skipped."""

    outcome = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderRequest:
    """A Chat Completions request on its way out."""

    body: bytes  # JSON
    stream: bool  # whether the body asks for server-sent events


class ProviderAnswer(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, their names in lower case."""
        ...

    @property
    def note(self) -> str:
        """Something the record should say about how the answer came; mostly empty."""
        ...

    async def read(self) -> bytes:
        """The next part of the body as it comes; empty at its end.

        Raises:
            AnswerCut: the connection ended before the body did.
        """
        ...

    async def close(self) -> None:
        """Let go of the answer; what has not arrived yet is given up."""
        ...


class Provider(Protocol):
    """Answers Chat Completions requests."""

    @property
    def price(self) -> Price | None:
        """What it charges whatever the model, or ``None``: the price list says."""
        ...

    async def call(self, request: ProviderRequest) -> ProviderAnswer:
        """Send a request and wait for the head of its answer; cancelling gives it up.

        Raises:
            ProviderFailed: there is no answer; the subclass says why.
        """
        ...

    async def close(self) -> None:
        """Close what it keeps open."""
        ...


async def read_all(answer: ProviderAnswer, *, limit: int) -> bytes:
    """The whole body.

    Raises:
        AnswerInvalid: it is larger than ``limit`` bytes.
        AnswerCut: the connection ended before the body did.
    """
    parts: list[bytes] = []
    size = 0
    while part := await answer.read():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise AnswerInvalid(f"the answer is larger than {limit} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)
