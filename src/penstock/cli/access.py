"""Access: log in, and the keys there are."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.connections import connect, remember, server_options
from penstock.cli.output import emit, json_option, strong, table, when


@click.command()
@click.argument("url")
@click.option("--key", required=True, help="The key, psk_…")
@json_option
def login(url: str, key: str, *, as_json: bool) -> None:
    """Remember the server at URL and your key, if the server knows it."""
    with connect(url, key) as client:
        actor = client.whoami()
    file = remember(url.rstrip("/"), key)

    def show(_: Any) -> None:
        click.echo(
            f"Logged in to {url} as {strong(actor['name'])} ({actor['role']}); kept in {file}"
        )

    emit({"url": url, "actor": actor}, as_json=as_json, show=show)


@click.group()
def keys() -> None:
    """List, create and revoke keys."""


@keys.command(name="list")
@server_options
@json_option
def list_(url: str | None, key: str | None, *, as_json: bool) -> None:
    """List keys, without their secrets."""
    with connect(url, key) as client:
        found = client.keys()["items"]

    def show(rows: Any) -> None:
        table(
            ("id", "name", "role", "key", "created", "revoked"),
            [
                (
                    row["id"],
                    row["name"],
                    row["role"],
                    row["hint"] + "…",
                    when(row["created_us"]),
                    when(row["revoked_us"]),
                )
                for row in rows
            ],
            empty="No key.",
        )

    emit(found, as_json=as_json, show=show)


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["admin", "operator", "viewer"]),
    default="operator",
    show_default=True,
)
@server_options
@json_option
def create(name: str, role: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Make a key for NAME; it is shown this once."""
    with connect(url, key) as client:
        made = client.create_key(name, role=role)

    def show(_: Any) -> None:
        click.echo(f"{strong(made['key'])}\nKeep it: it is not shown again.")

    emit(made, as_json=as_json, show=show)


@keys.command()
@click.argument("key_id")
@server_options
@json_option
def revoke(key_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """End key KEY_ID."""
    with connect(url, key) as client:
        client.revoke_key(key_id)
    emit({"revoked": key_id}, as_json=as_json, show=lambda _: click.echo(f"Revoked {key_id}."))
