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
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from penstock.client.routes import SECONDS, Routes, part
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

    def stream(self, task_id: str, *, after: int = 0) -> Iterator[Json]:
        """A task's events and deltas as they come, over broken connections, until it has ended.

        Each is ``{"id": number or None, "event": kind, "data": …}``; only deltas have no number.
        """
        tries = 0
        while True:
            try:
                with self._http.stream(
                    "GET",
                    f"/api/v1/tasks/{part(task_id)}/stream",
                    params={"after": after},
                    timeout=SECONDS,
                ) as response:
                    if response.status_code >= 400:  # noqa: PLR2004 - the first status of an error
                        _value(response.status_code, response.read())
                    parser = _Events()
                    for line in response.iter_lines():
                        if (event := parser.feed(line)) is None:
                            continue
                        tries = 0
                        after = event["id"] or after
                        yield event
                        if event["event"] == "finished":
                            return
            except httpx2.TransportError as error:
                tries += 1
                if tries >= _TRIES:
                    raise _unreachable(self._url, error) from None
                time.sleep(_PAUSE_SECONDS * tries)

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
            raise _unreachable(self._url, error) from None

    def backup(self) -> Iterator[bytes]:
        """Everything the server holds, as the bytes of a backup."""
        return self.download("/api/v1/backup")

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
                    raise _unreachable(self._url, error) from None
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

    async def stream(self, task_id: str, *, after: int = 0) -> AsyncIterator[Json]:
        """See :meth:`Client.stream`."""
        tries = 0
        while True:
            try:
                async with self._http.stream(
                    "GET",
                    f"/api/v1/tasks/{part(task_id)}/stream",
                    params={"after": after},
                    timeout=SECONDS,
                ) as response:
                    if response.status_code >= 400:  # noqa: PLR2004 - the first status of an error
                        _value(response.status_code, await response.aread())
                    parser = _Events()
                    async for line in response.aiter_lines():
                        if (event := parser.feed(line)) is None:
                            continue
                        tries = 0
                        after = event["id"] or after
                        yield event
                        if event["event"] == "finished":
                            return
            except httpx2.TransportError as error:
                tries += 1
                if tries >= _TRIES:
                    raise _unreachable(self._url, error) from None
                await asyncio.sleep(_PAUSE_SECONDS * tries)

    async def _call(self, method: str, path: str, *, again: bool = False, **options: Any) -> Any:
        content = _content(options)
        for left in range(_TRIES if again or method == "GET" else 1, 0, -1):
            try:
                response = await self._http.request(method, path, content=content, **options)
                return _value(response.status_code, response.content)
            except httpx2.TransportError as error:
                if left == 1:
                    raise _unreachable(self._url, error) from None
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")


class _Events:
    """Reads server-sent events line by line."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Json | None:
        """The event that a line ends, if it ends one."""
        if line:
            name, _, value = line.partition(":")
            if name:
                self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "event" not in fields:
            return None
        number = fields.get("id")
        return {
            "id": None if number is None else int(number),
            "event": fields["event"],
            "data": _decode(fields.get("data", "null")),
        }


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
    raise _ERRORS.get(str(error.get("code")), PenstockError)(message, hint=hint)


def _unreachable(url: str, error: Exception) -> Unavailable:
    if isinstance(error, httpx2.TimeoutException):
        return Unavailable(f"the server at {url} did not answer in time")
    return Unavailable(
        f"no server answers at {url}",
        hint="Start one: penstock up. Elsewhere? Set PENSTOCK_URL, or penstock login URL --key …",
    )


def _headers(key: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers
