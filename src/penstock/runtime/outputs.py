"""What a process prints, caught from its pipes and kept up to a limit."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable

_CHUNK = 65536
_PIECE = 16384  # characters in one line of the log table

# What comes beyond the limit is read now and then, so that who prints it has to wait, not we.
_FLOOD_SECONDS = 0.05
_FLOOD_CHUNKS = 8


class Output:
    """The text of stdout and stderr of one attempt, in the order in which it was read."""

    def __init__(self, *, limit_bytes: int) -> None:
        """Keep up to ``limit_bytes``; what comes on top is counted and dropped."""
        self._left = limit_bytes
        self._dropped = 0
        self._pieces: list[tuple[str, str]] = []
        self._pipes: dict[int, tuple[str, codecs.IncrementalDecoder]] = {}
        self._loop = asyncio.get_running_loop()
        self.on_text: Callable[[], None] | None = None

    def watch(self, stream: str, fd: int) -> None:
        """Read a pipe from now on; it is ours to close."""
        os.set_blocking(fd, False)
        self._pipes[fd] = (stream, codecs.getincrementaldecoder("utf-8")("replace"))
        self._loop.add_reader(fd, self._readable, fd)

    def add(self, stream: str, text: str) -> None:
        """Keep a text that came another way."""
        if not text:
            return
        size = len(text)
        if size > self._left:
            self._dropped += size - self._left
            text = text[: self._left]
        self._left -= len(text)
        self._pieces.extend(
            (stream, text[start : start + _PIECE]) for start in range(0, len(text), _PIECE)
        )
        if self.on_text is not None:
            self.on_text()

    def take(self) -> list[tuple[str, str]]:
        """What was caught since the last time, as (stream, text)."""
        pieces, self._pieces = self._pieces, []
        return _joined(pieces)

    def take_last(self) -> list[tuple[str, str]]:
        """The same when the attempt is over, with a word about what was dropped."""
        if self._dropped:
            note = f"[{self._dropped} characters more were dropped: the limit is reached]\n"
            self._pieces.append(("stderr", note))
            self._dropped = 0
        return self.take()

    def drain(self) -> None:
        """Read what is in the pipes now."""
        for fd in tuple(self._pipes):
            for _ in range(64):
                if not self._read(fd):
                    break

    def close(self) -> None:
        """Read the rest and close the pipes."""
        self.drain()
        for fd in tuple(self._pipes):
            self._end(fd)

    def _readable(self, fd: int) -> None:
        if self._read(fd) and self._left <= 0:
            self._loop.remove_reader(fd)
            self._loop.call_later(_FLOOD_SECONDS, self._flooded, fd)

    def _flooded(self, fd: int) -> None:
        """Count what a process prints that is over its limit, and drop it."""
        for _ in range(_FLOOD_CHUNKS):
            if not self._read(fd):
                break
        if fd in self._pipes:
            self._loop.add_reader(fd, self._readable, fd)

    def _read(self, fd: int) -> bool:
        """Read once; whether there may be more."""
        if fd not in self._pipes:
            return False
        stream, decoder = self._pipes[fd]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end(fd)
            return False
        if self._left <= 0:
            self._dropped += len(data)
        else:
            self.add(stream, decoder.decode(data))
        return True

    def _end(self, fd: int) -> None:
        stream, decoder = self._pipes.pop(fd)
        self._loop.remove_reader(fd)
        os.close(fd)
        self.add(stream, decoder.decode(b"", final=True))


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one stream as one piece, as far as a piece may be long."""
    joined: list[tuple[str, str]] = []
    for stream, text in pieces:
        if joined and joined[-1][0] == stream and len(joined[-1][1]) + len(text) <= _PIECE:
            joined[-1] = (stream, joined[-1][1] + text)
        else:
            joined.append((stream, text))
    return joined
