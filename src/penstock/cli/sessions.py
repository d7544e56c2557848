"""Sessions: list, show, end, delete."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import (
    coloured,
    dollars,
    emit,
    json_option,
    note,
    short,
    strong,
    table,
    when,
)
from penstock.domain.errors import Invalid


@click.group()
def session() -> None:
    """List, show, end and delete sessions."""


@session.command()
@click.argument("agent")
@click.option("--user", "user_id", help="Whose session it is.")
@click.option("-e", "--environment", default="production", show_default=True)
@click.option("--ttl", "ttl_seconds", type=float, help="Seconds after its last use to delete it.")
@server_options
@json_option
def create(agent: str, url: str | None, key: str | None, *, as_json: bool, **options: Any) -> None:
    """Begin a session with AGENT."""
    with connect(url, key) as client:
        emit(client.create_session(agent, **options), as_json=as_json, show=_show)


@session.command()
@click.argument("session_id")
@server_options
@json_option
def get(session_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Show SESSION_ID."""
    with connect(url, key) as client:
        emit(client.session(session_id), as_json=as_json, show=_show)


@session.command(name="list")
@click.option("--agent")
@click.option("--state", type=click.Choice(["open", "closed"]))
@click.option("--limit", default=20, show_default=True)
@server_options
@json_option
def list_(url: str | None, key: str | None, *, as_json: bool, **filters: Any) -> None:
    """List sessions, the newest first."""
    with connect(url, key) as client:
        found = client.sessions(**filters)["items"]

    def show(rows: Any) -> None:
        table(
            ("session", "agent", "state", "tasks", "failed", "cost", "created", "user"),
            [
                (
                    row["id"],
                    row["agent"],
                    row["state"],
                    row["tasks"],
                    row["failures"],
                    dollars(row["cost_nanos"]),
                    when(row["created_us"]),
                    row["user_id"],
                )
                for row in rows
            ],
            empty="No session.",
        )

    emit(found, as_json=as_json, show=show)


@session.command()
@click.argument("session_id")
@server_options
@json_option
def close(session_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """End SESSION_ID with the last of its tasks."""
    with connect(url, key) as client:
        emit(client.close_session(session_id), as_json=as_json, show=_show)


@session.command()
@click.argument("session_id")
@click.option("--force", is_flag=True, help="Cancel what has not ended first.")
@server_options
@json_option
def delete(
    session_id: str, url: str | None, key: str | None, *, force: bool, as_json: bool
) -> None:
    """Delete SESSION_ID with all that was said and done in it."""
    with connect(url, key) as client:
        found = client.delete_session(session_id, force=force)
    emit(found, as_json=as_json, show=_deleted)


@session.command()
@click.argument("session_id")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--type", "content_type", help="Its content type, if its name does not say it.")
@server_options
@json_option
def attach(
    session_id: str,
    file: Path,
    content_type: str | None,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Give SESSION_ID a FILE; name it in a task's input as {"attachment": "att_…"}."""
    kind = content_type or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    with connect(url, key) as client:
        found = client.add_attachment(
            session_id, file.read_bytes(), filename=file.name, content_type=kind
        )
    emit(found, as_json=as_json, show=lambda value: click.echo(value["id"]))


@session.command()
@click.argument("session_id")
@click.option("--checkpoint", "checkpoint_id", help="The state at this checkpoint.")
@server_options
def state(session_id: str, checkpoint_id: str | None, url: str | None, key: str | None) -> None:
    """Show the state of SESSION_ID, as JSON."""
    with connect(url, key) as client:
        found = client.state(session_id, checkpoint_id=checkpoint_id)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@session.command()
@click.argument("session_id")
@click.option("--limit", default=20, show_default=True)
@click.option("--before", help="Older than this checkpoint.")
@server_options
@json_option
def history(
    session_id: str,
    limit: int,
    before: str | None,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """List the states of SESSION_ID, the newest first."""
    with connect(url, key) as client:
        found = client.history(session_id, limit=limit, before=before)["items"]

    def show(rows: Any) -> None:
        table(
            ("checkpoint", "step", "source", "next", "values"),
            [
                (
                    row["checkpoint_id"],
                    row["step"],
                    row["source"],
                    ", ".join(row["next"]),
                    short(row["values"], 60),
                )
                for row in rows
            ],
            empty="No state.",
        )

    emit(found, as_json=as_json, show=show)


@session.command()
@click.argument("session_id")
@click.argument("values")
@click.option("--as-node", help="As if this node had written it.")
@click.option("--checkpoint", "checkpoint_id", help="Begin at this checkpoint.")
@server_options
@json_option
def edit(
    session_id: str,
    values: str,
    as_node: str | None,
    checkpoint_id: str | None,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Write VALUES, a JSON object, into the state of SESSION_ID."""
    try:
        given = json.loads(values)
    except ValueError as error:
        raise Invalid(f"the values are no JSON: {error}") from None
    with connect(url, key) as client:
        found = client.edit_state(session_id, given, as_node=as_node, checkpoint_id=checkpoint_id)
    emit(found, as_json=as_json, show=lambda value: click.echo(value["checkpoint_id"]))


@session.command()
@click.argument("session_id")
@click.option("--checkpoint", "checkpoint_id", help="As it was at this checkpoint.")
@click.option("--user", "user_id", help="Whose the new session is.")
@server_options
@json_option
def fork(
    session_id: str,
    checkpoint_id: str | None,
    user_id: str | None,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Begin a new session where SESSION_ID is, or was."""
    with connect(url, key) as client:
        found = client.fork_session(session_id, checkpoint_id=checkpoint_id, user_id=user_id)
    emit(found, as_json=as_json, show=_show)


def _deleted(value: Any) -> None:
    if value["deleted"]:
        note(f"{value['id']} is deleted")
    else:
        note(f"{value['id']} is deleted as soon as its last attempt has ended")


def _show(found: Any) -> None:
    click.echo(f"{strong(found['id'])}  {coloured(found['state'])}")
    click.echo(
        f"{found['agent']} {found['release'][:12]}  {found['tasks']} tasks,"
        f" {found['failures']} failed  {dollars(found['cost_nanos'])}"
    )
    if found["expires_us"]:
        click.echo(f"is deleted {when(found['expires_us'])}, unless it is used before")
