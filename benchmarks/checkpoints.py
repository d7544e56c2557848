"""What a checkpoint costs: Penstock's beside AsyncPostgresSaver, in CPU and in stored bytes.

The same graphs run on LangGraph's InMemorySaver, on AsyncPostgresSaver and on ours (over SQLite and
over PostgreSQL) in turns. CPU is that of the agent's process, of Penstock's supervisor and of the
database; what InMemorySaver costs is taken off, which leaves what it costs to keep a step. The
peer installs itself into ``.bench/savers`` on demand; PostgreSQL is named by
PENSTOCK_TEST_POSTGRES (``python scripts/with_services.py -- python benchmarks/checkpoints.py``).

    python benchmarks/checkpoints.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import psutil
import uv

from penstock.domain.releases import Limits
from penstock.domain.tasks import Claim
from penstock.inside.frames import Decoder, encode
from penstock.rules.limits import Terms
from penstock.runtime.calls import answer_call
from penstock.runtime.journals import Journal
from penstock.store import Store, Transaction, claims, sessions, tasks

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

from rollout_world import AGENT, ENVIRONMENT, release  # noqa: E402 - as above

PEER = HERE.parent / ".bench" / "savers"
PEERS = ["langgraph==1.2.22", "langgraph-checkpoint-postgres==3.2.0", "psycopg[binary]==3.3.9"]
WARM = 2
OURS = ("checkpoints", "checkpoint_writes", "checkpoint_contents", "steps")
THEIRS = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


@dataclass(frozen=True)
class Load:
    """A graph, and how often it is run in a round."""

    name: str
    steps: int
    threads: int
    chat: bool


LOADS = [
    Load("10 steps, +1 KB each", steps=10, threads=30, chat=False),
    Load("a chat of 100 steps", steps=100, threads=3, chat=True),
]


@dataclass
class Figures:
    """What was measured, over all rounds; CPU in milliseconds a step."""

    python: list[float] = field(default_factory=list)
    database: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)  # bytes a step

    @property
    def cpu(self) -> float:
        """Both kinds."""
        return statistics.median(self.python) + statistics.median(self.database)


def install_peer() -> Path:
    """The peer's interpreter; installed if it is not there."""
    python = PEER / "bin" / "python"
    complete = PEER / "complete"
    if not complete.exists() or complete.read_text(encoding="utf-8") != str(PEERS):
        print("installing langgraph-checkpoint-postgres into .bench/savers …", flush=True)
        uv_bin = uv.find_uv_bin()
        subprocess.run(
            [uv_bin, "venv", "-q", "--clear", "--python", sys.executable, PEER], check=True
        )
        subprocess.run([uv_bin, "pip", "install", "-q", "--python", python, *PEERS], check=True)
        complete.write_text(str(PEERS), encoding="utf-8")
    return python


@contextlib.asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    """A new database of a PostgreSQL server."""
    name = f"penstock_bench_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name} template template0")
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


class Watch:
    """The CPU and the bytes of a PostgreSQL database, from outside."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: dict[int, float] = {}

    async def cpu(self) -> float:
        """Seconds that the processes of its connections have used."""
        connection = await asyncpg.connect(self._url)
        rows = await connection.fetch(
            "select pid from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid()"
        )
        await connection.close()
        for row in rows:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(row["pid"]).cpu_times()
                self._seen[row["pid"]] = times.user + times.system
        return sum(self._seen.values())

    async def size(self, tables: tuple[str, ...]) -> int:
        """Bytes of tables with their indexes."""
        connection = await asyncpg.connect(self._url)
        total = 0
        for table in tables:
            total += await connection.fetchval(
                "select coalesce(pg_total_relation_size(to_regclass($1)), 0)", table
            )
        await connection.close()
        return total


class Child:
    """A process that runs a graph, between its marks."""

    def __init__(
        self, python: Path, saver: str, load: Load, where: str, fds: tuple[int, ...]
    ) -> None:
        command: list[Any] = [python, HERE / "checkpoint_graph.py", saver, "--where", where]
        command += ["--steps", str(load.steps), "--threads", str(load.threads)]
        command += ["--warm", str(WARM), *(["--chat"] if load.chat else [])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")},
        )

    async def mark(self) -> str:
        """Its next mark."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise SystemExit("the graph's process ended early")
        return line

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    async def end(self) -> None:
        """Wait for it."""
        await asyncio.to_thread(self._process.wait)


async def measure_peer(python: Path, load: Load, saver: str, url: str, found: Figures) -> None:
    """One round of a checkpointer that does all its work in the agent's process."""
    watch = Watch(url)
    child = Child(python, saver, load, url, ())
    await child.mark()
    cpu, size = await watch.cpu(), await watch.size(THEIRS)
    child.go()
    told = json.loads(await child.mark())
    steps = load.steps * load.threads
    found.python.append(told["cpu"] / steps * 1000)
    found.database.append((await watch.cpu() - cpu) / steps * 1000)
    found.stored.append((await watch.size(THEIRS) - size) / steps)
    child.go()
    await child.end()


