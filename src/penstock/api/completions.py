"""OpenAI's Chat Completions for the agents of this installation, as a plain ASGI application.

``POST {prefix}/chat/completions``, ``GET {prefix}/models`` and ``GET {prefix}/models/{alias}``.
There is no framework on this path: every exchange passes it. Who calls is found out from the
connection, not from the key; an SDK's key is a placeholder here and is ignored.

Every answer that is an error says ``x-should-retry: false``: the chain has been tried already,
and an SDK that tries it again multiplies the wait and the bill.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from penstock.domain.errors import NotFound, PenstockError, Stale, Unavailable
from penstock.domain.exchanges import Caller, Callers
from penstock.gateway.calls import Answer, Calls, Stream
from penstock.rules.wires import openai

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_FIRST_ERROR = 400
_SCOPE_LENGTH = 64
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_CACHE = (b"cache-control", b"no-cache")
_NO_RETRY = (b"x-should-retry", b"false")


class _Problem(Exception):
    def __init__(self, status: int, message: str, *, code: str, kind: str) -> None:
        super().__init__(message)
        self.answer = Answer(status=status, body=openai.error_body(message, kind=kind, code=code))


class _Gone(Exception):
    """The agent hung up."""


class Completions:
    """The ASGI application."""

    def __init__(
        self,
        calls: Calls,
        callers: Callers,
        *,
        prefix: str = "/gateway/openai/v1",
        max_body: int = 32 << 20,
    ) -> None:
        """Serve below ``prefix``; request bodies above ``max_body`` bytes are refused."""
        self._calls = calls
        self._callers = callers
        self._prefix = prefix
        self._max_body = max_body

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway speaks HTTP only, not {scope['type']}")
        try:
            answer = await self._answer(scope, receive)
            if answer is None:
                return
        except _Gone:
            return
        except _Problem as problem:
            answer = problem.answer
        except PenstockError as error:
            answer = _of_error(error)
        except Exception:
            log.exception("a model call failed inside the gateway")
            answer = _problem(500, "The gateway failed; its log says why.", code="internal")
        if isinstance(answer, Stream):
            await self._stream(answer, receive, send)
        else:
            await _whole(answer, send)

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer | Stream | None:
        path: str = scope["path"].removeprefix(self._prefix).rstrip("/")
        method: str = scope["method"]
        if path == "/chat/completions":
            if method != "POST":
                raise _method(method, path, "POST")
            caller = await self._caller(scope)
            body = await self._body(scope, receive)
            return await self._completed(caller, body, receive)
        if path == "/models" or path.startswith("/models/"):
            if method != "GET":
                raise _method(method, path, "GET")
            return await self._models(await self._caller(scope), path.removeprefix("/models")[1:])
        raise _Problem(
            404,
            f"The gateway has no {method} {path or '/'}; it serves POST /chat/completions"
            " and GET /models.",
            code="not_found",
            kind="invalid_request_error",
        )

    async def _completed(
        self, caller: Caller, body: bytes, receive: Receive
    ) -> Answer | Stream | None:
        """The answer; None when the task has ended meanwhile and nobody will read it."""
        hung_up = asyncio.create_task(_hang_up(receive))
        try:
            return await self._calls.flights.completed(
                caller.task_id, self._calls.complete(caller, body), hung_up
            )
        finally:
            hung_up.cancel()
            await asyncio.wait((hung_up,))

    async def _stream(self, stream: Stream, receive: Receive, send: Send) -> None:
        """Forward a stream, until its agent hangs up or its task is to end."""
        with self._calls.flights.of(stream.task_id) as over:
            pumping = asyncio.create_task(_pump(stream, send))
            watching = asyncio.create_task(_hang_up(receive))
            try:
                await asyncio.wait((pumping, watching, over), return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                if not pumping.done():
                    pumping.cancel()
                await asyncio.wait((pumping, watching))
                await stream.close()
        if not pumping.cancelled() and (error := pumping.exception()) is not None:
            raise error

    async def _models(self, caller: Caller, alias: str) -> Answer:
        aliases = await self._calls.aliases(caller)
        if not alias:
            return Answer(status=200, body=openai.models_body(aliases))
        if alias in aliases:
            return Answer(status=200, body=openai.model_body(alias))
        raise _Problem(
            404,
            f"The release pins no model under the name `{alias}`. It knows: {', '.join(aliases)}.",
            code="model_not_found",
            kind="invalid_request_error",
        )

    async def _caller(self, scope: Mapping[str, Any]) -> Caller:
        caller: Caller | None = None
        token = next((v for n, v in scope["headers"] if n == b"x-penstock-attempt"), None)
        if token is not None:
            caller = self._callers.by_token(token.decode("latin-1"))
        elif scope.get("client"):
            host, port = scope["client"]
            caller = await self._callers.identify(host, port)
        if caller is None:
            raise _Problem(
                401,
                "This connection belongs to no running task attempt, so the gateway cannot tell"
                " which release, budget and record the call is part of. Model calls are answered"
                " for agents that Penstock runs.",
                code="unknown_caller",
                kind="authentication_error",
            )
        await self._callers.confirm(caller)
        part = next((v for n, v in scope["headers"] if n == b"x-penstock-scope"), None)
        if part is not None:
            return replace(caller, scope=part.decode("latin-1")[:_SCOPE_LENGTH])
        return caller

    async def _body(self, scope: Mapping[str, Any], receive: Receive) -> bytes:
        length = next((v for n, v in scope["headers"] if n == b"content-length"), b"")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        message = await receive()
        _still_there(message)
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(first) <= self._max_body:
            return first
        parts = [first]
        size = len(first)
        while message.get("more_body", False):
            if size > self._max_body:
                raise self._too_large()
            message = await receive()
            _still_there(message)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        if size > self._max_body:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> _Problem:
        return _Problem(
            413,
            f"The request is larger than {self._max_body} bytes.",
            code="too_large",
            kind="invalid_request_error",
        )


async def _whole(answer: Answer, send: Send) -> None:
    kind = _EVENTS if answer.streamed else _JSON
    headers = [kind, (b"content-length", b"%d" % len(answer.body)), *_headers(answer.headers)]
    if answer.status >= _FIRST_ERROR:
        headers.append(_NO_RETRY)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _pump(stream: Stream, send: Send) -> None:
    headers = [_EVENTS, _NO_CACHE, *_headers(stream.headers)]
    await send({"type": "http.response.start", "status": stream.status, "headers": headers})
    events = stream.events()
    try:
        async for piece in events:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        await events.aclose()
    await send({"type": "http.response.body", "body": b""})


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _still_there(message: Message) -> None:
    if message["type"] == "http.disconnect":
        raise _Gone


def _headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(n.encode("latin-1"), v.encode("latin-1", "replace")) for n, v in headers.items()]


def _method(method: str, path: str, allowed: str) -> _Problem:
    return _Problem(
        405,
        f"{path} takes {allowed}, not {method}.",
        code="method_not_allowed",
        kind="invalid_request_error",
    )


def _of_error(error: PenstockError) -> Answer:
    if isinstance(error, Stale):
        return _problem(409, error.message, code=error.code)
    if isinstance(error, NotFound):
        return _problem(404, error.message, code=error.code)
    if isinstance(error, Unavailable):
        message = f"The answer is withheld because it cannot be recorded: {error.message}"
        return _problem(503, message, code="not_recorded")
    log.error("a model call failed inside the gateway: %s", error.message)
    return _problem(500, error.message, code=error.code)


def _problem(status: int, message: str, *, code: str) -> Answer:
    kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004
    return Answer(status=status, body=openai.error_body(message, kind=kind, code=code))
