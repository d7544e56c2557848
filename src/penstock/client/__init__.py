"""The Python client: what the HTTP API offers, as methods.

::

    from penstock.client import Client

    with Client("http://127.0.0.1:8700", key="psk_…") as penstock:
        task = penstock.create_task(agent="support", input="Where is order 1042?", wait=30)
        print(task["output"])

:class:`AsyncClient` has the same methods, to be awaited. What they return is the API's JSON. Errors
are those of ``penstock.domain.errors``, with the server's message and hint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from penstock.client.routes import SECONDS, Routes, part
from penstock.client.streams import PATIENCE_SECONDS, Following, created, unreachable
from penstock.domain.errors import (
    BuildFailed,
    Conflict,
    Damaged,
    Exhausted,
    Forbidden,
    Invalid,
    NotFound,
    PenstockError,
    Stale,
    Unauthenticated,
    Unavailable,
)

_TRIES = 4  # of a request that changes nothing
_PAUSE_SECONDS = 0.3
_CONNECTIONS = 512
_LONG = 900.0  # seconds: a release may have to be gathered first

_ERRORS: dict[str, type[PenstockError]] = {
    kind.code: kind
    for kind in (
        Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Stale, Exhausted, Unavailable,
        Damaged,
    )
}  # fmt: skip
_ERRORS |= {"project_invalid": Invalid, "too_large": Invalid}

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


class Client(Routes):
    """Talks to a server, blocking."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Talk to the server at ``url`` with ``key``; the first call connects."""
        self._url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=self._url, headers=_headers(key), timeout=SECONDS, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stream(
        self,
        task_id: str,
        *,
        after: int = 0,
        modes: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
    ) -> Iterator[Json]:
        """A task's events and deltas as they come, over broken connections, until its ``end``.

        Each is ``{"id": number or None, "event": name, "data": …}``; only durable events have a
        number, and each of them comes once. ``modes`` are those to be read; see docs/streams.md.

        Raises:
            Unavailable: no server has answered for ``patience`` seconds.
        """
        following = Following(task_id, after=after, modes=modes, patience=patience)
        yield from self._follow(following)

    def stream_task(
        self,
        *,
        modes: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
        idempotency_key: str | None = None,
        **task: Any,
    ) -> Iterator[Json]:
        """Make a task and follow it; ``task`` is what :meth:`create_task` takes.

        The first item is ``{"id": None, "event": "created", "data": {"task": id}}``. It is made
        once, also when the connection breaks while it is made.
        """
        body = created(task, idempotency_key)
        yield from self._follow(Following(None, modes=modes, patience=patience, body=body))

    def _follow(self, following: Following) -> Iterator[Json]:
        while True:
            try:
                with self._http.stream(**following.request()) as response:
                    if response.status_code >= 400:  # noqa: PLR2004 - the first status of an error
                        _value(response.status_code, response.read())
                    yield from following.begun(response.headers)
                    for piece in response.iter_bytes():
                        yield from following.feed(piece)
                        if following.ended:
                            return
                problem: Exception | None = None
            except (httpx2.TransportError, Unavailable) as error:
                problem = error
            time.sleep(following.pause(self._url, problem))

    def download(self, path: str, **parameters: Any) -> Iterator[bytes]:
        """The bytes of a large answer as they come.

        Raises:
            PenstockError: the server refuses, or the connection breaks.
        """
        begun = False
        try:
            with self._http.stream("GET", path, params=parameters, timeout=_LONG) as response:
                if response.status_code >= 400:  # noqa: PLR2004 - the first status of an error
                    _value(response.status_code, response.read())
                begun = True
                yield from response.iter_bytes()
        except httpx2.TransportError as error:
            if begun:
                raise Unavailable(
                    f"the answer of the server at {self._url} broke off",
                    hint="Try again; the server's log may say why.",
                ) from None
            raise unreachable(self._url, error) from None

    def backup(self) -> Iterator[bytes]:
        """Everything the server holds, as the bytes of a backup."""
        return self.download("/api/v1/backup")

    def attachment(self, session_id: str, attachment_id: str) -> bytes:
        """The content of a session's file."""
        path = f"/api/v1/sessions/{part(session_id)}/attachments/{part(attachment_id)}"
        return b"".join(self.download(path))

    def export_artifact(self, agent: str, ref: str, *, wheels: bool = True) -> Iterator[bytes]:
        """A release as the tar of an OCI image layout."""
        path = f"/api/v1/agents/{part(agent)}/releases/{part(ref)}/artifact"
        return self.download(path, wheels=str(wheels).lower())

    def _call(self, method: str, path: str, *, again: bool = False, **options: Any) -> Any:
        """Make a request; one that changes nothing is made again when the connection breaks."""
        content = _content(options)
        for left in range(_TRIES if again or method == "GET" else 1, 0, -1):
            try:
                response = self._http.request(method, path, content=content, **options)
                return _value(response.status_code, response.content)
            except httpx2.TransportError as error:
                if left == 1:
                    raise unreachable(self._url, error) from None
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")


