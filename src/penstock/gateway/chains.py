"""Walks a chain: asks its links in order until one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from penstock.domain.errors import Invalid, PenstockError
from penstock.domain.exchanges import LinkAttempt
from penstock.domain.releases import ModelPin
from penstock.drivers.providers import (
    AnswerCut,
    AnswerInvalid,
    Provider,
    ProviderAnswer,
    ProviderFailed,
    ProviderRequest,
    TimedOut,
    read_all,
)
from penstock.gateway.budgets import Caps, Reservation, Spent
from penstock.gateway.prices import Prices
from penstock.rules import budgets, chains
from penstock.rules.budgets import FREE, Rate
from penstock.rules.wires import openai, sse

T = TypeVar("T")

ANSWER_LIMIT = 64 << 20  # bytes of one answer
_OK = 200
_BUDGET = "budget_exceeded"
_TOKENS = "token_limit_exceeded"
_FIRST_ERROR = 400


class Refused(PenstockError):
    """The gateway itself says no."""

    def __init__(self, message: str, *, status: int, code: str, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind


class ChainFailed(Exception):
    """No link answered, or one answered that the request is wrong."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.headers = headers


class _Rejected(ProviderFailed):
    """A provider answered with a status other than 200."""

    outcome = "status"

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}: {openai.describe_error(body)}")
        self.status = status
        self.body = body
        self.headers = headers


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A complete JSON answer."""

    body: bytes
    facts: openai.AnswerFacts


class Opened:
    """A stream whose first content has arrived: from here on there is no falling back."""

    def __init__(self, answer: ProviderAnswer, pin: ModelPin, deadline: float) -> None:
        self._answer = answer
        self._splitter = sse.EventSplitter()
        self._stall_seconds = pin.first_token_seconds
        self._total_seconds = pin.timeout_seconds
        self._deadline = deadline
        self._size = 0
        self.reader = openai.StreamReader()
        self.head: list[tuple[str, bytes]] = []  # kind and event, up to the first content
        self.note = answer.note

    async def begin(self) -> None:
        """Read up to the first event that says something.

        Raises:
            ProviderFailed: the stream ended or went wrong before that.
        """
        while True:
            events = await self._read()
            if not events:
                raise AnswerCut("the stream ended before its first content")
            self.head += events
            if self.reader.error is not None:
                raise AnswerInvalid(f"the stream began with an error: {self.reader.error}")
            if any(kind != "quiet" for kind, _ in events):
                return

    async def next(self) -> list[tuple[str, bytes]]:
        """The next events; empty at the end of the stream.

        Raises:
            ProviderFailed: the stream was cut, stalled, or took too long as a whole.
        """
        now = asyncio.get_running_loop().time()
        stall = now + self._stall_seconds
        try:
            async with asyncio.timeout_at(min(stall, self._deadline)):
                return await self._read()
        except TimeoutError:
            if stall < self._deadline:
                failed = TimedOut(f"nothing came for {self._stall_seconds:g} s")
                failed.outcome = "stall"
                raise failed from None
            raise TimedOut(f"not complete after {self._total_seconds:g} s") from None

    async def close(self) -> None:
        """Let go of the provider's answer."""
        await self._answer.close()

    async def _read(self) -> list[tuple[str, bytes]]:
        while part := await self._answer.read():
            self._size += len(part)
            if self._size > ANSWER_LIMIT:
                raise AnswerCut(f"the stream is larger than {ANSWER_LIMIT} bytes")
            if events := self._splitter.feed(part):
                return [(self.reader.see(event), event) for event in events]
        if rest := self._splitter.rest.strip():  # a last event without its blank line
            self._splitter = sse.EventSplitter()
            event = rest + b"\n\n"
            return [(self.reader.see(event), event)]
        return []


