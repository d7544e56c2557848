"""The servers under attack: one on SQLite, or several on one PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import asyncpg

from penstock.cli.projects import packed
from penstock.domain.errors import PenstockError
from server_process import ServerProcess

PATIENCE_SECONDS = 180.0
BUILT = ("environments", "wheels")  # what is the same for every server


class Cluster:
    """Servers of one database; whoever asks may reach any of them."""

    built: Path | None = None  # where environments are kept that several clusters use

    def __init__(
        self,
        folder: Path,
        *,
        url: str | list[str] | None,
        servers: int,
        environment,
        concurrency=32,
    ):
        """``url`` may be a list: each server's own way to the one database."""
        urls = url if isinstance(url, list) else [url] * servers
        self.url = urls[0]
        self.home = folder / "home-0"
        self.refused = Counter()  # errors that clients were answered with, by code
        self.servers = [
            ServerProcess(
                folder / f"home-{number}",
                environment={**environment, **({"PENSTOCK_DATABASE_URL": own} if own else {})},
                concurrency=concurrency,
            )
            for number, own in enumerate(urls)
        ]
        if self.built is not None:
            for server in self.servers:
                self._share(server.home, self.built)

    @staticmethod
    def _share(home: Path, built: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        for name in BUILT:
            (built / name).mkdir(exist_ok=True)
            (home / name).symlink_to(built / name)

    def __enter__(self):
        for server in self.servers:
            server.start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()

    def deploy(self, agent: str, project: Path) -> str:
        """Release and deploy a project; the release's digest."""
        with self.servers[0].client() as client:
            cut = client.cut_release(packed(project))
            client.deploy(agent, ref=cut["release"]["digest"], strategy="all_at_once")
            return cut["release"]["digest"]

    def asking(self, ask):
        """What ``ask(client)`` returns, from whichever server answers first."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            server = random.choice(self.servers)
            try:
                with server.client() as client:
                    return ask(client)
            except PenstockError as error:
                self.refused[error.code] += 1
                if error.code not in ("unavailable", "error"):
                    raise
                time.sleep(0.1)
        raise AssertionError("nobody answers any more")

    def created(self, agent: str, given, name: str, **options):
        """A task that was acknowledged, however often it had to be asked for; once for a name."""
        return self.asking(
            lambda client: client.create_task(
                agent=agent,
                input=given,
                idempotency_key=name,
                **{"close_session": True, **options},
            )
        )

    def until_ended(self, task_id: str, answer=None):
        """The task once it has ended; what it asks is answered by ``answer(question)``."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            task = self.asking(lambda client: client.wait_for_task(task_id, seconds=20))
            if task["state"] == "waiting" and answer is not None:
                self._answer(task, answer)
            elif task["state"] not in ("queued", "running"):
                return task
            assert time.monotonic() < until, f"{task_id} does not end: {task}"

    def _answer(self, task, answer) -> None:
        answers = {one["id"]: answer(one["value"]) for one in task["waits"]}
        try:
            self.asking(lambda client: client.resume_task(task["id"], answers=answers))
        except PenstockError as error:
            # The same answer, asked for again after the first reply was lost.
            if error.code != "conflict":
                raise

    def server_of(self, pid: int) -> ServerProcess | None:
        """The server whose attempt a process is."""
        for server in self.servers:
            _, attempts = server.processes()
            if any(attempt.pid == pid for attempt in attempts):
                return server
        return None

    def query(self, sql: str) -> list[dict]:
        """Rows of the database, read from outside."""
        if self.url is not None:
            return asyncio.run(_fetch(self.url, sql))
        path = self.home / "penstock.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]


async def _fetch(url: str, sql: str) -> list[dict]:
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()
