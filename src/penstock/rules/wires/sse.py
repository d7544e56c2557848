"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class EventSplitter:
    """Cuts a byte stream into server-sent events, each with the blank line that ends it."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # A lone CR at the end may be half of a CRLF: it waits for its other half.
            whole, tail = (data[:-1], b"\r") if data.endswith(b"\r") else (data, b"")
            data = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail
        parts = data.split(b"\n\n")
        self._rest = parts.pop()
        return [part + b"\n\n" for part in parts if part.strip(b"\n")]

    @property
    def rest(self) -> bytes:
        """What came after the last complete event."""
        return self._rest


def data_of(event: bytes) -> bytes:
    """The data of an event; empty for a comment or a named event without data."""
    if event.startswith(b"data: ") and event.count(b"\n") <= 2:  # noqa: PLR2004 - its own blank line
        return event[6:].rstrip(b"\n")
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def event_of(value: Any) -> bytes:
    """One server-sent event with ``value`` as its data."""
    return b"data: " + _encode(value) + b"\n\n"
