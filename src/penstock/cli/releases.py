"""Releases: cut, list, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import artifacts
from penstock.cli.connections import connect, server_options
from penstock.cli.output import coloured, emit, json_option, note, strong, table, when
from penstock.cli.projects import packed

if TYPE_CHECKING:
    from penstock.client import Client

_LOCK = "penstock.lock"


class _CutByDefault(click.Group):
    """A group that cuts a release when no other command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``penstock release .`` is ``penstock release cut .``."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["cut", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_CutByDefault)
def release() -> None:
    """Cut a release from a project, derive one from another, move one between installations.

    \b
    penstock release [PROJECT]                                cut one from a project
    penstock release --from live --set prompt.system=v3.3     derive one (more: release cut -h)
    """  # noqa: D301 - click looks for the character itself


@release.command()
@click.argument("project", default=".")
@click.option("-m", "--message", default="", help="What changed, for those who read it later.")
@click.option("--ci", is_flag=True, help="A missing or stale penstock.lock is an error.")
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option("--from", "base", help="Derive from this release: live, latest, v7, a digest.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PART=VERSION",
    help="With --from, what is replaced: prompt.system=v3.3, tools=v1.2,"
    " model.main=openai/gpt-4o-2024-08-06, model.main.temperature=0.2, policy.limits.cost=$0.20."
    " @v7 as a version means: as in release v7.",
)
@server_options
@json_option
def cut(
    project: str,
    message: str,
    base: str | None,
    settings: tuple[str, ...],
    url: str | None,
    key: str | None,
    *,
    ci: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Cut a release from the project in PROJECT; with --from, derive one of agent PROJECT.

    It pins code, prompts, tools, models, policy and dependencies under one digest. An unchanged
    project is the same release again. Nothing gets traffic: that is what deploy is for.
    """
    if settings and base is None:
        base = "live"
    with connect(url, key) as client:
        if base is None:
            done = cut_release(client, Path(project), message=message, ci=ci, strict=strict)
        else:
            done = client.derive_release(agent_of(project), settings, base=base, message=message)
            for warning in done["warnings"]:
                note(f"warning: {warning}")

    def show(_: Any) -> None:
        for made in done["releases"]:
            verb = "Cut" if made["created"] else "Unchanged:"
            click.echo(f"{verb} {strong(made['agent'])} v{made['number']}  {made['composite']}")
            click.echo(f"sha256:{made['digest']}")
        if done["created"]:
            click.echo(f"\n  penstock deploy {done['release']['agent']}      # give it traffic")

    emit(done, as_json=as_json, show=show)


def cut_release(
    client: Client, project: Path, *, message: str = "", ci: bool = False, strict: bool = False
) -> Any:
    """Send a project, say what there is to say, and write the lock that came back."""
    done = client.cut_release(packed(project), message=message, ci=ci, strict=strict)
    if done["lock"]:
        (project / _LOCK).write_text(done["lock"], encoding="utf-8")
    for warning in done["warnings"]:
        note(f"warning: {warning}")
    return done


def agent_of(project: str) -> str:
    """The agent that is meant: by its name, or by its project's directory."""
    file = Path(project) / "penstock.yaml"
    if not file.is_file():
        return project
    from penstock.rules import projects  # noqa: PLC0415 - not needed for --help

    return projects.parse(file.read_text(encoding="utf-8"), file=str(file)).agent


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


@release.command()
@click.argument("agent")
@click.argument("ref", default="live")
@server_options
@json_option
def show(agent: str, ref: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Show what release REF of AGENT pins."""
    with connect(url, key) as client:
        found = client.release(agent, ref)
    emit(found, as_json=as_json, show=_show_release)


def _show_release(found: Any) -> None:
    pinned = found["manifest"]
    click.echo(f"{strong(found['agent'])} v{found['number']}  {found['composite']}")
    click.echo(f"sha256:{found['digest']}\n")
    table(
        ("component", "digest"),
        [(kind, digest[:12]) for kind, digest in sorted(pinned["components"].items())],
        empty="",
    )
    click.echo()
    rows = [("prompt", entry["path"], entry["digest"][:12]) for entry in pinned["prompts"]]
    rows += [
        ("tool", tool["name"], f"{tool['effect']}, {tool['retry']}") for tool in pinned["tools"]
    ]
    rows += [
        ("source", source["name"], f"{source['location']} {source['version']}")
        for source in pinned["sources"]
    ]
    rows += [
        ("model", alias, ", ".join(f"{pin['provider']}/{pin['model']}" for pin in chain))
        for alias, chain in sorted(pinned["models"].items())
    ]
    rows.append(("python", pinned["python"], pinned["entrypoint"]))
    table(("part", "name", "pinned"), rows, empty="")


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


@release.command()
@click.argument("agent")
@click.argument("ref")
@server_options
@json_option
def delete(agent: str, ref: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Delete release REF of AGENT, if it has never served anybody."""
    with connect(url, key) as client:
        gone = client.delete_release(agent, ref)
    emit(gone, as_json=as_json, show=lambda _: click.echo(f"Deleted {agent} v{gone['number']}."))


release.add_command(diff)
for _command in artifacts.COMMANDS:
    release.add_command(_command)
