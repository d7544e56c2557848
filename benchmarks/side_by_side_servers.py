"""The servers that are measured side by side: started for a round, ended after it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx2

from cpu import postmaster, redis_server
from penstock.cli.projects import packed
from penstock.client import Client

AGENT = "LangGraph agent"
KEY = "psk_" + "b" * 64
START_SECONDS = 90.0

GRAPH = """
import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    trail: Annotated[list, operator.add]


def node(name):
    return lambda state: {"trail": [name]}


builder = StateGraph(State)
for name in ("one", "two", "three"):
    builder.add_node(name, node(name))
builder.add_edge(START, "one")
builder.add_edge("one", "two")
builder.add_edge("two", "three")
builder.add_edge("three", END)
graph = builder.compile()
"""
INPUT = {"trail": ["in"]}
OUTPUT = ["in", "one", "two", "three"]


class Server:
    """A server under measurement."""

    name = ""
    beside: tuple[int, ...] = ()  # processes whose CPU counts, too: a database, a broker

    def __init__(self, place: Path) -> None:
        self.place = place
        self.headers: dict[str, str] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        place.mkdir(parents=True)
        (place / "work.py").write_text(GRAPH, encoding="utf-8")

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    async def call(self, client: httpx2.AsyncClient) -> None:
        """One new conversation with one task, waited for and checked."""
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def _start(self, command: Sequence[str], env: Mapping[str, str], path: str) -> None:
        with (self.place / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - ended in __aexit__
                command,
                cwd=self.place,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with httpx2.AsyncClient(base_url=self.url, trust_env=False) as client:
            for _ in range(int(START_SECONDS / 0.1)):
                try:
                    if (await client.get(path)).status_code == 200:
                        return
                except httpx2.TransportError:
                    pass
                if self._process.poll() is not None:
                    break
                await asyncio.sleep(0.1)
        raise RuntimeError((self.place / "server.log").read_text(errors="replace")[-3000:])


class Penstock(Server):
    """Ours, in one of its two kinds of isolation."""

    def __init__(self, place: Path, *, isolation: str) -> None:
        super().__init__(place)
        self.name = f"penstock, {isolation} isolation"
        self.env: dict[str, str] = {}
        self.headers = {"authorization": f"Bearer {KEY}"}
        (place / "requirements.txt").write_text("langgraph==1.2.22\n", encoding="utf-8")
        (place / "penstock.yaml").write_text(
            f"agent: bench\nentrypoint: work:graph\nisolation: {isolation}\n", encoding="utf-8"
        )

    async def __aenter__(self) -> Self:
        env = {
            "PENSTOCK_HOME": str(self.place / "home"),
            "PENSTOCK_ADMIN_KEY": KEY,
            "PENSTOCK_DATABASE_URL": "",
            **self.env,
        }
        command = [sys.executable, "-m", "penstock", "up", "--port", str(self.port)]
        await self._start(command, env, "/readyz")
        await asyncio.to_thread(self._deploy)
        return self

    def _deploy(self) -> None:
        with Client(self.url, KEY) as client:
            archive = packed(self.place, also=("home", "server.log"))
            cut = client.cut_release(archive)
            if cut["lock"]:
                (self.place / "penstock.lock").write_text(cut["lock"], encoding="utf-8")
            client.deploy("bench", ref=cut["release"]["digest"], strategy="all_at_once")

    async def call(self, client: httpx2.AsyncClient) -> None:
        """See :class:`Server`."""
        response = await client.post(
            "/api/v1/tasks",
            params={"wait": 60},
            json={"agent": "bench", "input": INPUT, "close_session": True},
        )
        _check(response, response.json().get("output"))


class PenstockOnPostgres(Penstock):
    """The same with PostgreSQL instead of SQLite."""

    def __init__(self, place: Path, *, isolation: str, postgres: str) -> None:
        super().__init__(place, isolation=isolation)
        self.name = f"{self.name}, PostgreSQL"
        self.beside = (postmaster(postgres),)
        self._postgres = postgres

    async def __aenter__(self) -> Self:
        url = await asyncio.to_thread(fresh_database, self._postgres)
        self.env["PENSTOCK_DATABASE_URL"] = url
        return await super().__aenter__()


class LangGraphDev(Server):
    """``langgraph dev``, as its documentation says to start it."""

    name = "langgraph dev"

    def __init__(self, place: Path, *, python: Path) -> None:
        super().__init__(place)
        self._python = python
        config = {"dependencies": ["."], "graphs": {"bench": "./work.py:graph"}}
        (place / "langgraph.json").write_text(json.dumps(config), encoding="utf-8")

    async def __aenter__(self) -> Self:
        command = [
            str(self._python.parent / "langgraph"), "dev", "--no-browser", "--no-reload",
            "--host", "127.0.0.1", "--port", str(self.port), "--n-jobs-per-worker", "16",
        ]  # fmt: skip
        path = f"{self._python.parent}{os.pathsep}{os.environ['PATH']}"
        await self._start(command, {"PATH": path, "LANGSMITH_TRACING": "false"}, "/ok")
        return self

    async def call(self, client: httpx2.AsyncClient) -> None:
        """See :class:`Server`."""
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        response = await client.post(
            f"/threads/{thread}/runs/wait", json={"assistant_id": "bench", "input": INPUT}
        )
        _check(response, response.json())


class Aegra(Server):
    """Aegra with PostgreSQL and its Redis broker, workers as it comes."""

    name = "Aegra"

    def __init__(self, place: Path, *, python: Path, postgres: str, redis: str) -> None:
        super().__init__(place)
        self._python = python
        self._postgres = postgres
        self._redis = redis
        self.beside = (postmaster(postgres), redis_server(redis))
        config = {"dependencies": ["."], "graphs": {"bench": "./work.py:graph"}}
        (place / "aegra.json").write_text(json.dumps(config), encoding="utf-8")

    async def __aenter__(self) -> Self:
        url = await asyncio.to_thread(fresh_database, self._postgres)
        env = {
            "DATABASE_URL": url,
            "REDIS_BROKER_ENABLED": "true",
            "REDIS_URL": self._redis,
            "AEGRA_CONFIG": str(self.place / "aegra.json"),
            "LOG_LEVEL": "ERROR",
            "ENV_MODE": "PRODUCTION",
        }
        command = [
            str(self._python.parent / "aegra"), "serve", "--host", "127.0.0.1",
            "--port", str(self.port), "-c", str(self.place / "aegra.json"),
        ]  # fmt: skip
        await self._start(command, env, "/health")
        return self

    async def call(self, client: httpx2.AsyncClient) -> None:
        """See :class:`Server`."""
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        response = await client.post(
            f"/threads/{thread}/runs/wait", json={"assistant_id": "bench", "input": INPUT}
        )
        _check(response, response.json())


def fresh_database(server: str) -> str:
    """The URL of an empty database; it goes with its server."""
    name = f"bench_{secrets.token_hex(4)}"
    subprocess.run(["psql", server, "-Xqc", f"create database {name}"], check=True)
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def _check(response: httpx2.Response, output: Any) -> None:
    if response.status_code >= 300 or (output or {}).get("trail") != OUTPUT:
        raise RuntimeError(f"{response.status_code}: {response.text[:500]}")
