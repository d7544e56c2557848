"""Workers: who runs tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, note, table, when


@click.command()
@server_options
@json_option
def workers(url: str | None, key: str | None, *, as_json: bool) -> None:
    """List the workers of the installation, with what each of them runs."""
    with connect(url, key) as client:
        found = client.workers()
    emit(found, as_json=as_json, show=_show)


@click.command()
@click.argument("worker")
@server_options
@json_option
def drain(worker: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Let WORKER leave, as SIGTERM to its process would.

    It takes nothing new, lets steps end or hands them back before its grace is over, and its
    process ends. Another worker goes on with what was handed back. Of a server it is the whole
    server that leaves.
    """
    with connect(url, key) as client:
        found = client.drain_worker(worker)
    emit(found, as_json=as_json, show=lambda _: note(f"{worker} drains; see penstock workers"))


def _show(found: dict[str, Any]) -> None:
    table(
        ("worker", "host", "process", "runs", "of", "state", "last heartbeat"),
        [
            (
                one["id"],
                one["host"],
                one["pid"],
                one["running"],
                one["capacity"],
                _state(one),
                when(one["heartbeat_us"]),
            )
            for one in found["items"]
        ],
        empty="No worker is running: tasks wait until one does.",
    )


def _state(worker: Mapping[str, Any]) -> str:
    if worker["draining"]:
        return "draining"
    if worker["kind"] == "program":
        return "runs its own workflows"
    return "taking tasks" if worker["capacity"] else "leaves them to others"
