"""Following a task over connections that break, whoever makes the requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import httpx2
import msgspec

from penstock.client.routes import part
from penstock.domain.errors import Unavailable

PATIENCE_SECONDS = 60.0  # without a sign of life from any server

_PAUSE_SECONDS = 0.3
_LONGEST_PAUSE_SECONDS = 3.0
_SILENCE_SECONDS = 15.0  # the server says something every five

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


class Following:
    """Where a client is in a task's stream, and how it goes on after a cut."""

    def __init__(
        self,
        task_id: str | None,
        *,
        after: int = 0,
        modes: Sequence[str] = (),
        patience: float,
        body: Json | None = None,
    ) -> None:
        """Follow ``task_id``, or the task that ``body`` makes."""
        self.ended = False
        self._task_id = task_id
        self._after = after
        self._modes = modes
        self._patience = patience
        self._body = body
        self._parser = Events()
        self._alive = time.monotonic()
        self._tries = 0

    def request(self) -> dict[str, Any]:
        """The next request to make."""
        self._parser = Events()
        parameters: Json = {"mode": ",".join(self._modes)} if self._modes else {}
        options: dict[str, Any] = {"params": parameters, "timeout": _SILENCE_SECONDS}
        if self._task_id is None:
            content = _encode(self._body)
            return {"method": "POST", "url": "/api/v1/tasks/stream", "content": content, **options}
        if self._after:
            options["headers"] = {"last-event-id": str(self._after)}
        return {"method": "GET", "url": f"/api/v1/tasks/{part(self._task_id)}/stream", **options}

    def begun(self, headers: Mapping[str, str]) -> Iterator[Json]:
        """A server has answered; if it has made the task, say which it is."""
        self._heard()
        if self._task_id is None:
            self._task_id = headers["location"].rpartition("/")[2]
            yield {"id": None, "event": "created", "data": {"task": self._task_id}}

    def feed(self, piece: bytes) -> Iterator[Json]:
        """The items that a piece of the body ends."""
        self._heard()
        for item in self._parser.feed(piece):
            self.ended = item["event"] == "end"
            self._after = item["id"] or self._after
            yield item

    def pause(self, url: str, problem: Exception | None) -> float:
        """How long to wait before the next try, in seconds.

        Raises:
            Unavailable: patience is at its end.
        """
        self._tries += 1
        if time.monotonic() - self._alive > self._patience:
            if isinstance(problem, httpx2.TransportError):
                raise unreachable(url, problem) from None
            raise problem or Unavailable(f"the server at {url} ends the stream again and again")
        return min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * self._tries)

    def _heard(self) -> None:
        self._alive = time.monotonic()
        self._tries = 0


class Events:
    """Reads server-sent events out of bytes that are cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, piece: bytes) -> Iterator[Json]:
        """The events that are whole once ``piece`` has arrived."""
        # Only LF ends a line: a JSON text may hold what Python's splitlines() takes for one.
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line:
                name, _, value = line.decode().partition(":")
                if name:
                    self._fields[name] = value.removeprefix(" ")
            elif self._fields:
                fields, self._fields = self._fields, {}
                if "event" in fields:
                    number = fields.get("id")
                    yield {
                        "id": None if number is None else int(number),
                        "event": fields["event"],
                        "data": _decode(fields.get("data", "null")),
                    }


def created(task: Mapping[str, Any], idempotency_key: str | None) -> Json:
    """The body that makes a task, the same one however often it is sent."""
    given = {name: value for name, value in task.items() if value is not None}
    return {**given, "idempotency_key": idempotency_key or f"stream-{uuid4()}"}


def unreachable(url: str, error: Exception) -> Unavailable:
    """What a failed connection is called."""
    if isinstance(error, httpx2.TimeoutException):
        return Unavailable(f"the server at {url} did not answer in time")
    return Unavailable(
        f"no server answers at {url}",
        hint="Start one: penstock up. Elsewhere? Set PENSTOCK_URL, or penstock login URL --key …",
    )
