"""Rollouts: deploy, promote, abort, pause, resume, roll back, show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml

from penstock.cli.connections import connect, server_options
from penstock.cli.output import coloured, emit, json_option, strong, table
from penstock.domain.errors import Invalid

environment_option = click.option(
    "-e", "--environment", default="production", show_default=True, help="Where."
)


@click.command()
@click.argument("agent")
@click.argument("ref", default="latest")
@environment_option
@click.option(
    "--strategy", type=click.Choice(["canary", "all_at_once"]), help="How it gets traffic."
)
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="A plan as JSON or YAML."
)
@server_options
@json_option
def deploy(
    agent: str,
    ref: str,
    environment: str,
    strategy: str | None,
    plan_file: Path | None,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Give release REF of AGENT traffic.

    The first release of an agent gets all of it. Any later one gets a little, then more, while it
    is compared with the one that serves: it is promoted by proof, or rolled back.
    """
    plan = None if plan_file is None else _plan(plan_file)
    with connect(url, key) as client:
        done = client.deploy(agent, ref=ref, environment=environment, strategy=strategy, plan=plan)

    def show(_: Any) -> None:
        rollout = done["rollout"]
        click.echo(done["note"])
        if rollout is not None and rollout["ended_us"] is None:
            click.echo(f"\n  penstock status {agent} --watch")

    emit(done, as_json=as_json, show=show)


def _changing(verb: str, text: str) -> Callable[..., None]:
    """A command that asks something of the rollout that is on."""

    def change(
        agent: str, environment: str, url: str | None, key: str | None, *, as_json: bool
    ) -> None:
        with connect(url, key) as client:
            rollout = client.change_rollout(agent, verb, environment=environment)
        emit(rollout, as_json=as_json, show=_show_change)

    change.__doc__ = text
    command = click.command(name=verb)
    for option in (json_option, server_options, environment_option, click.argument("agent")):
        change = option(change)
    return command(change)


promote = _changing("promote", "Make AGENT's candidate stable now, proven or not.")
abort = _changing("abort", "End AGENT's rollout: stable gets every new session.")
pause = _changing("pause", "Keep AGENT's rollout at its present share until resume.")
resume = _changing("resume", "Let AGENT's paused rollout go on.")


@click.command()
@click.argument("agent")
@click.option("--to", help="Where to; without it, to what was before.")
@click.option(
    "--component",
    metavar="PART",
    help="Only this part: prompt, tools, model, code, policy, or one prompt (prompt.system).",
)
@environment_option
@server_options
@json_option
def rollback(
    agent: str,
    to: str | None,
    component: str | None,
    environment: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Go back: end AGENT's rollout, or make an earlier release stable at once.

    With --component, a new release is made that differs from the stable one in that part only. If
    every part of it has served within the rollback window it is stable at once, else it is rolled
    out like any other.
    """
    with connect(url, key) as client:
        if component is not None:
            done = client.roll_back_component(agent, component, environment=environment, to=to)
            emit(done, as_json=as_json, show=lambda _: click.echo(done["note"]))
            return
        done = client.roll_back(agent, environment=environment, to=to)
    emit(done, as_json=as_json, show=_show_change)


@click.command()
@click.argument("rollout_id")
@server_options
@json_option
def rollout(rollout_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Show ROLLOUT_ID with its evidence and its story.

    An agent's name shows its latest rollout.
    """
    with connect(url, key) as client:
        if not rollout_id.startswith("rol_"):
            found = client.rollouts(rollout_id, limit=1)["items"]
            if not found:
                raise Invalid(f"{rollout_id} has had no rollout", hint="penstock deploy")
            rollout_id = found[0]["id"]
        view = client.rollout(rollout_id)
    emit(view, as_json=as_json, show=show_rollout)


def show_rollout(view: Any) -> None:
    """Print a rollout: where it is, its evidence, its story."""
    found = view["rollout"]
    hold = f": {found['hold']}" if found["hold"] else ""
    click.echo(
        f"{strong(found['id'])}  {coloured(found['phase'])}{hold}  {found['weight']:.0%} of new"
        f" sessions to {found['candidate'][:12]}, the rest to {found['stable'][:12]}"
    )
    counts = view["assigned"]
    click.echo(
        f"sessions: {counts['candidate']} candidate, {counts['stable']} stable;"
        f" {view['lag']} not judged yet"
    )
    table(
        ("metric", "question", "evidence", "needed", "candidate", "stable", "difference", "95 %"),
        [
            (
                test["metric"],
                test["question"],
                f"{test['e']:.3g}",
                f"{test['threshold']:.3g}",
                _mean(test["candidate_mean"]),
                _mean(test["stable_mean"]),
                f"{test['difference']:+.3f}",
                f"[{test['low']:+.3f}, {test['high']:+.3f}]",
            )
            for test in view["tests"]
        ],
        empty="No evidence is gathered: nothing to compare with.",
    )
    for paragraph in view["explanation"]:
        click.echo(f"\n{paragraph}")


def _show_change(rollout: Any) -> None:
    click.echo(
        f"{strong(rollout['agent'])} in {rollout['environment']}: {coloured(rollout['phase'])}."
        f" {rollout['reason']}"
    )


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plan(file: Path) -> dict[str, Any]:
    try:
        plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"the plan {file} cannot be read: {error}") from None
    if not isinstance(plan, dict):
        raise Invalid(f"the plan {file} is no mapping of keys to values")
    return plan