class Walk:
    """One call on its way along one chain."""

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        prices: Prices,
        pins: Sequence[ModelPin],
        request: openai.Request,
        reservation: Reservation,
        caps: Caps,
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._pins = pins
        self._request = request
        self._reservation = reservation
        self._caps = caps
        self._began_ns = 0
        self.attempts: list[LinkAttempt] = []
        self.pin: ModelPin | None = None  # the link asked last
        self.rate: Rate = FREE  # what it charges

    async def whole(self) -> Whole:
        """A complete JSON answer.

        Raises:
            Refused: a cap of the task forbids the call.
            ChainFailed: there is no answer.
        """
        return await self._walk(self._ask_whole)

    async def stream(self) -> Opened:
        """A stream that has begun to say something.

        Raises:
            Refused: a cap of the task forbids the call.
            ChainFailed: there is no answer.
        """
        return await self._walk(self._ask_stream)

    def answered(self, outcome: str = "ok", detail: str = "") -> None:
        """Note how the link that answered came through."""
        self._note(outcome, detail, _OK)

    def gave_up(self) -> None:
        """Note that nobody waits for the link that was asked any more."""
        self._note("cut", "the task was stopped", None)

    def settle(self, spent: Spent | None) -> None:
        """Replace what was set aside by what the store says the task has used in all."""
        self._reservation.settle(spent)

    async def _walk(self, ask: Callable[[ModelPin, Provider], Awaitable[T]]) -> T:
        last: _Rejected | None = None
        for pin in self._pins:
            self.pin = pin
            self._began_ns = time.monotonic_ns()
            provider = self._providers.get(pin.provider)
            if provider is None:
                self._note("skipped", f"no provider is configured under `{pin.provider}`", None)
                continue
            await self._reserve(pin, provider)
            try:
                return await ask(pin, provider)
            except ProviderFailed as failed:
                last = failed if isinstance(failed, _Rejected) else None
                status = last.status if last else None
                self._note(failed.outcome, failed.message, status)
                if not chains.falls_back(failed.outcome, status):
                    break
        self._reservation.release()
        raise self._failed(last)

    async def _reserve(self, pin: ModelPin, provider: Provider) -> None:
        rate = await self._prices.of(pin, provider)
        self.rate = rate or FREE
        caps = self._caps
        if caps.nanos is None and caps.tokens is None:
            return
        if rate is None and caps.nanos is not None:
            raise Refused(
                f"The task has a cost cap and nobody knows what {pin.provider}/{pin.model} costs."
                " Give the model a `price` in penstock.yaml, or remove `limits.cost`.",
                status=402,
                code="price_unknown",
                kind="insufficient_quota",
            )
        maximum = self._request.maximum(pin.parameters)
        size = self._request.size
        most = Spent(
            nanos=budgets.estimate(request_bytes=size, max_tokens=maximum, rate=self.rate),
            tokens=budgets.estimate_tokens(request_bytes=size, max_tokens=maximum),
        )
        limit = self._reservation.change_to(most, caps=caps)
        if limit is not None:
            raise _over(limit, most, caps)

    async def _ask_whole(self, pin: ModelPin, provider: Provider) -> Whole:
        body = self._request.with_model(pin.model, pin.parameters)
        try:
            async with asyncio.timeout(pin.timeout_seconds):
                answer = await provider.call(ProviderRequest(body=body, stream=False))
                try:
                    content = await read_all(answer, limit=ANSWER_LIMIT)
                finally:
                    await answer.close()
        except TimeoutError:
            raise TimedOut(f"not answered after {pin.timeout_seconds:g} s") from None
        if answer.status != _OK:
            raise _rejection(answer, content)
        try:
            facts = openai.read_answer(content)
        except Invalid as error:
            raise AnswerInvalid(error.message) from None
        self.answered(detail=answer.note)
        return Whole(body=content, facts=facts)

    async def _ask_stream(self, pin: ModelPin, provider: Provider) -> Opened:
        body = self._request.with_model(pin.model, pin.parameters)
        now = asyncio.get_running_loop().time()
        deadline = now + pin.timeout_seconds
        seconds = min(pin.first_token_seconds, pin.timeout_seconds)
        answer: ProviderAnswer | None = None
        opened: Opened | None = None
        try:
            async with asyncio.timeout_at(now + seconds):
                answer = await provider.call(ProviderRequest(body=body, stream=True))
                if answer.status != _OK:
                    content = await read_all(answer, limit=ANSWER_LIMIT)
                    raise _rejection(answer, content)
                if "event-stream" not in answer.headers.get("content-type", ""):
                    raise AnswerInvalid("a stream was asked for and something else came")
                opening = Opened(answer, pin, deadline)
                await opening.begin()
                opened = opening
        except TimeoutError:
            raise TimedOut(f"no first token after {seconds:g} s") from None
        finally:
            if answer is not None and opened is None:
                await answer.close()
        return opened

    def _note(self, outcome: str, detail: str, status: int | None) -> None:
        pin = self.pin
        if pin is not None:
            self.attempts.append(
                LinkAttempt(
                    provider=pin.provider,
                    model=pin.model,
                    outcome=outcome,
                    detail=detail,
                    status=status,
                    duration_us=(time.monotonic_ns() - self._began_ns) // 1000,
                )
            )

    def _failed(self, last: _Rejected | None) -> ChainFailed:
        if last is not None and not chains.falls_back("status", last.status):
            # The request is what is wrong: the agent hears it in the provider's own words.
            return ChainFailed(last.status, last.body, last.headers)
        status = chains.final_status(self.attempts)
        body = openai.error_body(
            chains.explain(self._request.alias, self.attempts),
            kind="rate_limit_error" if status == 429 else "server_error",  # noqa: PLR2004
            code="chain_failed",
        )
        return ChainFailed(status, body, last.headers if last is not None else {})


def _over(limit: str, most: Spent, caps: Caps) -> Refused:
    """The refusal of a call that a cap of the task forbids."""
    if limit == "cost":
        may, cap, code = budgets.dollars(most.nanos), budgets.dollars(caps.nanos or 0), _BUDGET
        may = f"cost up to {may}"
    else:
        may, cap, code = f"use up to {most.tokens} tokens", f"{caps.tokens} tokens", _TOKENS
    return Refused(
        f"The next call may {may} and would pass the task's cap of {cap}."
        f" Raise `limits.{limit}` in penstock.yaml, or ask for less: a smaller max_tokens,"
        " a shorter history.",
        status=402,
        code=code,
        kind="insufficient_quota",
    )


def _rejection(answer: ProviderAnswer, content: bytes) -> ProviderFailed:
    if answer.status < _FIRST_ERROR:
        return AnswerInvalid(f"status {answer.status} where 200 was expected")
    return _Rejected(answer.status, content, answer.headers)
