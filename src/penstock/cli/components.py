"""Component versions: list, show and compare them."""

from __future__ import annotations

import json
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, strong, table, when

_KINDS = click.Choice(["prompt", "tools", "model", "code", "policy"])


@click.command()
@click.argument("agent")
@click.argument("kind", type=_KINDS, required=False)
@click.option("--name", help="Of one prompt or alias.")
@click.option("--show", "shown", metavar="VERSION", help="Print this version of KIND.")
@click.option("--diff", "compared", nargs=2, metavar="BEFORE AFTER", help="Compare two of KIND.")
@click.option("--limit", default=50, show_default=True)
@server_options
@json_option
def components(
    agent: str,
    kind: str | None,
    name: str | None,
    shown: str | None,
    compared: tuple[str, str] | None,
    limit: int,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """List the versions of AGENT's parts: of all of them, or of one KIND."""
    if (shown or compared) and kind is None:
        raise click.UsageError("name the KIND: prompt, tools, model, code or policy")
    with connect(url, key) as client:
        if shown is not None:
            found = client.component(agent, str(kind), name or "", shown)
            emit(found, as_json=as_json, show=_show)
        elif compared is not None:
            found = client.diff_components(agent, str(kind), name or "", *compared)
            emit(found, as_json=as_json, show=_show_diff)
        else:
            found = client.components(agent, kind=kind, name=name, limit=limit)["items"]
            emit(found, as_json=as_json, show=_show_list)


def _show_list(rows: Any) -> None:
    table(
        ("kind", "name", "version", "labels", "published", "by", "digest"),
        [
            (
                row["kind"],
                row["name"],
                row["label"],
                ", ".join(row["labels"]),
                when(row["created_us"]),
                row["created_by"],
                row["digest"][:12],
            )
            for row in rows
        ],
        empty="Nothing was published yet: penstock release",
    )


def _show(found: Any) -> None:
    made = found["component"]
    title = " ".join(word for word in (made["kind"], made["name"], made["label"]) if word)
    click.echo(f"{strong(title)}  sha256:{made['digest']}")
    if found["text"] is not None:
        click.echo(found["text"])
    else:
        click.echo(json.dumps(found["content"], indent=2, ensure_ascii=False))


def _show_diff(found: Any) -> None:
    if found["text"] is not None:
        click.echo(found["text"].rstrip() or "The same.")
        return
    for change in found["changes"]:
        before, after = (
            json.dumps(change[side], ensure_ascii=False) for side in ("before", "after")
        )
        click.echo(f"{strong(change['path'])}\n- {before}\n+ {after}")
    if not found["changes"]:
        click.echo("The same.")
