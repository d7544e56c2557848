"""Follow a task in the terminal: its stream, or what it prints."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import coloured, json_option, note, short, strong
from penstock.client import Client

_LOOK_SECONDS = 1.0  # attempts commit what they print once a second
_ENDED = ("completed", "failed", "cancelled", "dead_lettered")


@click.command()
@click.argument("task_id")
@click.option("--after", default=0, help="Begin behind this event.")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    help="Only this of what it streams: updates, messages, custom, values, debug, events."
    " May be given several times, or with commas.",
)
@server_options
@json_option
def stream(
    task_id: str,
    after: int,
    modes: tuple[str, ...],
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Follow TASK_ID: events and tokens as they come. With --json, one object a line.

    It goes on over broken connections and restarts of the server, and ends when the task has.
    """
    chosen = [name for mode in modes for name in mode.split(",") if name]
    with connect(url, key) as client:
        for event in client.stream(task_id, after=after, modes=chosen):
            if as_json:
                click.echo(json.dumps(event, ensure_ascii=False))
            else:
                _show(event)


def follow_logs(client: Client, task_id: str, *, as_json: bool) -> int:
    """Print what a task prints, as it does, until it has ended; the exit status."""
    after = None
    while True:
        state = client.task(task_id)["state"]  # before the lines: the last ones come with the end
        for line in client.logs(task_id, after=after)["items"]:
            after = f"{line['epoch']}.{line['number']}"
            if as_json:
                click.echo(json.dumps(line, ensure_ascii=False))
            else:
                show_line(line)
        if state in _ENDED:
            if not as_json:
                note(f"{task_id} {coloured(state)}")
            return 0 if state == "completed" else 1
        time.sleep(_LOOK_SECONDS)


def show_line(line: Any) -> None:
    """What was printed, with a mark if it went to stderr."""
    mark = "" if line["stream"] == "stdout" else "! "
    for text in line["text"].splitlines():
        click.echo(f"{mark}{text}")


def _show(event: Any) -> None:
    name, data = event["event"], event["data"]
    if name == "delta":
        click.echo(_text(data["data"]), nl=False)
    elif name == "dropped":
        note(f"{data['count']} items came too fast and were dropped")
    elif name == "end":
        click.echo(f"      {strong(name)}  {coloured(data['state'])}")
    else:
        path = "".join(f"{part.partition(':')[0]}/" for part in data["namespace"])
        click.echo(f"{event['id']:>4}  {strong(path + name)}  {short(data['data'], 90)}")


def _text(data: Any) -> str:
    """The text of an ephemeral item."""
    if isinstance(data, dict) and isinstance(data.get("content"), str):
        return str(data["content"])
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False) + "\n"
