"""Garbage: what nothing needs any more."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option


@click.command()
@click.option("--remove", is_flag=True, help="Remove it; without this, only look.")
@server_options
@json_option
def gc(url: str | None, key: str | None, *, remove: bool, as_json: bool) -> None:
    """Find contents that no release, prompt or record refers to, and remove them with --remove."""
    with connect(url, key) as client:
        found = client.garbage(remove=remove)

    def show(_: Any) -> None:
        verb = "Removed" if remove else "Could remove"
        click.echo(f"{verb} {found['contents']} contents, {found['size']} bytes.")

    emit(found, as_json=as_json, show=show)
