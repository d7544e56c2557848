"""Servers: start one, and serve a project with it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from penstock.cli.connections import remember, target
from penstock.cli.output import note, show_error, strong
from penstock.cli.projects import ignored
from penstock.cli.releases import cut_release
from penstock.client import Client
from penstock.domain.errors import PenstockError
from penstock.kit import logs
from penstock.server import Role, Server, run
from penstock.settings import Settings

_LOOK_SECONDS = 0.5
_SETTLE_SECONDS = 0.3

_port = click.option(
    "--port", type=click.IntRange(0, 65535), help="Which port; 0: any that is free."
)


@click.command()
@click.argument("project", type=click.Path(path_type=Path), required=False)
@click.option("--canary", is_flag=True, help="Roll a changed project out step by step.")
@_port
def up(project: Path | None, port: int | None, *, canary: bool) -> None:
    """Start a server; with PROJECT, release and deploy it.

    The data goes into .penstock (PENSTOCK_HOME). The first start prints a login line, once. A
    changed project replaces the one before at once, unless --canary is given. Ctrl-C drains and
    ends it; tasks that have not ended go on at the next start.
    """
    settings = _settings(port)

    async def on_ready(server: Server) -> None:
        client = _greet(server)
        if project is not None:
            strategy = None if canary else "all_at_once"
            await asyncio.to_thread(_serve_project, client, project, strategy)
        note("Ctrl-C ends it.")

    run(settings, on_ready)


@click.command()
@click.option("--parent", type=int, help="Drain and end when this process has ended.")
@_port
def worker(port: int | None, *, parent: int | None) -> None:
    """Run attempts for the servers of one PostgreSQL, and nothing else.

    Any number of workers may run, on any machines; PENSTOCK_DATABASE_URL says which database.
    SIGTERM drains: steps are finished or handed back, and another worker goes on. It answers
    /livez, /readyz and /metrics on PENSTOCK_PORT (any free one without it).
    """
    settings = _settings(port if port is not None else _own_port())

    async def on_ready(server: Server) -> None:
        note(f"worker at {server.url}, up to {settings.concurrency} attempts at once")

    run(settings, on_ready, role=Role.WORKER, parent=parent)


def _own_port() -> int | None:
    """What was asked for; any free one, so that a worker does not take its server's."""
    return None if os.environ.get("PENSTOCK_PORT") else 0


@click.command()
@click.argument("project", type=click.Path(path_type=Path), default=".")
@_port
def dev(project: Path, port: int | None) -> None:
    """Serve PROJECT, and again whenever a file of it changes.

    A change that does not work is reported; what worked before goes on serving.
    """
    settings = _settings(port)

    async def on_ready(server: Server) -> None:
        client = _greet(server)
        seen = None
        note(f"watching {project}; Ctrl-C ends it.")
        while True:
            now = await asyncio.to_thread(_look, project)
            if now != seen:
                await asyncio.sleep(_SETTLE_SECONDS)  # editors write in several steps
                seen = await asyncio.to_thread(_look, project)
                try:
                    await asyncio.to_thread(_serve_project, client, project, "all_at_once")
                except PenstockError as error:
                    show_error(error, as_json=False)
                    note("what worked before goes on serving")
                seen = await asyncio.to_thread(_look, project)  # the lock may have been written
            await asyncio.sleep(_LOOK_SECONDS)

    run(settings, on_ready)


def _settings(port: int | None) -> Settings:
    settings = Settings.from_environment(os.environ)
    logs.configure(level=settings.log_level)
    return settings if port is None else dataclasses.replace(settings, port=port)


def _greet(server: Server) -> Client:
    """Say where the server is and how to get in; the client of whoever started it."""
    note(f"Penstock serves at {strong(server.url)}  (data in {server.settings.home})")
    if server.login_key:
        note("\nLog in from anywhere else with this line; it is shown once:\n")
        note(f"  penstock login {server.url} --key {server.login_key}\n")
    remember(server.url, server.login_key)
    return Client(*target(server.url, None))


def _serve_project(client: Client, project: Path, strategy: str | None) -> None:
    """Release a project and deploy what comes of it: one agent, or one for each of its graphs."""
    cut: Any = cut_release(client, project)
    for release in cut["releases"]:
        agent = release["agent"]
        done = client.deploy(agent, ref=release["digest"], strategy=strategy)
        name = f"{agent} v{release['number']}"
        if done["rollout"] is None or done["rollout"]["phase"] == "live":
            note(f"{strong(name)} is serving  {release['composite']}")
        else:
            share = done["rollout"]["weight"]
            note(f"{strong(name)} gets {share:.0%} of new sessions  {release['composite']}")
    agent = cut["release"]["agent"]
    note(f"\n  penstock chat {agent}\n  penstock task create {agent} 'some text'\n")


def _look(project: Path) -> dict[str, tuple[int, int]]:
    """Every file of a project with its time and size."""
    names = {pattern for pattern in ignored(project) if "*" not in pattern}
    found = {}
    for folder, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in names]
        for name in files:
            path = Path(folder, name)
            try:
                seen = path.stat()
            except OSError:
                continue
            if name not in names and path.suffix != ".pyc":
                found[str(path)] = (seen.st_mtime_ns, seen.st_size)
    return found
