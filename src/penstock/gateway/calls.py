"""One model call: admit, walk the chain, record, and only then release the last byte.

::

    parse ─► alias of the release? ─► recorded by an earlier attempt? ─► answer from the record
                                                  │ no
                                    reserve ─► ask the chain ─► commit ─► release the last byte

What leaves before the commit is a stream's content; its finish and its ``[DONE]`` are held back.
An agent that saw the end of an answer can therefore rely on the record, whatever dies next.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.exchanges import Caller, Exchange, LinkAttempt, Usage
from penstock.domain.releases import Manifest, ModelPin
from penstock.drivers.providers import Provider
from penstock.gateway.budgets import Caps, Spent
from penstock.gateway.chains import ChainFailed, Refused, Walk
from penstock.gateway.flights import Flights
from penstock.gateway.patience import Patience
from penstock.gateway.prices import Prices
from penstock.gateway.records import Committed, Records
from penstock.gateway.streams import Stream
from penstock.gateway.tasks import Tasks, TaskState
from penstock.kit.clock import BootClock, Clock
from penstock.kit.ids import new_id
from penstock.rules import budgets
from penstock.rules.limits import capped
from penstock.rules.wires import openai, openai_forms, sse
from penstock.store import Store
from penstock.store.exchanges import Repeatable

__all__ = ["Answer", "Calls", "Refused", "Stream"]

ManifestOf = Callable[[str], Awaitable[Manifest]]

_MANIFESTS = 256  # releases whose manifests are kept in memory
_OK = 200
_LIMITS = {"budget_exceeded": "cost", "token_limit_exceeded": "tokens"}  # by a refusal's code
_GONE = 499  # nobody heard it
_PASSED_ON = ("retry-after", "x-request-id", "x-penstock-simulated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A complete answer, recorded already."""

    status: int
    body: bytes
    streamed: bool = False  # whether the body is server-sent events
    headers: Mapping[str, str] = field(default_factory=dict)


class Call:
    """What is known of one call from its beginning."""

    __slots__ = ("_clock", "_start_ns", "caller", "id", "request", "started_us", "state")

    def __init__(self, caller: Caller, request: openai.Request, clock: Clock) -> None:
        self.id = new_id("exc")
        self.caller = caller
        self.request = request
        self.started_us = clock.now_us()
        self._start_ns = time.monotonic_ns()

    def elapsed_us(self) -> int:
        """Microseconds since the call began."""
        return (time.monotonic_ns() - self._start_ns) // 1000

    def exchange(
        self,
        *,
        status: int,
        outcome: str,
        response: Mapping[str, Any],
        attempts: Sequence[LinkAttempt] = (),
        pin: ModelPin | None = None,
        provider: str | None = None,
        model: str | None = None,
        facts: openai.AnswerFacts | None = None,
        usage: Usage | None = None,
        cost_nanos: int = 0,
        replayed_from: str | None = None,
        first_token_us: int | None = None,
    ) -> Exchange:
        """The record of this call."""
        return Exchange(
            id=self.id,
            caller=self.caller,
            alias=self.request.alias,
            request_digest=self.request.digest,
            request=self.request.record,
            response=response,
            status=status,
            outcome=outcome,
            streamed=self.request.stream,
            provider=pin.provider if pin else provider,
            model=pin.model if pin else model,
            model_returned=facts.model if facts else None,
            fingerprint=facts.fingerprint if facts else None,
            attempts=tuple(attempts),
            replayed_from=replayed_from,
            usage=usage or Usage(),
            cost_nanos=cost_nanos,
            started_us=self.started_us,
            first_token_us=first_token_us,
            duration_us=self.elapsed_us(),
        )

    def headers(self, pin: ModelPin | None = None) -> dict[str, str]:
        """What every answer says of its exchange."""
        found = {"x-penstock-exchange": self.id}
        if pin is not None:
            found["x-penstock-link"] = f"{pin.provider}/{pin.model}"
        return found