class AsyncClient(Routes):
    """Talks to a server; every method is to be awaited."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Talk to the server at ``url`` with ``key``; the first call connects."""
        self._url = url.rstrip("/")
        limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self._http = httpx2.AsyncClient(
            base_url=self._url,
            headers=_headers(key),
            timeout=SECONDS,
            limits=limits,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def stream(
        self,
        task_id: str,
        *,
        after: int = 0,
        modes: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
    ) -> AsyncIterator[Json]:
        """See :meth:`Client.stream`."""
        following = Following(task_id, after=after, modes=modes, patience=patience)
        async for item in self._follow(following):
            yield item

    async def stream_task(
        self,
        *,
        modes: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
        idempotency_key: str | None = None,
        **task: Any,
    ) -> AsyncIterator[Json]:
        """See :meth:`Client.stream_task`."""
        body = created(task, idempotency_key)
        following = Following(None, modes=modes, patience=patience, body=body)
        async for item in self._follow(following):
            yield item

    async def _follow(self, following: Following) -> AsyncIterator[Json]:
        while True:
            try:
                async with self._http.stream(**following.request()) as response:
                    if response.status_code >= 400:  # noqa: PLR2004 - the first status of an error
                        _value(response.status_code, await response.aread())
                    for item in following.begun(response.headers):
                        yield item
                    async for piece in response.aiter_bytes():
                        for item in following.feed(piece):
                            yield item
                        if following.ended:
                            return
                problem: Exception | None = None
            except (httpx2.TransportError, Unavailable) as error:
                problem = error
            await asyncio.sleep(following.pause(self._url, problem))

    async def _call(self, method: str, path: str, *, again: bool = False, **options: Any) -> Any:
        content = _content(options)
        for left in range(_TRIES if again or method == "GET" else 1, 0, -1):
            try:
                response = await self._http.request(method, path, content=content, **options)
                return _value(response.status_code, response.content)
            except httpx2.TransportError as error:
                if left == 1:
                    raise unreachable(self._url, error) from None
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")


def _content(options: dict[str, Any]) -> Any:
    """A request's body; ``json`` and ``content`` leave the options."""
    if "json" in options:
        return _encode(options.pop("json"))
    return options.pop("content", None)


def _value(status: int, content: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        PenstockError: it is an error.
    """
    try:
        value = _decode(content) if content else None
    except msgspec.DecodeError:
        raise Unavailable(
            f"the server answered {status} with something that is no JSON",
            hint="Is this the address of a Penstock server?",
        ) from None
    if status < 400:  # noqa: PLR2004 - the first status of an error
        return value
    error = value.get("error", {}) if isinstance(value, dict) else {}
    message = error.get("message") or f"the server answered {status}"
    hint = error.get("hint")
    if error.get("code") == BuildFailed.code:
        raise BuildFailed(message, output=error.get("output") or "", hint=hint)
    if error.get("code") == Exhausted.code:
        later = error.get("retry_after_seconds")
        raise Exhausted(message, hint=hint, retry_after_seconds=later)
    raise _ERRORS.get(str(error.get("code")), PenstockError)(message, hint=hint)


def _headers(key: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers
