"""Replicas as processes of this machine: ``penstock worker``, each with leases of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from penstock.domain.errors import Unavailable

log = logging.getLogger(__name__)

_GONE_SECONDS = 10.0  # beyond its own grace, before a replica is killed
_LOOK_SECONDS = 0.05


class ProcessCompute:
    """Worker processes that this server has started; they drain when it is gone."""

    def __init__(self, environment: Mapping[str, str], *, drain_seconds: float) -> None:
        """Start replicas in ``environment``; each may take ``drain_seconds`` to leave."""
        self._environment = dict(environment)
        self._drain_seconds = drain_seconds
        self._serving: list[subprocess.Popen[bytes]] = []
        self._draining: list[subprocess.Popen[bytes]] = []

    async def count(self) -> int:
        """Replicas that are up or on their way up."""
        self._forget()
        return len(self._serving)

    async def scale(self, replicas: int) -> None:
        """Start or drain replicas; the youngest leave first.

        Raises:
            Unavailable: a process cannot be started.
        """
        self._forget()
        while len(self._serving) < replicas:
            self._serving.append(self._started())
        while len(self._serving) > replicas:
            self._drain(self._serving.pop())

    async def close(self) -> None:
        """Drain all replicas and wait until they are gone."""
        while self._serving:
            self._drain(self._serving.pop())
        until = asyncio.get_running_loop().time() + self._drain_seconds + _GONE_SECONDS
        while any(process.poll() is None for process in self._draining):
            if asyncio.get_running_loop().time() > until:
                for process in self._draining:
                    log.error("replica %d does not leave; it is killed", process.pid)
                    process.kill()
                    process.wait()
                break
            await asyncio.sleep(_LOOK_SECONDS)
        self._draining.clear()

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "penstock", "worker", "--parent", str(os.getpid())]
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which drains it
            )
        except OSError as error:
            raise Unavailable(f"a replica cannot be started: {error}") from error
        log.info("replica %d is started", process.pid)
        return process

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        log.info("replica %d is drained", process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        self._draining.append(process)

    def _forget(self) -> None:
        """Take out what has ended, and say so when it was not asked to."""
        for process in tuple(self._serving):
            if process.poll() is not None:
                self._serving.remove(process)
                log.warning("replica %d has ended: %s", process.pid, process.returncode)
        self._draining = [process for process in self._draining if process.poll() is None]
