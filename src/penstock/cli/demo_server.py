"""The demo's own server: a real process in a directory of its own, ended with the demo."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.client import AsyncClient
from penstock.domain.errors import PenstockError, Unavailable

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1
_SHOWN = 2000


class DemoServer:
    """``penstock up`` with a key of ours, on a port that is free."""

    def __init__(self, home: Path, *, seed: int, latency: float, key: str | None = None) -> None:
        self.home = home
        self.key = key or "psk_" + secrets.token_hex(32)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._environment = {
            **_without_keys(os.environ),
            "PENSTOCK_HOME": str(home),
            "PENSTOCK_ADMIN_KEY": self.key,
            "PENSTOCK_SIMULATED_SEED": str(seed),
            "PENSTOCK_SIMULATED_LATENCY": str(latency),
            "PENSTOCK_DRAIN_SECONDS": "5",
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        port = self.url.rpartition(":")[2]
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "server.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - ourselves; it is ended below
                [sys.executable, "-m", "penstock", "up", "--port", port],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the server
            )
        try:
            await self._answering()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End it the way an operator would, and make sure."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def _answering(self) -> None:
        async with AsyncClient(self.url, self.key) as client:
            for _ in range(int(_START_SECONDS / _POLL_SECONDS)):
                assert self._process is not None
                if self._process.poll() is not None:
                    break
                try:
                    await client.whoami()
                except PenstockError:
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    return
        said = (self.home / "server.log").read_text(errors="replace")[-_SHOWN:]
        raise Unavailable(f"the demo's server did not start:\n{said}")


def _without_keys(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make the demo cost money or touch another server."""
    return {
        name: value
        for name, value in env.items()
        if not name.startswith("PENSTOCK_") and not name.endswith("_API_KEY")
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