async def measure_ours(python: Path, load: Load, url: str | None, found: Figures) -> None:
    """One round of ours: the graph's process, and a supervisor in this one."""
    with tempfile.TemporaryDirectory() as home:
        store = Store(home=Path(home), url=url)
        await store.open()
        journals = await prepared(store, WARM + load.threads)
        ours, theirs = socket.socketpair()
        child = Child(python, "penstock", load, str(theirs.fileno()), (theirs.fileno(),))
        theirs.close()
        serving = asyncio.create_task(serve(ours, journals))
        watch = Watch(url) if url else None

        async def size() -> int:
            return await watch.size(OURS) if watch else sqlite_bytes(Path(home))

        await child.mark()
        bytes_before = await size()
        cpu = await watch.cpu() if watch else 0.0
        own = time.process_time()
        child.go()
        told = json.loads(await child.mark())
        own = time.process_time() - own
        steps = load.steps * load.threads
        found.python.append((told["cpu"] + own) / steps * 1000)
        found.database.append((await watch.cpu() - cpu) / steps * 1000 if watch else 0.0)
        found.stored.append((await size() - bytes_before) / steps)
        child.go()
        await child.end()
        serving.cancel()
        ours.close()
        await store.close()


async def prepared(store: Store, count: int) -> dict[int, Journal]:
    """Claimed tasks, each of a session of its own."""
    digest = (await release(store, "one")).digest
    found = {}
    for number in range(count):

        async def work(tx: Transaction, number: int = number) -> Claim:
            await sessions.add(
                tx, session_id=f"ses_{number}", agent=AGENT, environment=ENVIRONMENT,
                release=digest, user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
            )  # fmt: skip
            await tasks.add(
                tx, task_id=f"task_{number}", session_id=f"ses_{number}", agent=AGENT,
                environment=ENVIRONMENT, release=digest, given=None,
            )  # fmt: skip
            return (await claims.claim(tx, worker_id="w", limit=1))[0]

        claim = await store.transact(work)
        terms = Terms.of(Limits(), {}, claim.task.resource_class)
        found[number] = Journal(store, claim, terms)
    return found


async def serve(end: socket.socket, journals: dict[int, Journal]) -> None:
    """Answer calls as a supervisor does."""
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    decoder = Decoder(msgspec.json.decode)  # as the supervisor's
    while data := await loop.sock_recv(end, 256 * 1024):
        for header, blobs in decoder.feed(data):
            answer = await answer_call(journals[header["a"]], header, blobs, said=list)
            reply = {"t": "reply", "a": header["a"], "id": header["id"], **answer.header}
            await loop.sock_sendall(end, encode(reply, tuple(answer.blobs)))


def sqlite_bytes(home: Path) -> int:
    """Bytes in use in a SQLite database."""
    with contextlib.closing(sqlite3.connect(home / "penstock.sqlite")) as connection:
        pages, free, size = (
            connection.execute(f"pragma {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


def show(load: Load, found: dict[str, Figures]) -> bool:
    """A table, and whether the goals were met."""
    memory, peer = found["InMemorySaver"], found["AsyncPostgresSaver"]
    extra = peer.cpu - memory.cpu
    stored = statistics.median(peer.stored)
    print(f"\n{load.name}")
    print(f"{'':24} {'Python':>9} {'database':>9} {'above memory':>13} {'of peer':>8}"
          f" {'bytes/step':>11} {'of peer':>8}")  # fmt: skip
    met = True
    for name, figures in found.items():
        above, kept = figures.cpu - memory.cpu, statistics.median(figures.stored or [0])
        print(
            f"{name:24} {statistics.median(figures.python):6.3f} ms"
            f" {statistics.median(figures.database):6.3f} ms {above:10.3f} ms"
            f" {above / extra:8.3f} {kept:11.0f} {kept / stored:8.3f}"
        )
        if name.startswith("Penstock"):
            met &= above / extra <= 1 / 4 and (not load.chat or kept / stored <= 1 / 5)
    return met


async def run(rounds: int) -> int:
    """Everything in turns."""
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    if not server:
        print("PENSTOCK_TEST_POSTGRES names no server; see the top of this file")
        return 2
    python = install_peer()
    met = True
    for load in LOADS:
        found: dict[str, Figures] = defaultdict(Figures)
        for _ in range(rounds):
            async with database(server) as url:
                await measure_peer(python, load, "memory", url, found["InMemorySaver"])
            async with database(server) as url:
                await measure_peer(python, load, "peer", url, found["AsyncPostgresSaver"])
            await measure_ours(python, load, None, found["Penstock, SQLite"])
            async with database(server) as url:
                await measure_ours(python, load, url, found["Penstock, PostgreSQL"])
        met &= show(load, found)
    print(
        "\nat most 1/4 of the peer's CPU above InMemorySaver, at most 1/5 of its bytes for the"
        f" chat: {'met' if met else 'NOT met'}"
    )
    return 0


def main() -> int:
    """Measure, print, say whether the goals were met; fails only where it cannot measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import uvloop  # noqa: PLC0415 - the loop that the server runs on

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
