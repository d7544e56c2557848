"""Prompts: publish, list, show, compare and label them without touching code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, note, strong, table, when
from penstock.domain.errors import Invalid

_SUFFIX = ".prompt"
_FORMATS = click.Choice(["penstock", "dotprompt", "prompty"])


@click.group()
def prompt() -> None:
    """Publish prompts without touching code."""


@prompt.command()
@click.argument("agent")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="Of the prompt; the file's, if it is not given.")
@click.option("-m", "--message", default="", help="What changed.")
@click.option("--tag", "tags", multiple=True, help="Beside those in the front matter.")
@click.option("--label", "labels", multiple=True, help="Point this label at it, too.")
@click.option("--expect", metavar="VERSION", help="Refuse if another version came meanwhile.")
@click.option(
    "--format", "form", type=_FORMATS, default="penstock", show_default=True, help="Of the file."
)
@server_options
@json_option
def push(
    agent: str,
    file: Path,
    name: str | None,
    message: str,
    tags: tuple[str, ...],
    labels: tuple[str, ...],
    expect: str | None,
    form: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Publish the prompt in FILE (- is stdin) for AGENT.

    The same text is the same version again. To have it used, make a release with it.
    """
    name = name or (None if str(file) == "-" else file.name.split(".")[0])
    if name is None:
        raise Invalid("stdin has no name", hint="Say how the prompt is called: --name system")
    text = _imported(_read(file), form=form, name=name)
    with connect(url, key) as client:
        done = client.push_prompt(
            agent, name, text, message=message, tags=tags, labels=labels, expect=expect
        )

    def show(_: Any) -> None:
        made = done["component"]
        verb = "Published" if done["created"] else "Unchanged:"
        click.echo(f"{verb} {strong(made['name'])} {made['label']}  {made['digest'][:12]}")
        for label in done["moved"]:
            click.echo(f"{label} points at {made['label']}")
        click.echo(f"\n  penstock release {agent} --from live --set prompt.{name}={made['label']}")

    emit(done, as_json=as_json, show=show)


@prompt.command(name="list")
@click.argument("agent")
@click.argument("name", required=False)
@click.option("--limit", default=50, show_default=True)
@server_options
@json_option
def list_(
    agent: str, name: str | None, limit: int, url: str | None, key: str | None, *, as_json: bool
) -> None:
    """List AGENT's prompts, or the versions of prompt NAME."""
    with connect(url, key) as client:
        if name is None:
            found = client.prompts(agent)["items"]
        else:
            found = client.components(agent, kind="prompt", name=name, limit=limit)["items"]

    def show(rows: Any) -> None:
        table(
            ("prompt", "version", "labels", "tags", "published", "by", "digest", "message"),
            [
                (
                    row["name"],
                    row["label"],
                    ", ".join(row["labels"]),
                    ", ".join(row["tags"]),
                    when(row["created_us"]),
                    row["created_by"],
                    row["digest"][:12],
                    row["message"],
                )
                for row in rows
            ],
            empty="No prompt yet: penstock prompt push",
        )

    emit(found, as_json=as_json, show=show)


