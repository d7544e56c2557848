"""Releases: cut, list, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import coloured, emit, json_option, note, strong, table, when
from penstock.cli.projects import packed
from penstock.client import Client

_LOCK = "penstock.lock"


@click.command()
@click.argument("project", type=click.Path(path_type=Path), default=".")
@click.option("-m", "--message", default="", help="What changed, for those who read it later.")
@click.option("--ci", is_flag=True, help="A missing or stale penstock.lock is an error.")
@server_options
@json_option
def release(
    project: Path, message: str, *, ci: bool, url: str | None, key: str | None, as_json: bool
) -> None:
    """Cut a release from the project in PROJECT.

    It pins code, prompts, tools, models, policy and dependencies under one digest. An unchanged
    project is the same release again. Nothing gets traffic: that is what deploy is for.
    """
    with connect(url, key) as client:
        cut = cut_release(client, project, message=message, ci=ci)

    def show(_: Any) -> None:
        made = cut["release"]
        verb = "Cut" if cut["created"] else "Unchanged:"
        click.echo(f"{verb} {strong(made['agent'])} v{made['number']}  {made['composite']}")
        click.echo(f"sha256:{made['digest']}")
        if cut["created"]:
            click.echo(f"\n  penstock deploy {made['agent']}      # give it traffic")

    emit(cut, as_json=as_json, show=show)


def cut_release(client: Client, project: Path, *, message: str = "", ci: bool = False) -> Any:
    """Send a project, say what there is to say, and write the lock that came back."""
    cut = client.cut_release(packed(project), message=message, ci=ci)
    if cut["lock"]:
        (project / _LOCK).write_text(cut["lock"], encoding="utf-8")
    for warning in cut["warnings"]:
        note(f"warning: {warning}")
    return cut


@click.command()
@click.argument("agent")
@click.option("--limit", default=20, show_default=True)
@server_options
@json_option
def releases(agent: str, limit: int, url: str | None, key: str | None, *, as_json: bool) -> None:
    """List AGENT's releases, the newest first."""
    with connect(url, key) as client:
        found = client.releases(agent, limit=limit)["items"]

    def show(rows: Any) -> None:
        table(
            ("release", "composite", "digest", "cut", "by", "message"),
            [
                (
                    f"v{row['number']}",
                    row["composite"],
                    row["digest"][:12],
                    when(row["created_us"]),
                    row["created_by"],
                    row["message"],
                )
                for row in rows
            ],
            empty="No release yet: penstock release",
        )

    emit(found, as_json=as_json, show=show)


@click.command()
@click.argument("agent")
@click.argument("before")
@click.argument("after", default="latest")
@server_options
@json_option
def diff(
    agent: str, before: str, after: str, url: str | None, key: str | None, *, as_json: bool
) -> None:
    """Show what changed in AGENT from release BEFORE to AFTER.

    A release is named by its number (v7), the beginning of its digest, latest, live, or its
    composite name.
    """
    with connect(url, key) as client:
        changes = client.diff_releases(agent, before, after)["items"]

    def show(rows: Any) -> None:
        if not rows:
            click.echo("The same.")
        for row in rows:
            what = row["difference"]
            state = "added" if what["before"] is None else "changed"
            state = "removed" if what["after"] is None else state
            click.echo(f"{strong(what['component'])}  {what['name']}  {coloured(state)}")
            if row["text"]:
                click.echo(row["text"].rstrip())
            elif not _is_digest(what["before"]) and not _is_digest(what["after"]):
                click.echo(f"- {what['before']}\n+ {what['after']}")

    emit(changes, as_json=as_json, show=show)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64  # noqa: PLR2004 - sha256 in hex
