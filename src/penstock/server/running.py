"""Running: a server from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable

import uvloop

from penstock.server.wiring import Role, Server
from penstock.settings import Settings

log = logging.getLogger(__name__)

OnReady = Callable[[Server], Awaitable[None]]


def run(
    settings: Settings,
    on_ready: OnReady | None = None,
    *,
    role: Role = Role.SERVER,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one shortens the drain.

    Args:
        settings: of the server.
        on_ready: called once it answers; if it raises, the server stops and the error is raised.
        role: what the process is there for.
        parent: a process whose end means what SIGTERM means.
    """
    _open_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, on_ready, role, parent))


async def _run(
    settings: Settings, on_ready: OnReady | None, role: Role, parent: int | None
) -> None:
    loop = asyncio.get_running_loop()
    server = Server(settings, role)
    stopping = asyncio.Event()
    hurrying: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        if stopping.is_set():
            hurrying.add(asyncio.create_task(server.hurry()))
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server.on_drain = stopping.set
    await server.start()
    if parent is not None:
        _watch(parent, stopping)
    try:
        if on_ready is not None:
            following = asyncio.ensure_future(on_ready(server))
            waiting = asyncio.ensure_future(stopping.wait())
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            else:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
            waiting.cancel()
        await stopping.wait()
        log.info("stopping: draining for up to %.0f s", settings.drain_seconds)
    finally:
        await server.stop()
        # A signal that comes now has nothing left to end, and must not spoil the exit status.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _watch(parent: int, gone: asyncio.Event) -> None:
    """Set an event when a process ends; at once if it has."""
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        gone.set()
        return
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        gone.set()

    loop.add_reader(fd, on_end)


def _open_many_files() -> None:
    """Every attempt holds a socket and two pipes, every client a socket: take what is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinite" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