@prompt.command(name="show")
@click.argument("agent")
@click.argument("name")
@click.argument("version", default="latest")
@click.option(
    "--format", "form", type=_FORMATS, default="penstock", show_default=True, help="To print."
)
@server_options
@json_option
def show_(
    agent: str,
    name: str,
    version: str,
    form: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Print prompt NAME of AGENT, as the file that was published."""
    with connect(url, key) as client:
        found = client.component(agent, "prompt", name, version)

    def show(_: Any) -> None:
        sys.stdout.write(_exported(found["text"], form=form, name=name))
        used = ", ".join(f"v{number}" for number in found["releases"]) or "no release"
        note(f"{name} {found['component']['label']}, part of {used}")

    emit(found, as_json=as_json, show=show)


@prompt.command(name="diff")
@click.argument("agent")
@click.argument("name")
@click.argument("before")
@click.argument("after", default="latest")
@server_options
@json_option
def diff_(
    agent: str,
    name: str,
    before: str,
    after: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Compare two versions of prompt NAME of AGENT."""
    with connect(url, key) as client:
        found = client.diff_components(agent, "prompt", name, before, after)
    emit(found, as_json=as_json, show=lambda _: click.echo(found["text"].rstrip() or "The same."))


@prompt.command(name="label")
@click.argument("agent")
@click.argument("name")
@click.argument("label", required=False)
@click.argument("version", required=False)
@click.option("-m", "--message", default="", help="Why.")
@click.option("--expect", metavar="VERSION", help="Refuse if it points elsewhere by now.")
@click.option("--remove", is_flag=True, help="Take LABEL away.")
@click.option("--protect/--unprotect", default=None, help="Only administrators may move LABEL.")
@server_options
@json_option
def label_(
    agent: str,
    name: str,
    label: str | None,
    version: str | None,
    message: str,
    expect: str | None,
    url: str | None,
    key: str | None,
    *,
    remove: bool,
    protect: bool | None,
    as_json: bool,
) -> None:
    """Point LABEL of prompt NAME at VERSION; without LABEL, show where labels point and have been.

    A running release is not touched by a label that moves: it holds the text itself.
    """
    with connect(url, key) as client:
        if label is None:
            emit(client.labels(agent, "prompt", name), as_json=as_json, show=_show_labels)
            return
        if protect is not None:
            done = client.protect_label(agent, label, protected=protect)
        elif remove:
            done = client.remove_label(agent, "prompt", name, label)
        elif version is None:
            raise Invalid(
                "which version?", hint=f"penstock prompt label {agent} {name} {label} v1.2"
            )
        else:
            done = client.move_label(
                agent, "prompt", name, label, to=version, message=message, expect=expect
            )
    emit(done, as_json=as_json, show=lambda _: click.echo(f"{label}: done."))


@prompt.command()
@click.argument("agent")
@click.argument("name")
@click.argument("version")
@server_options
@json_option
def delete(
    agent: str, name: str, version: str, url: str | None, key: str | None, *, as_json: bool
) -> None:
    """Take VERSION of prompt NAME out of the registry, unless a release is made of it."""
    with connect(url, key) as client:
        done = client.delete_component(agent, "prompt", name, version)
    emit(done, as_json=as_json, show=lambda _: click.echo(f"Deleted {name} {done['label']}."))


def _show_labels(found: Any) -> None:
    table(
        ("label", "digest", "moved", "by", ""),
        [
            (
                row["label"],
                row["digest"][:12],
                when(row["moved_us"]),
                row["moved_by"],
                "protected" if row["label"] in found["protected"] else "",
            )
            for row in found["items"]
        ],
        empty="No label.",
    )
    for move in found["moves"]:
        before, after = ((move[side] or "nothing")[:12] for side in ("before", "after"))
        said = f"{move['moved_by']}: {move['message']}".removesuffix(": ")
        click.echo(f"{when(move['moved_us'])}  {move['label']}  {before} -> {after}  {said}")


def _read(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode()
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is not UTF-8: {error}") from None


def _imported(text: str, *, form: str, name: str) -> str:
    """A file of another format as one of ours; what it cannot say is said."""
    if form == "penstock":
        return text
    from penstock.rules import foreign_prompts  # noqa: PLC0415 - only for these

    reader = {
        "dotprompt": foreign_prompts.read_dotprompt,
        "prompty": foreign_prompts.read_prompty,
    }[form]
    return _said(reader(text, name=name))


def _exported(text: str, *, form: str, name: str) -> str:
    if form == "penstock":
        return text
    from penstock.rules import foreign_prompts  # noqa: PLC0415 - only for these

    writer = {
        "dotprompt": foreign_prompts.write_dotprompt,
        "prompty": foreign_prompts.write_prompty,
    }[form]
    return _said(writer(text, name=name))


def _said(converted: Any) -> str:
    for loss in converted.losses:
        note(f"note: {loss}")
    text: str = converted.text
    return text
