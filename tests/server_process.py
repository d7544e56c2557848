"""A real server that is killed and started again on the same data and the same port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from penstock.client import Client
from penstock.domain.errors import PenstockError

KEY = "psk_" + "c" * 64


class ServerProcess:
    """``penstock up``, or another command that serves, under our thumb."""

    def __init__(self, home: Path, *, environment=None, concurrency=32, command="up"):
        self.home = home
        self._command = command
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "PENSTOCK_HOME": str(home),
            "PENSTOCK_ADMIN_KEY": KEY,
            **({} if concurrency is None else {"PENSTOCK_CONCURRENCY": str(concurrency)}),
            **(environment or {}),
        }
        self.process = None

    def start(self):
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", self._command, "--port", str(self.port)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.await_answer()

    def await_answer(self, seconds=60):
        until = time.monotonic() + seconds
        with self.client() as client:
            while True:
                assert self.process.poll() is None, (self.home / "server.log").read_text()[-3000:]
                try:
                    client.ready()
                except PenstockError:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                else:
                    return

    def client(self):
        return Client(self.url, KEY)

    def kill(self):
        """SIGKILL: no time for anything."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def processes(self):
        """(zygotes, attempts): the server's children, and theirs."""
        try:
            zygotes = psutil.Process(self.process.pid).children()
            attempts = [child for zygote in zygotes for child in zygote.children()]
        except psutil.NoSuchProcess:
            return [], []
        return zygotes, attempts


def providers(ledger: str) -> dict[str, str]:
    """The environment that makes a ledger one of the server's providers."""
    return {"PENSTOCK_PROVIDERS": json.dumps({"ledger": {"base_url": f"{ledger}/v1"}})}
