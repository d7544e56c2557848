"""A PostgreSQL of a test's own, which may be stopped at once, paused and started again."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

_SCRIPT = Path(__file__).parent.parent / "scripts" / "with_services.py"
_spec = importlib.util.spec_from_file_location("with_services", _SCRIPT)
services = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(services)


class PostgresServer:
    """A throw-away cluster on a port of its own; it keeps its data over a stop and a start.

    ``with PostgresServer() as server: server.url``. A test that uses it is skipped where the
    programs of PostgreSQL are not installed.
    """

    def __init__(self, folder: Path | None = None, *, log_apart: bool = False, **settings: str):
        """``settings`` are the server's own: ``max_connections="50"``.

        Args:
            folder: where its data lies; a temporary one without it.
            log_apart: its write-ahead log lies in a temporary folder all the same.
            settings: see above.
        """
        self._place = folder
        self._log_apart = log_apart
        self._programs = services._postgres_programs()
        if self._programs is None:
            pytest.skip("PostgreSQL is not installed")
        self._settings = {"max_connections": "100", **settings}
        self._user = services._unprivileged()
        user = self._user
        self._options = (
            {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        )
        self._port = services._free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://penstock@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
        self._folder.chmod(0o755)
        data = self._owned(self._folder / "data")
        self._data = data
        self._cluster = data / "db"
        apart = []
        if self._place is not None:
            self._cluster = self._owned(self._place / "postgres") / "db"
        if self._log_apart:
            apart = ["--waldir", data / "wal"]
        subprocess.run(
            [self._programs / "initdb", "-D", self._cluster, "-U", "penstock", "-A", "trust",
             "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *apart],
            cwd=data, check=True, stdout=subprocess.DEVNULL, **self._options,
        )  # fmt: skip
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether it runs; it ends by itself when it cannot recover."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers queries."""
        assert self._server is None
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self._data / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._cluster, "-p", str(self._port),
                 "-h", "127.0.0.1", "-k", self._data, *settings],
                cwd=self._data, stdout=log, stderr=log, start_new_session=True, **self._options,
            )  # fmt: skip
        services._await_port(self._port, self._server, self._data / "log")
        services._await_query(self._programs, self.url, self._options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: ``immediate`` as if the power failed, ``fast`` with its clients disconnected."""
        if self._server is None:
            return
        self.resume()
        self._server.send_signal(signal.SIGQUIT if mode == "immediate" else signal.SIGINT)
        services._reap(self._server)
        self._server = None

    def restart(self, mode: str = "immediate") -> None:
        """Stop it and start it again, on the same port with the same data."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Let nothing of it run: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        self._signal(signal.SIGCONT)

    def _owned(self, folder: Path) -> Path:
        """A new folder that belongs to whoever the server runs as."""
        folder.mkdir()
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        return folder

    def _signal(self, number: int) -> None:
        if self._server is None:
            return
        pids = [self._server.pid]
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        if children.exists():
            pids += [int(pid) for pid in children.read_text().split()]
        for pid in pids:  # each of its processes has a group of its own
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    async def database(self) -> str:
        """The URL of a fresh, empty database."""
        name = f"penstock_{secrets.token_hex(6)}"
        admin = await asyncpg.connect(self.url)
        try:
            await admin.execute(f"create database {name} template template0")
        finally:
            await admin.close()
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def cut(self, url: str) -> int:
        """Terminate every connection to a database; how many there were."""
        name = urlsplit(url).path.removeprefix("/")
        admin = await asyncpg.connect(self.url)
        try:
            cut = await admin.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name
            )
            return len(cut)
        finally:
            await admin.close()
