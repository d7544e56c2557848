"""A stream on its way to the agent: content at once, its end only after the commit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from penstock.domain.errors import Unavailable
from penstock.domain.exchanges import Usage
from penstock.drivers.providers import ProviderFailed
from penstock.gateway.chains import Opened
from penstock.gateway.records import Committed
from penstock.rules.wires import openai, sse

Settle = Callable[[str, str, openai.AnswerFacts, Usage, bytes], Awaitable[Committed]]


class Stream:
    """Events for the agent; recorded once, as complete or as cut."""

    status = 200

    def __init__(
        self,
        *,
        task_id: str,
        opened: Opened,
        request: openai.Request,
        headers: Mapping[str, str],
        settle: Settle,
    ) -> None:
        """Go on with ``opened``; ``settle`` records the outcome and is called once."""
        self.task_id = task_id
        self._opened = opened
        self._request = request
        self._settle = settle
        self._settled = False
        self._raw: list[bytes] = []  # every event as the provider sent it
        self._held: list[bytes] = []  # the end of the stream, until it is recorded
        self.headers = headers

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream in pieces; its last piece comes after the commit.

        A stream that breaks off ends with an error event and without ``[DONE]``.
        """
        batch = self._opened.head
        reader = self._opened.reader
        broken = ""
        while batch:
            piece = self._sift(batch)
            if piece:
                yield piece
            if reader.done or reader.error is not None:
                break
            try:
                batch = await self._opened.next()
            except ProviderFailed as failed:
                broken = failed.message
                break
        if reader.error is not None:
            broken = f"the provider reported an error in mid-stream: {reader.error}"
        elif not broken and not (reader.done or reader.finished):
            broken = "the stream ended without its terminal event"
        yield await self._end(broken)

    async def close(self) -> None:
        """Let go; if the end was not reached, record what came as cut."""
        if not self._settled:
            self._settled = True
            await self._opened.close()  # first stop paying, then write
            await self._record("cut", "the agent closed the connection")

    async def _end(self, broken: str) -> bytes:
        self._settled = True
        try:
            if broken:
                await self._opened.close()
            committed = await self._record("cut" if broken else "ok", broken)
        except Unavailable as error:
            return openai.error_event(
                f"The answer is withheld because it could not be recorded: {error.message}",
                code="not_recorded",
            )
        finally:
            await self._opened.close()
        if broken:
            return openai.error_event(
                f"The answer was cut off: {broken}. What came before this is incomplete.",
                code="stream_cut",
            )
        if committed.late:
            return openai.error_event("A newer attempt of this task has begun.", code="stale")
        return b"".join(self._held) + openai.DONE

    def _sift(self, batch: list[tuple[str, bytes]]) -> bytes:
        out: list[bytes] = []
        for kind, event in batch:
            self._raw.append(event)
            if kind == "content":
                if self._held:  # another choice goes on after one has finished
                    out += self._held
                    self._held.clear()
                out.append(event)
            elif kind == "finish" or (kind == "quiet" and self._held):
                self._held.append(event)
            elif kind == "quiet":
                out.append(event)
            elif kind == "tail":
                self._tail(event)
        return b"".join(out)

    def _tail(self, event: bytes) -> None:
        is_done = sse.data_of(event) == b"[DONE]"
        if not is_done and self._request.include_usage:
            self._held.append(event)

    def _record(self, outcome: str, detail: str) -> Awaitable[Committed]:
        reader = self._opened.reader
        facts = openai.AnswerFacts(
            usage=reader.usage, model=reader.model, fingerprint=reader.fingerprint
        )
        usage = reader.usage or Usage(
            input_tokens=openai.estimate_tokens(self._request.size),
            output_tokens=openai.estimate_tokens(reader.content_bytes),
        )
        return self._settle(outcome, detail, facts, usage, b"".join(self._raw))
