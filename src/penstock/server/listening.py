"""Listening: the socket, the HTTP server on it, and which application answers what."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn

from penstock.domain.errors import Unavailable

_BACKLOG = 2048
_CLOSE_SECONDS = 3
_GATEWAY = "/gateway/"


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handlers: a drain comes before the end."""

    def starting(self) -> asyncio.Task[bool]:
        """Done once it answers."""
        self._answers = asyncio.Event()
        return asyncio.create_task(self._answers.wait(), name="http-starting")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets=sockets)
        self._answers.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`run`."""
        yield


async def serve(app: Any, end: socket.socket) -> Callable[[], Awaitable[None]]:
    """Answer on a socket; returns how to stop.

    Raises:
        Unavailable: the HTTP server did not start.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        timeout_keep_alive=75,
    )
    server = _Uvicorn(config)
    starting = server.starting()
    serving = asyncio.create_task(server.serve(sockets=[end]), name="http")
    await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        raise Unavailable("the HTTP server did not start")

    async def close() -> None:
        server.should_exit = True
        await serving

    return close


def bound(host: str, port: int) -> socket.socket:
    """A listening socket, or an error that says who is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = socket.socket(family, socket.SOCK_STREAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        end.bind((host, port))
        end.listen(_BACKLOG)
    except OSError as error:
        end.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="Is another server running? Choose another port: PENSTOCK_PORT=8701"
            " (0 takes any that is free)."
            if error.errno in (errno.EADDRINUSE, errno.EACCES)
            else "PENSTOCK_HOST is an address of this machine: 127.0.0.1, or 0.0.0.0 for all.",
        ) from None
    end.setblocking(False)
    return end


def only(api: Any, paths: tuple[str, ...]) -> Any:
    """An application that knows a few paths of another."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") in paths:
            await api(scope, receive, send)
        else:
            # Whatever else is asked is answered as an unknown route is.
            await api({**scope, "path": "/"}, receive, send)

    return app


def dispatcher(api: Any, gateway: Any) -> Any:
    """One application out of two: model calls do not pass through the API's machinery."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        chosen = gateway if scope.get("path", "").startswith(_GATEWAY) else api
        await chosen(scope, receive, send)

    return app
