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
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2
import msgspec

from penstock.domain.errors import (
    BuildFailed,
    Conflict,
    Exhausted,
    Forbidden,
    Invalid,
    NotFound,
    PenstockError,
    Stale,
    Unauthenticated,
    Unavailable,
)

_SECONDS = 30.0
_TRIES = 4  # of a request that changes nothing
_PAUSE_SECONDS = 0.3
_CONNECTIONS = 512

_ERRORS: dict[str, type[PenstockError]] = {
    kind.code: kind
    for kind in (
        Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Stale, Exhausted, Unavailable,
    )
}  # fmt: skip
_ERRORS |= {"project_invalid": Invalid, "too_large": Invalid}

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


class _Routes:
    """The API's routes; ``_call`` makes a request, and returns its JSON or a promise of it."""

    def _call(self, method: str, path: str, **options: Any) -> Any:
        raise NotImplementedError

    # ------------------------------------------------------------ agents and releases

    def whoami(self) -> Any:
        """Whose key this is."""
        return self._call("GET", "/api/v1/whoami")

    def ready(self) -> Any:
        """Whether the server takes work."""
        return self._call("GET", "/readyz")

    def agents(self) -> Any:
        """Every agent with its status."""
        return self._call("GET", "/api/v1/agents")

    def agent(self, agent: str) -> Any:
        """One agent: deployments, the rollout that is on, tasks by state."""
        return self._call("GET", f"/api/v1/agents/{_part(agent)}")

    def cut_release(self, archive: bytes, *, message: str = "", ci: bool = False) -> Any:
        """Cut a release from a project's tar.gz."""
        return self._call(
            "POST",
            "/api/v1/releases",
            content=archive,
            params={"message": message, "ci": str(ci).lower()},
            timeout=900.0,  # a new environment may have to be built
        )

    def releases(self, agent: str, *, limit: int = 50) -> Any:
        """An agent's releases from the newest to the oldest."""
        return self._call("GET", f"/api/v1/agents/{_part(agent)}/releases", params={"limit": limit})

    def release(self, agent: str, ref: str) -> Any:
        """One release with everything it pins."""
        return self._call("GET", f"/api/v1/agents/{_part(agent)}/releases/{_part(ref)}")

    def diff_releases(self, agent: str, before: str, after: str) -> Any:
        """What changed from one release to another."""
        path = f"/api/v1/agents/{_part(agent)}/releases/{_part(before)}/diff/{_part(after)}"
        return self._call("GET", path)

    # ------------------------------------------------------------ deployments and rollouts

    def deploy(
        self,
        agent: str,
        *,
        ref: str = "latest",
        environment: str = "production",
        strategy: str | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give a release traffic."""
        body = {"ref": ref, "environment": environment, "strategy": strategy, "plan": plan}
        return self._call("POST", f"/api/v1/agents/{_part(agent)}/deployments", json=body)

    def change_rollout(self, agent: str, verb: str, *, environment: str = "production") -> Any:
        """Promote, abort, pause or resume the rollout that is on."""
        return self._call(
            "POST",
            f"/api/v1/agents/{_part(agent)}/deployments/{_part(environment)}/{verb}",
            json={},
        )

    def roll_back(
        self, agent: str, *, environment: str = "production", to: str | None = None
    ) -> Any:
        """End the rollout that is on, or make an earlier release stable at once."""
        return self._call(
            "POST",
            f"/api/v1/agents/{_part(agent)}/deployments/{_part(environment)}/rollback",
            json={"to": to},
        )

    def rollouts(self, agent: str, *, limit: int = 50) -> Any:
        """An agent's rollouts from the newest to the oldest."""
        return self._call("GET", f"/api/v1/agents/{_part(agent)}/rollouts", params={"limit": limit})

    def rollout(self, rollout_id: str) -> Any:
        """A rollout with its evidence and its story."""
        return self._call("GET", f"/api/v1/rollouts/{_part(rollout_id)}")

    # ------------------------------------------------------------ sessions and tasks

    def create_session(
        self,
        agent: str,
        *,
        environment: str = "production",
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """Begin a session."""
        body = {
            "agent": agent,
            "environment": environment,
            "user_id": user_id,
            "metadata": metadata or {},
        }
        return self._call("POST", "/api/v1/sessions", json=body)

    def session(self, session_id: str) -> Any:
        """One session."""
        return self._call("GET", f"/api/v1/sessions/{_part(session_id)}")

    def sessions(self, **filters: Any) -> Any:
        """Sessions from the newest to the oldest; filters: agent, state, limit, before."""
        return self._call("GET", "/api/v1/sessions", params=_given(filters))

    def close_session(self, session_id: str) -> Any:
        """End a session, with the last of its tasks that has not ended."""
        return self._call("POST", f"/api/v1/sessions/{_part(session_id)}/close", json={})

    def give_feedback(self, session_id: str, thumb: int) -> Any:
        """Keep what a person thought: -1, 0 or 1."""
        return self._call(
            "POST", f"/api/v1/sessions/{_part(session_id)}/feedback", json={"thumb": thumb}
        )

    def create_task(
        self,
        *,
        agent: str,
        input: Any,  # noqa: A002 - what it is called in the API
        wait: float = 0.0,
        environment: str = "production",
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        close_session: bool = False,
        idempotency_key: str | None = None,
        delay_seconds: float = 0.0,
    ) -> Any:
        """Put a task into the queue; with ``wait``, return when it has ended."""
        body = {
            "agent": agent,
            "input": input,
            "environment": environment,
            "session_id": session_id,
            "user_id": user_id,
            "metadata": metadata or {},
            "close_session": close_session,
            "idempotency_key": idempotency_key,
            "delay_seconds": delay_seconds,
        }
        return self._call(
            "POST",
            "/api/v1/tasks",
            json=body,
            params={"wait": wait} if wait else None,
            timeout=_SECONDS + wait,
            again=idempotency_key is not None,
        )

    def task(self, task_id: str) -> Any:
        """One task."""
        return self._call("GET", f"/api/v1/tasks/{_part(task_id)}")

    def tasks(self, **filters: Any) -> Any:
        """Tasks from the newest to the oldest; filters: agent, session_id, state, limit, before."""
        return self._call("GET", "/api/v1/tasks", params=_given(filters))

    def wait_for_task(self, task_id: str, *, seconds: float = 30.0) -> Any:
        """The task once it has ended, or as it is when the time is over."""
        return self._call(
            "GET",
            f"/api/v1/tasks/{_part(task_id)}/wait",
            params={"seconds": seconds},
            timeout=_SECONDS + seconds,
        )

    def cancel_task(self, task_id: str) -> Any:
        """End a task."""
        return self._call("POST", f"/api/v1/tasks/{_part(task_id)}/cancel", json={})

    def events(self, task_id: str, *, after: int = 0) -> Any:
        """The durable events of a task."""
        return self._call("GET", f"/api/v1/tasks/{_part(task_id)}/events", params={"after": after})

    def logs(self, task_id: str) -> Any:
        """What the task's attempts printed."""
        return self._call("GET", f"/api/v1/tasks/{_part(task_id)}/logs")

    def exchanges(self, task_id: str) -> Any:
        """The task's model calls."""
        return self._call("GET", f"/api/v1/tasks/{_part(task_id)}/exchanges")

    # ------------------------------------------------------------ keys and audit

    def keys(self) -> Any:
        """Every key, without its secret."""
        return self._call("GET", "/api/v1/keys")

    def create_key(self, name: str, *, role: str = "operator") -> Any:
        """Make a key; it is shown this once."""
        return self._call("POST", "/api/v1/keys", json={"name": name, "role": role})

    def revoke_key(self, key_id: str) -> Any:
        """End a key."""
        return self._call("DELETE", f"/api/v1/keys/{_part(key_id)}")

    def audit(self, **filters: Any) -> Any:
        """Audit entries in order; filters: object_kind, object_id, after, limit."""
        return self._call("GET", "/api/v1/audit", params=_given(filters))


class Client(_Routes):
    """Talks to a server, blocking."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Talk to the server at ``url`` with ``key``; the first call connects."""
        self._url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=self._url, headers=_headers(key), timeout=_SECONDS, trust_env=False
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
                    f"/api/v1/tasks/{_part(task_id)}/stream",
                    params={"after": after},
                    timeout=_SECONDS,
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


class AsyncClient(_Routes):
    """Talks to a server; every method is to be awaited."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Talk to the server at ``url`` with ``key``; the first call connects."""
        self._url = url.rstrip("/")
        limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self._http = httpx2.AsyncClient(
            base_url=self._url,
            headers=_headers(key),
            timeout=_SECONDS,
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
                    f"/api/v1/tasks/{_part(task_id)}/stream",
                    params={"after": after},
                    timeout=_SECONDS,
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


def _content(options: dict[str, Any]) -> bytes | None:
    """A request's body; ``json`` and ``content`` leave the options."""
    if "json" in options:
        return _encode(options.pop("json"))
    content: bytes | None = options.pop("content", None)
    return content


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


def _part(text: str) -> str:
    return quote(text, safe="")


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}