class Calls:
    """The gateway's engine; one for a process."""

    def __init__(
        self,
        store: Store,
        *,
        providers: Mapping[str, Provider],
        manifest_of: ManifestOf,
        clock: Clock | None = None,
        remembered_tasks: int = 4096,
        caps: Mapping[str, Any] | None = None,
    ) -> None:
        """Serve the releases that ``manifest_of`` knows with the providers named in their pins.

        ``caps`` are the installation's limits, by field; see ``rules/limits.py``.
        """
        self._caps = caps or {}
        self._providers = providers
        self._manifest_of = manifest_of
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._clock = clock or BootClock()
        self._prices = Prices()
        self._patience = Patience(store)
        self._records = Records(store, self._patience)
        self._tasks = Tasks(self._patience, keep=remembered_tasks)
        self.flights = Flights(store)

    async def close(self) -> None:
        """Finish writing records and close the providers."""
        self.flights.close()
        await self._records.close()
        for provider in self._providers.values():
            await provider.close()

    async def aliases(self, caller: Caller) -> list[str]:
        """The model names that the caller's release knows.

        Raises:
            NotFound: there is no such release.
        """
        return sorted((await self._manifest(caller.release)).models)

    async def complete(self, caller: Caller, body: bytes) -> Answer | Stream:
        """Answer a Chat Completions request.

        A :class:`Stream` must be closed by whoever receives it. Refusals and failed chains are
        answers too; what is raised is what keeps the gateway from working.

        Raises:
            NotFound: there is no such release.
            Stale: the task has begun a newer attempt.
            Unavailable: the record cannot be read or written; the answer is withheld.
        """
        try:
            request = openai.parse_request(body)
        except Invalid as error:
            return _error(400, error.message, kind="invalid_request_error", code="invalid")
        call = Call(caller, request, self._clock)
        manifest = await self._manifest(caller.release)
        pins = manifest.models.get(request.alias)
        if not pins:
            return await self._refuse(call, _unknown_alias(request.alias, manifest))
        state = await self._tasks.of(caller)
        state.calls += 1
        stream: Stream | None = None
        try:
            record = await state.take(caller, request.digest)
            if record is not None:
                return await self._repeat(call, state, record)
            limits = capped(manifest.policy.limits, self._caps)
            walk = Walk(
                providers=self._providers,
                prices=self._prices,
                pins=pins,
                request=request,
                reservation=state.budget.reservation(),
                caps=Caps(nanos=limits.cost_nanos, tokens=limits.tokens),
            )
            if request.stream:
                answer = await self._stream(call, state, walk)
                stream = answer if isinstance(answer, Stream) else None
                return answer
            return await self._whole(call, walk)
        finally:
            if stream is None:
                state.calls -= 1

    # ------------------------------------------------------------ the three ways to an answer

    async def _whole(self, call: Call, walk: Walk) -> Answer:
        try:
            try:
                whole = await walk.whole()
            except (Refused, ChainFailed) as no:
                return await self._decline(call, walk, no)
            except asyncio.CancelledError:
                await self._abandon(call, walk)
                raise
            usage = whole.facts.usage
            estimated = usage is None
            if usage is None:
                usage = Usage(
                    input_tokens=openai.estimate_tokens(call.request.size),
                    output_tokens=openai.estimate_tokens(len(whole.body)),
                )
            digest = openai.digest_of(whole.body)
            exchange = call.exchange(
                status=_OK,
                outcome="ok",
                response={"body": digest, "estimated": True} if estimated else {"body": digest},
                attempts=walk.attempts,
                pin=walk.pin,
                facts=whole.facts,
                usage=usage,
                cost_nanos=budgets.cost_of(usage, walk.rate),
            )
            contents = {**call.request.contents, digest: whole.body}
            committed = await self._records.commit(exchange, contents)
            walk.settle(committed.spent)
            return self._delivered(
                committed,
                Answer(status=_OK, body=whole.body, headers=call.headers(walk.pin)),
            )
        finally:
            walk.settle(None)

    async def _stream(self, call: Call, state: TaskState, walk: Walk) -> Answer | Stream:
        opened = None
        try:
            try:
                opened = await walk.stream()
            except (Refused, ChainFailed) as no:
                return await self._decline(call, walk, no)
            except asyncio.CancelledError:
                await self._abandon(call, walk)
                raise
        finally:
            if opened is None:
                walk.settle(None)

        async def settle(
            outcome: str, detail: str, facts: openai.AnswerFacts, usage: Usage, raw: bytes
        ) -> Committed:
            digest = openai.digest_of(raw)
            response: dict[str, Any] = {"body": digest}
            if detail:
                response["error"] = detail
            if facts.usage is None:
                response["estimated"] = True
            walk.answered(outcome, detail or opened.note)
            exchange = call.exchange(
                status=_OK,
                outcome=outcome,
                response=response,
                attempts=walk.attempts,
                pin=walk.pin,
                facts=facts,
                usage=usage,
                cost_nanos=budgets.cost_of(usage, walk.rate),
                first_token_us=first_token_us,
            )
            contents = {**call.request.contents, digest: raw}
            return await self._records.commit_whatever_happens(exchange, contents, settle=done)

        def done(spent: Spent | None) -> None:
            walk.settle(spent)
            state.calls -= 1

        first_token_us = call.elapsed_us()
        return Stream(
            task_id=call.caller.task_id,
            opened=opened,
            request=call.request,
            headers=call.headers(walk.pin),
            settle=settle,
        )

    async def _repeat(self, call: Call, state: TaskState, record: Repeatable) -> Answer:
        request = call.request
        try:
            body = await self._records.content(record.body)
            exchange = call.exchange(
                status=_OK,
                outcome="ok",
                response={"body": record.body},
                provider=record.provider,
                model=record.model,
                facts=openai.AnswerFacts(
                    usage=record.usage, model=record.model_returned, fingerprint=record.fingerprint
                ),
                usage=record.usage,
                replayed_from=record.id,
            )
            committed = await self._records.commit(exchange, request.contents)
        except BaseException:
            state.put_back(call.caller, request.digest, record)
            raise
        if request.stream and not record.streamed:
            body = openai_forms.events_of(body, include_usage=request.include_usage)
        elif request.stream and not request.include_usage:
            body = openai.without_usage(sse.EventSplitter().feed(body))
        elif record.streamed and not request.stream:
            body = openai_forms.assemble(body)
        headers = {**call.headers(), "x-penstock-replayed-from": record.id}
        return self._delivered(
            committed, Answer(status=_OK, body=body, streamed=request.stream, headers=headers)
        )

    # ------------------------------------------------------------ saying no

    async def _decline(self, call: Call, walk: Walk, no: Refused | ChainFailed) -> Answer:
        if isinstance(no, Refused):
            return await self._refuse(call, no, walk.attempts)
        digest = openai.digest_of(no.body)
        exchange = call.exchange(
            status=no.status,
            outcome="error",
            response={"body": digest, "error": openai.describe_error(no.body)},
            attempts=walk.attempts,
            pin=walk.pin,
        )
        await self._records.commit(exchange, {**call.request.contents, digest: no.body})
        passed_on = {name: no.headers[name] for name in _PASSED_ON if name in no.headers}
        return Answer(status=no.status, body=no.body, headers={**passed_on, **call.headers()})

    async def _abandon(self, call: Call, walk: Walk) -> None:
        """Record a call that was ended before its answer: what it was asked may have to be paid."""
        if walk.pin is None:
            return
        walk.gave_up()
        usage = Usage(input_tokens=openai.estimate_tokens(call.request.size))
        exchange = call.exchange(
            status=_GONE,
            outcome="cut",
            response={"error": "the task was stopped before the answer", "estimated": True},
            attempts=walk.attempts,
            pin=walk.pin,
            usage=usage,
            cost_nanos=budgets.cost_of(usage, walk.rate),
        )
        await self._records.commit_whatever_happens(
            exchange, call.request.contents, settle=walk.settle
        )

    async def _refuse(
        self, call: Call, refused: Refused, attempts: Sequence[LinkAttempt] = ()
    ) -> Answer:
        exchange = call.exchange(
            status=refused.status,
            outcome="refused",
            response={"error": refused.message, "code": refused.code},
            attempts=attempts,
        )
        limit_hit = _LIMITS.get(refused.code)
        await self._records.commit(exchange, call.request.contents, limit_hit=limit_hit)
        return _error(
            refused.status,
            refused.message,
            kind=refused.kind,
            code=refused.code,
            headers=call.headers(),
        )

    @staticmethod
    def _delivered(committed: Committed, answer: Answer) -> Answer:
        if committed.late:
            return _error(
                409,
                "A newer attempt of this task has begun; this one must stop.",
                kind="invalid_request_error",
                code="stale",
            )
        return answer

    async def _manifest(self, digest: str) -> Manifest:
        manifest = self._manifests.get(digest)
        if manifest is None:
            manifest = await self._patience.until_there(lambda: self._manifest_of(digest))
            self._manifests[digest] = manifest
            if len(self._manifests) > _MANIFESTS:
                self._manifests.popitem(last=False)
        return manifest


def _unknown_alias(alias: str, manifest: Manifest) -> Refused:
    known = ", ".join(sorted(manifest.models)) or "none"
    return Refused(
        f"The release pins no model under the name `{alias}`. It knows: {known}."
        " Add it under `models` in penstock.yaml, or ask for one of these.",
        status=404,
        code="model_not_found",
        kind="invalid_request_error",
    )


def _error(
    status: int, message: str, *, kind: str, code: str, headers: Mapping[str, str] | None = None
) -> Answer:
    body = openai.error_body(message, kind=kind, code=code)
    return Answer(status=status, body=body, headers=headers or {})
