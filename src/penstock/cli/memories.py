"""What agents remember: list, show, delete."""

from __future__ import annotations

import json
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, note, short, table, when

_namespace = click.option(
    "-n", "--namespace", multiple=True, help="A part of the namespace; once for each, in order."
)


@click.group()
def memory() -> None:
    """Look at what an agent remembers across sessions, and let it forget."""


@memory.command(name="list")
@click.argument("agent")
@_namespace
@click.option("--user", help="What a session of this user reaches.")
@click.option("--query", help="What has these words, the best first.")
@click.option("-e", "--environment", default="production", show_default=True)
@click.option("--limit", default=20, show_default=True)
@click.option("--offset", default=0)
@server_options
@json_option
def list_(
    agent: str,
    namespace: tuple[str, ...],
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
    **filters: Any,
) -> None:
    """List what AGENT remembers, the latest first."""
    with connect(url, key) as client:
        found = client.memories(agent, namespace=namespace, **filters)["items"]

    def show(rows: Any) -> None:
        table(
            ("namespace", "key", "user", "changed", "value"),
            [
                (
                    "/".join(row["namespace"]),
                    row["key"],
                    row["user_id"],
                    when(row["updated_us"]),
                    short(row["value"], 60),
                )
                for row in rows
            ],
            empty="Nothing is remembered.",
        )

    emit(found, as_json=as_json, show=show)


@memory.command()
@click.argument("agent")
@click.argument("name")
@_namespace
@click.option("-e", "--environment", default="production", show_default=True)
@server_options
@json_option
def get(
    agent: str,
    name: str,
    namespace: tuple[str, ...],
    environment: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Show what AGENT remembers under the key NAME."""
    with connect(url, key) as client:
        found = client.memory(agent, namespace, name, environment=environment)
    emit(
        found,
        as_json=as_json,
        show=lambda one: click.echo(json.dumps(one["value"], indent=2, ensure_ascii=False)),
    )


@memory.command()
@click.argument("agent")
@_namespace
@click.option("--user", help="What this user's sessions wrote, and what is the user's own.")
@click.option("--name", help="Only this key.")
@click.option("-e", "--environment", help="Only in this environment.")
@click.option("--all", "everything", is_flag=True, help="All that the agent remembers.")
@server_options
@json_option
def delete(
    agent: str,
    namespace: tuple[str, ...],
    user: str | None,
    name: str | None,
    environment: str | None,
    url: str | None,
    key: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Let AGENT forget what fits all that is given."""
    with connect(url, key) as client:
        found = client.delete_memories(
            agent,
            namespace=namespace,
            user=user,
            key=name,
            environment=environment,
            all="true" if everything else None,
        )
    emit(found, as_json=as_json, show=lambda value: note(f"{value['deleted']} memories are gone"))
