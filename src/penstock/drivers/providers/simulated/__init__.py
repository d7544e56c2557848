"""A provider without keys: seeded, in this process, honest about being simulated.

What it answers follows from the request alone (and the seed): equal requests are answered
equally. Only faults are drawn by the number of the call, as a provider's faults do not follow
from what it is asked; with the same seed and the same order of calls they repeat too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.releases import Price
from penstock.drivers.providers import AnswerCut, ProviderAnswer, ProviderRequest
from penstock.drivers.providers.simulated.behaviour import Reply, respond
from penstock.drivers.providers.simulated.facts import Draw
from penstock.rules.wires import openai, sse

_CREATED = 1_700_000_000  # part of an answer that follows from its request: not the time of day
_FINEST_SLEEP = 0.002  # seconds; shorter pauses are added up first
_HEADERS = {"x-penstock-simulated": "true"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long answers take, in seconds."""

    first_token: float = 0.012
    per_token: float = 0.0003
    spread: float = 0.3  # a request takes up to this share longer or shorter


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """How often calls go wrong, as shares of all calls."""

    errors: float = 0.0  # status 500
    overloaded: float = 0.0  # status 529
    rate_limited: float = 0.0  # status 429
    hangs: float = 0.0  # never answers
    cuts: float = 0.0  # ends in the middle


class SimulatedProvider:
    """Speaks Chat Completions, JSON and server-sent events."""

    def __init__(
        self,
        *,
        seed: int | str = 0,
        price: Price | None = None,
        latency: Latency | None = None,
        faults: Faults | None = None,
    ) -> None:
        """Answer as ``seed`` decides; the default price is that of a small hosted model."""
        self._seed = str(seed)
        self._price = price or Price(input_nanos=150, output_nanos=600)
        self._latency = latency or Latency()
        self.faults = faults or Faults()  # may be replaced while it runs
        self._calls = 0

    @property
    def price(self) -> Price | None:
        """What it charges whatever the model."""
        return self._price

    async def call(self, request: ProviderRequest) -> ProviderAnswer:
        """Think, and answer."""
        self._calls += 1
        fault = self._fault()
        if fault == "hangs":
            await asyncio.Event().wait()
        try:
            parsed = openai.parse_request(request.body)
            body = json.loads(request.body)
        except Invalid as error:
            return _error(400, error.message)
        pace = 1 + self._latency.spread * (2 * Draw(self._seed, parsed.digest).uniform("pace") - 1)
        await asyncio.sleep(self._latency.first_token * pace)
        if isinstance(fault, int):
            return _error(fault, "a simulated fault")
        completion = complete(body, seed=self._seed, digest=parsed.digest)
        per_token = self._latency.per_token * pace
        if not request.stream:
            await asyncio.sleep(per_token * completion["usage"]["completion_tokens"])
            parts = [json.dumps(completion).encode()]
            return _Answer(200, parts, cut=fault == "cuts")
        return _Answer(200, events(completion), pause=per_token, cut=fault == "cuts", stream=True)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _fault(self) -> int | str | None:
        faults = self.faults
        drawn = Draw(self._seed, str(self._calls)).uniform("fault")
        for share, fault in (
            (faults.errors, 500),
            (faults.overloaded, 529),
            (faults.rate_limited, 429),
            (faults.hangs, "hangs"),
            (faults.cuts, "cuts"),
        ):
            if drawn < share:
                return fault
            drawn -= share
        return None


class _Answer:
    """An answer whose parts come at the pace of the model."""

    def __init__(
        self,
        status: int,
        parts: Sequence[bytes],
        *,
        pause: float = 0.0,
        cut: bool = False,
        stream: bool = False,
    ) -> None:
        kind = "text/event-stream" if stream else "application/json"
        self.status = status
        self.headers: Mapping[str, str] = {**_HEADERS, "content-type": kind}
        self.note = ""
        self._parts = list(parts)
        self._next = 0
        self._pause = pause
        self._cut_at = len(self._parts) // 2 if cut else None

    async def read(self) -> bytes:
        """The next part of the body; empty at its end."""
        if self._next == self._cut_at:
            raise AnswerCut("a simulated cut")
        # Several parts at once rather than many sleeps that no clock can keep.
        count = max(1, int(_FINEST_SLEEP / self._pause)) if self._pause else len(self._parts)
        end = min(self._next + count, len(self._parts))
        if self._cut_at is not None and self._next < self._cut_at:
            end = min(end, self._cut_at)
        parts = self._parts[self._next : end]
        self._next = end
        if self._pause and parts:
            await asyncio.sleep(self._pause * len(parts))
        return b"".join(parts)

    async def close(self) -> None:
        """Forget the rest."""
        self._next = len(self._parts)
        self._cut_at = None


def _error(status: int, message: str) -> _Answer:
    return _Answer(status, [openai.error_body(message, kind="server_error", code="simulated")])


# ---------------------------------------------------------------- replies as Chat Completions


def complete(request: Mapping[str, Any], *, seed: str, digest: str) -> dict[str, Any]:
    """The completion that answers a request."""
    choices = []
    written = 0
    most = request.get("max_completion_tokens") or request.get("max_tokens")
    for index in range(max(1, int(request.get("n") or 1))):
        # Every choice is a draw of its own.
        drawn = digest if index == 0 else f"{digest}:{index}"
        reply = respond(request, seed=seed, digest=drawn)
        message, finish, tokens = _message(reply, drawn, most)
        written += tokens
        choices.append(
            {"index": index, "message": message, "finish_reason": finish, "logprobs": None}
        )
    read = openai.estimate_tokens(
        len(json.dumps(request["messages"])) + len(json.dumps(request.get("tools") or ""))
    )
    return {
        "id": f"chatcmpl-simulated-{digest[:24]}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request["model"],
        "system_fingerprint": "simulated-1",
        "choices": choices,
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _message(reply: Reply, drawn: str, most: int | None) -> tuple[dict[str, Any], str, int]:
    if reply.calls:
        calls = [
            {
                "id": f"call_{Draw(drawn).uniform(str(number)):.16f}".replace("0.", ""),
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for number, call in enumerate(reply.calls)
        ]
        tokens = openai.estimate_tokens(len(json.dumps(calls)))
        return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls", tokens
    text, finish = reply.text, "stop"
    tokens = openai.estimate_tokens(len(text))
    if most is not None and tokens > most:
        text, finish, tokens = text[: most * openai.CHARACTERS_PER_TOKEN], "length", most
    return {"role": "assistant", "content": text, "refusal": None}, finish, tokens


def events(completion: Mapping[str, Any]) -> list[bytes]:
    """A completion as the events of a stream, a word at a time."""
    head = {name: completion[name] for name in ("id", "created", "model", "system_fingerprint")} | {
        "object": "chat.completion.chunk"
    }

    def chunk(index: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return sse.event_of({**head, "choices": [choice]})

    found: list[bytes] = []
    for choice in completion["choices"]:
        index, message = choice["index"], choice["message"]
        found.append(chunk(index, {"role": "assistant", "content": ""}))
        for number, call in enumerate(message.get("tool_calls") or ()):
            found.append(chunk(index, {"tool_calls": [{"index": number, **call}]}))
        words = (message["content"] or "").split(" ")
        for number, word in enumerate(words):
            text = word if number == 0 else f" {word}"
            if text:
                found.append(chunk(index, {"content": text}))
        found.append(chunk(index, {}, choice["finish_reason"]))
    found.append(sse.event_of({**head, "choices": [], "usage": completion["usage"]}))
    found.append(openai.DONE)
    return found
