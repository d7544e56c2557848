"""The keys that sign releases: list, show, rotate, trust, revoke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, strong, table, when
from penstock.domain.errors import Invalid


@click.group()
def signing() -> None:
    """List, rotate and trust the keys that sign releases."""


@signing.command(name="list")
@server_options
@json_option
def list_(url: str | None, key: str | None, *, as_json: bool) -> None:
    """List the keys that are known; the active one signs."""
    with connect(url, key) as client:
        found = client.signing_keys()["items"]

    def show(rows: Any) -> None:
        table(
            ("key", "state", "name", "since"),
            [(row["id"], row["state"], row["name"], when(row["changed_us"])) for row in rows],
            empty="No key.",
        )

    emit(found, as_json=as_json, show=show)


@signing.command()
@server_options
@json_option
def show(url: str | None, key: str | None, *, as_json: bool) -> None:
    """Print the public key that signs now, for others to trust."""
    with connect(url, key) as client:
        found = client.signing_keys()["items"]
    active = next(row for row in found if row["state"] == "active")
    emit(active, as_json=as_json, show=lambda row: click.echo(row["public_pem"].rstrip()))


@signing.command()
@server_options
@json_option
def rotate(url: str | None, key: str | None, *, as_json: bool) -> None:
    """Sign with a new key from now on; what the old one signed stays valid."""
    with connect(url, key) as client:
        made = client.rotate_signing_key()
    emit(made, as_json=as_json, show=lambda _: click.echo(f"Signing with {strong(made['id'])}."))


@signing.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Whose it is; the file's name, if it is not given.")
@server_options
@json_option
def trust(file: Path, name: str | None, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Believe the public key in FILE: releases it signed may be imported."""
    try:
        pem = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}") from None
    with connect(url, key) as client:
        known = client.trust_signing_key(pem, name or file.stem)
    emit(known, as_json=as_json, show=lambda _: click.echo(f"Trusting {strong(known['id'])}."))


@signing.command()
@click.argument("key_id")
@click.confirmation_option(prompt="Releases that only this key vouches for stop loading. Sure?")
@server_options
@json_option
def revoke(key_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Believe nothing that KEY_ID has signed."""
    with connect(url, key) as client:
        known = client.revoke_signing_key(key_id)
    emit(known, as_json=as_json, show=lambda _: click.echo(f"Revoked {known['id']}."))
