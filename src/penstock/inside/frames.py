"""The frames between a supervisor and an agent's process.

A frame is ``u32 length | u32 header length | header | blobs``, big endian; ``length`` counts what
follows it. The header is a JSON object; its key ``b``, absent when there are none, holds the
lengths of the blobs. Headers are small and readable, blobs are bytes that nobody parses on the way.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROTOCOL = 1
MAX_FRAME = 64 * 1024 * 1024

_WORD = 4


class FrameError(ValueError):
    """Bytes that are no frame, or a frame that cannot be sent."""


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """One frame of a JSON header and its blobs.

    Raises:
        FrameError: the header is not JSON, or the frame is larger than ``MAX_FRAME``.
    """
    if blobs:
        header = {**header, "b": [len(blob) for blob in blobs]}
    try:
        # Escaped to ASCII: a lone surrogate from an agent's text must not break the frame.
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"the header of a frame must be JSON: {error}") from error
    length = _WORD + len(text) + sum(map(len, blobs))
    if length + _WORD > MAX_FRAME:
        raise FrameError(f"a frame holds at most {MAX_FRAME} bytes, this one {length + _WORD}")
    return b"".join((length.to_bytes(_WORD, "big"), len(text).to_bytes(_WORD, "big"), text, *blobs))


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames."""

    __slots__ = ("_buffer", "_loads")

    def __init__(self, loads: Callable[[bytes], Any] = json.loads) -> None:
        """``loads`` reads the JSON of a header; a supervisor has a quicker one to give."""
        self._buffer = bytearray()
        self._loads = loads

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], list[bytes]]]:
        """The frames that are whole once ``data`` has arrived; the rest is kept.

        Raises:
            FrameError: the stream holds something else; it cannot be read any further.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= _WORD:
            length = int.from_bytes(buffer[start : start + _WORD], "big")
            if not _WORD <= length <= MAX_FRAME - _WORD:
                raise FrameError(f"a frame cannot be {length} bytes long")
            end = start + _WORD + length
            if end > len(buffer):
                break
            frames.append(_parse(bytes(buffer[start + _WORD : end]), self._loads))
            start = end
        if start:
            del buffer[:start]
        return frames


def _parse(body: bytes, loads: Callable[[bytes], Any]) -> tuple[dict[str, Any], list[bytes]]:
    """The header and the blobs of a frame without its length."""
    position = _WORD + int.from_bytes(body[:_WORD], "big")
    if position > len(body):
        raise FrameError("a frame's header is longer than the frame")
    try:
        header = loads(body[_WORD:position])
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not a JSON object")
    lengths = header.pop("b", ())
    if not isinstance(lengths, list | tuple) or not all(
        type(length) is int and length >= 0 for length in lengths
    ):
        raise FrameError("a frame's blob lengths are not whole numbers")
    if position + sum(lengths) != len(body):
        raise FrameError("a frame's blobs do not fill the frame")
    blobs = []
    for length in lengths:
        blobs.append(body[position : position + length])
        position += length
    return header, blobs
