"""Environments: what staging or production adds to an agent's releases."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, strong, table
from penstock.domain.errors import Invalid


@click.group()
def environments() -> None:
    """Show and set what an environment adds to an agent's releases.

    Variables reach the agent's process and change no release. Overlays change behaviour: a deploy
    there makes a derived release, with a digest of its own.
    """


@environments.command()
@click.argument("agent")
@click.argument("environment", required=False)
@server_options
@json_option
def show(
    agent: str, environment: str | None, url: str | None, key: str | None, *, as_json: bool
) -> None:
    """Show what is added."""
    with connect(url, key) as client:
        if environment is None:
            found = client.environments(agent)["items"]
        else:
            found = [client.environment(agent, environment)]
    emit(found, as_json=as_json, show=_show)


@environments.command(name="set")
@click.argument("agent")
@click.argument("environment")
@click.argument("variables", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--overlay",
    multiple=True,
    metavar="PART=VERSION",
    help="What the releases there differ in: model.main=simulated/small, policy.limits.cost=$0.01",
)
@server_options
@json_option
def set_(
    agent: str,
    environment: str,
    variables: tuple[str, ...],
    overlay: tuple[str, ...],
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Add to ENVIRONMENT of AGENT; an empty value takes away.

    A value env:NAME or file:/path is the reference of a secret: it is looked up on the server when
    the agent's process starts, and kept nowhere.
    """
    with connect(url, key) as client:
        changed = client.change_environment(
            agent, environment, overlay=_pairs(overlay), variables=_pairs(variables)
        )
    emit([changed], as_json=as_json, show=_show)


def _pairs(given: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise Invalid(f"{item!r} is not NAME=VALUE", hint="NAME= takes it away.")
        found[name] = value or None
    return found


def _show(found: Any) -> None:
    for item in found:
        click.echo(f"{strong(item['environment'])}  revision {item['revision']}")
        rows = [("overlay", name, value) for name, value in sorted(item["overlay"].items())]
        rows += [("variable", name, value) for name, value in sorted(item["variables"].items())]
        table(("", "name", "value"), rows, empty="  adds nothing")
    if not found:
        click.echo("No environment adds anything.")
