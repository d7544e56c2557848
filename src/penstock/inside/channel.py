"""The link of an agent's process to its supervisor: calls and their answers, and plain frames.

One reader thread takes frames off the socket; any thread or event loop may call. When the
supervisor closes its end, or is killed, the process ends at once: nothing it could still do counts.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from penstock.inside.frames import Decoder, encode
from penstock.inside.later import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# How a process ends when it may not go on; the supervisor reads these from its exit status.
EXIT_STALE = 75
EXIT_ORPHANED = 76

_CHUNK = 256 * 1024
_READER_STACK = 256 * 1024

Reply = tuple[dict[str, Any], list[bytes]]


class Refused(Exception):
    """The supervisor answered a call with an error."""


class Channel:
    """One socket to the supervisor, shared by all threads of this process."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = Decoder()
        self._arrived: list[Reply] = []
        self._sending = threading.Lock()
        self._unsent: list[bytes] = []
        self._waiting: dict[int, Future[Reply]] = {}
        self._numbers = itertools.count(1)

    def send(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Send one frame; ends the process when nobody is left to read it.

        Raises:
            FrameError: the header is not JSON or the frame is too large.
        """
        self._push(encode(header, blobs))

    def send_soon(self, header: dict[str, Any]) -> None:
        """Send one frame with the next one, or in a moment; raises like :meth:`send`."""
        data = encode(header)
        with self._sending:
            self._unsent.append(data)
        soon(self._flush)

    def _flush(self) -> None:
        if self._unsent:
            self._push(b"")

    def _push(self, data: bytes) -> None:
        try:
            with self._sending:
                if self._unsent:
                    data = b"".join((*self._unsent, data))
                    self._unsent.clear()
                self._socket.sendall(data)
        except OSError:
            os._exit(EXIT_ORPHANED)

    def receive(self) -> Reply:
        """The next frame, waiting for it; ends the process when there will be none."""
        while not self._arrived:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                os._exit(EXIT_ORPHANED)
            self._arrived = self._decoder.feed(data)
        return self._arrived.pop(0)

    def start(self, on_frame: Callable[[dict[str, Any]], None]) -> None:
        """Read in a thread from now on: replies go to their callers, the rest to ``on_frame``."""
        before = threading.stack_size(_READER_STACK)
        try:
            reader = threading.Thread(
                target=self._read, args=(on_frame,), name="penstock-channel", daemon=True
            )
            reader.start()
        finally:
            threading.stack_size(before)

    def call(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> Reply:
        """Send a call and wait for its answer, blocking this thread."""
        return self.begin_call(header, blobs).result()

    async def acall(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> Reply:
        """Send a call and wait for its answer, leaving the event loop free."""
        return await asyncio.wrap_future(self.begin_call(header, blobs))

    def begin_call(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> Future[Reply]:
        """Send a call; what it returns is done when the answer is here."""
        number = next(self._numbers)
        answer: Future[Reply] = Future()
        self._waiting[number] = answer
        try:
            self.send({**header, "t": "call", "id": number}, blobs)
        except BaseException:
            del self._waiting[number]
            raise
        return answer

    def _read(self, on_frame: Callable[[dict[str, Any]], None]) -> None:
        """Dispatch frames for as long as the process lives; it does not outlive this thread."""
        try:
            while True:
                header, blobs = self.receive()
                if header.get("t") != "reply":
                    on_frame(header)
                    continue
                answer = self._waiting.pop(header.get("id", 0), None)
                # One whose caller was cancelled takes no result.
                if answer is not None and answer.set_running_or_notify_cancel():
                    answer.set_result((header, blobs))
        except BaseException as error:  # noqa: BLE001 - also a MemoryError: nobody else would notice
            os.write(2, f"penstock: the link to the supervisor failed: {error!r}\n".encode())
            os._exit(EXIT_ORPHANED)
