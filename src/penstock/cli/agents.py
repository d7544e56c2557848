"""Agents: what is deployed and how it is doing."""

from __future__ import annotations

import time
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import coloured, emit, json_option, strong, table
from penstock.cli.rollouts import show_rollout

_WATCH_SECONDS = 1.0


@click.command()
@click.argument("agent", required=False)
@click.option("--watch", is_flag=True, help="Look again every second.")
@server_options
@json_option
def status(
    agent: str | None, url: str | None, key: str | None, *, watch: bool, as_json: bool
) -> None:
    """Show what is deployed: releases, rollouts, evidence, tasks.

    With AGENT, everything about that one.
    """
    with connect(url, key) as client:
        while True:
            found = client.agent(agent) if agent else client.agents()["items"]
            if watch and not as_json:
                click.clear()
            emit(found, as_json=as_json, show=_show_one if agent else _show_all)
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)


def _show_all(agents: Any) -> None:
    rows = []
    for agent in agents:
        for place in agent["deployments"] or [None]:
            split, phase = "", "not deployed"
            if place is not None:
                split = f"v{place['stable']['number']}"
                phase = "stable"
            if place is not None and place["rollout"]:
                rollout = place["rollout"]["rollout"]
                split += f" → v{place['candidate']['number']} ({rollout['weight']:.0%})"
                phase = rollout["phase"]
            environment = place["environment"] if place else ""
            rows.append((agent["name"], environment, split, phase, _tasks(agent["tasks"])))
    table(
        ("agent", "environment", "releases", "state", "tasks"),
        rows,
        empty="No agent yet: penstock up PROJECT, or penstock release and penstock deploy.",
    )


def _show_one(agent: Any) -> None:
    click.echo(f"{strong(agent['name'])}  tasks: {_tasks(agent['tasks']) or 'none'}")
    for place in agent["deployments"]:
        stable = place["stable"]
        click.echo(
            f"\n{strong(place['environment'])}: v{stable['number']} {coloured('stable')}"
            f"  {stable['composite']}{_start(place, stable)}"
        )
        if place["rollout"]:
            candidate = place["candidate"]
            click.echo(
                f"candidate: v{candidate['number']}  {candidate['composite']}"
                f"{_start(place, candidate)}"
            )
            show_rollout(place["rollout"])


def _start(place: Any, release: Any) -> str:
    """How a release's attempts get their process, where the server has it ready."""
    start = place.get("starts", {}).get(release["digest"])
    if start is None:
        return ""
    why = f": {start['why']}" if start["why"] else ""
    return f"  ({start['mode']}{why})"


def _tasks(counts: Any) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
