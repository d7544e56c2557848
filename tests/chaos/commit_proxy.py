"""A proxy between a server and its PostgreSQL that does harm at the moment of a commit."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_COMMIT = b"COMMIT;\0"
_CHUNK = 64 * 1024
_LOOK_SECONDS = 0.05
_ANSWER_SECONDS = 10.0


class CommitProxy:
    """Forwards, until a commit comes by that is to be harmed.

    * ``lost``: the commit never reaches the database.
    * ``unknown``: the database commits, and its answer never comes back.

    Either way the connection is cut.
    """

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self.share = 0.0  # of commits that are harmed
        self.harm: Callable[[str], None] = lambda _: None  # called before the connection is cut
        self.done: Counter[str] = Counter()
        self._target = urlsplit(url)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._chance = random.Random(seed)
        self._deaf = threading.Event()
        self._swallowing = threading.Event()
        self._over = threading.Event()

    @property
    def url(self) -> str:
        port = self._listening.getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{self._target.username}@127.0.0.1:{port}"))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listening.close()

    def deafen(self) -> None:
        """Hold back whatever the database says: a partition that goes one way."""
        self._deaf.set()

    def swallow(self) -> None:
        """Hold back what either side says, and hang up on nobody: a network that loses packets."""
        self._swallowing.set()

    def heal(self) -> None:
        """Let through what was held back, and all that follows."""
        self._deaf.clear()
        self._swallowing.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            address = (self._target.hostname, self._target.port)
            with socket.create_connection(address) as database:
                self._forward(client, database)

    def _forward(self, client: socket.socket, database: socket.socket) -> None:
        while not self._over.is_set():
            ends = [client] if self._deaf.is_set() else [client, database]
            if self._swallowing.is_set():
                ends = []
            for end in select.select(ends, [], [], _LOOK_SECONDS)[0]:
                data = end.recv(_CHUNK)
                if not data:
                    return
                if end is database:
                    client.sendall(data)
                elif data.endswith(_COMMIT) and self._chance.random() < self.share:
                    self._spoil(database, data)
                    return
                else:
                    database.sendall(data)

    def _spoil(self, database: socket.socket, commit: bytes) -> None:
        what = self._chance.choice(("lost", "unknown"))
        if what == "unknown":
            database.settimeout(_ANSWER_SECONDS)
            database.sendall(commit)
            database.recv(_CHUNK)
        self.done[what] += 1
        self.harm(what)
