"""Tasks: create, watch, list, cancel; what they printed and did."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import (
    coloured,
    dollars,
    emit,
    json_option,
    note,
    seconds,
    short,
    strong,
    table,
    when,
)
from penstock.cli.streams import follow_logs, show_line, stream
from penstock.cli.waiting import settled
from penstock.domain.errors import Invalid
from penstock.domain.tasks import MultitaskStrategy

_WAIT = 600.0
_WAITING = 3  # exit status: a person is asked
_GOOD = {"completed", "queued", "running", "waiting"}


@click.group()
def task() -> None:
    """Create, watch, answer, list and cancel tasks."""


@task.command()
@click.argument("agent")
@click.argument("input", required=False)
@click.option("--session", "session_id", help="The session it belongs to; a new one without it.")
@click.option("--user", "user_id", help="Whose session a new one is.")
@click.option("-e", "--environment", default="production", show_default=True)
@click.option("--close", is_flag=True, help="Let it be the last of its session.")
@click.option("--key-once", "idempotency_key", help="The same key gives the same task.")
@click.option("--delay", type=float, default=0.0, help="Seconds to wait before it runs.")
@click.option("--at", "run_at", metavar="MOMENT", help="When it runs: 2026-12-24T18:00:00Z.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, help="Higher goes first.")
@click.option(
    "--multitask-strategy",
    type=click.Choice([strategy.value for strategy in MultitaskStrategy]),
    default=MultitaskStrategy.ENQUEUE.value,
    show_default=True,
    help="What becomes of the tasks before it, when its session is busy.",
)
@click.option("--stateless", is_flag=True, help="Keep its record, and nothing of its session.")
@click.option("--no-wait", is_flag=True, help="Return once it is in the queue.")
@server_options
@json_option
def create(
    agent: str,
    input: str | None,  # noqa: A002 - what it is called everywhere
    *,
    close: bool,
    no_wait: bool,
    url: str | None,
    key: str | None,
    as_json: bool,
    delay: float,
    **options: Any,
) -> int:
    """Give AGENT a task with INPUT: JSON, or any text. Without INPUT it is read from stdin."""
    given = _input(sys.stdin.read() if input is None else input)
    with connect(url, key) as client:
        found = client.create_task(
            agent=agent,
            input=given,
            close_session=close,
            delay_seconds=delay,
            **options,
        )
        if not no_wait:
            found = settled(client, found, _WAIT)
    emit(found, as_json=as_json, show=_show)
    return 0 if found["state"] in _GOOD else 1


@task.command()
@click.argument("task_id")
@server_options
@json_option
def get(task_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """Show TASK_ID."""
    with connect(url, key) as client:
        emit(client.task(task_id), as_json=as_json, show=_show)


@task.command()
@click.argument("task_id")
@click.option("--seconds", "wait_seconds", type=float, default=_WAIT, show_default=True)
@server_options
@json_option
def wait(
    task_id: str, wait_seconds: float, url: str | None, key: str | None, *, as_json: bool
) -> int:
    """Wait until TASK_ID has ended or waits for a person (exit status 3)."""
    with connect(url, key) as client:
        found = settled(client, client.task(task_id), wait_seconds)
    emit(found, as_json=as_json, show=_show)
    if found["state"] == "waiting":
        return _WAITING
    return 0 if found["state"] == "completed" else 1


@task.command()
@click.argument("task_id")
@click.option("--answer", help="The answer to the one thing it asks: JSON, or any text.")
@click.option("--answers", help="A JSON object: the answer by the id of what it answers.")
@click.option("--no-wait", is_flag=True, help="Return once it is in the queue.")
@server_options
@json_option
def resume(
    task_id: str,
    answer: str | None,
    answers: str | None,
    url: str | None,
    key: str | None,
    *,
    no_wait: bool,
    as_json: bool,
) -> int:
    """Answer what TASK_ID waits for; it goes on from there."""
    if (answer is None) == (answers is None):
        raise Invalid("give one of --answer and --answers", hint=f"penstock task get {task_id}")
    with connect(url, key) as client:
        if answers is not None:
            client.resume_task(task_id, answers=_object(answers))
        else:
            client.resume_task(task_id, answer=_json(answer or ""))
        found = client.task(task_id)
        if not no_wait:
            found = settled(client, found, _WAIT)
    emit(found, as_json=as_json, show=_show)
    return 0 if found["state"] in _GOOD else 1


@task.command(name="list")
@click.option("--agent")
@click.option("--session", "session_id")
@click.option("--state")
@click.option("--limit", default=20, show_default=True)
@server_options
@json_option
def list_(url: str | None, key: str | None, *, as_json: bool, **filters: Any) -> None:
    """List tasks, the newest first."""
    with connect(url, key) as client:
        found = client.tasks(**filters)["items"]

    def show(rows: Any) -> None:
        table(
            ("task", "agent", "state", "outcome", "cost", "created", "input"),
            [
                (
                    row["id"],
                    row["agent"],
                    row["state"],
                    row["outcome"],
                    dollars(row["cost_nanos"]),
                    when(row["created_us"]),
                    short(row["input"], 40),
                )
                for row in rows
            ],
            empty="No task.",
        )

    emit(found, as_json=as_json, show=show)


@task.command()
@click.argument("task_id")
@server_options
@json_option
def cancel(task_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """End TASK_ID."""
    with connect(url, key) as client:
        client.cancel_task(task_id)
        emit(client.wait_for_task(task_id, seconds=10), as_json=as_json, show=_show)


@task.command()
@click.argument("task_id")
@click.option("--force", is_flag=True, help="Cancel it first, if it has not ended.")
@server_options
@json_option
def delete(task_id: str, url: str | None, key: str | None, *, force: bool, as_json: bool) -> None:
    """Delete TASK_ID and what is recorded of it; what it left in its session's state stays."""
    with connect(url, key) as client:
        found = client.delete_task(task_id, force=force)
    gone = "is deleted" if found["deleted"] else "is deleted as soon as its attempt has ended"
    emit(found, as_json=as_json, show=lambda value: note(f"{value['id']} {gone}"))


task.add_command(stream)


@task.command()
@click.argument("task_id")
@server_options
@json_option
def events(task_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """List the durable events of TASK_ID."""
    with connect(url, key) as client:
        found = client.events(task_id)["items"]

    def show(rows: Any) -> None:
        table(
            ("seq", "epoch", "event", "data"),
            [(row["seq"], row["epoch"], row["kind"], short(row["data"], 90)) for row in rows],
            empty="No event.",
        )

    emit(found, as_json=as_json, show=show)


@task.command()
@click.argument("task_id")
@server_options
@json_option
def exchanges(task_id: str, url: str | None, key: str | None, *, as_json: bool) -> None:
    """List the model calls of TASK_ID."""
    with connect(url, key) as client:
        emit(client.exchanges(task_id)["items"], as_json=as_json, show=_show_exchanges)


@click.command()
@click.argument("task_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@server_options
@json_option
def logs(task_id: str, url: str | None, key: str | None, *, follow: bool, as_json: bool) -> int:
    """Show what TASK_ID printed, its steps and its model calls."""
    with connect(url, key) as client:
        if follow:
            return follow_logs(client, task_id, as_json=as_json)
        found = {
            "task": client.task(task_id),
            "logs": client.logs(task_id)["items"],
            "events": client.events(task_id)["items"],
            "exchanges": client.exchanges(task_id)["items"],
        }

    def show(value: Any) -> None:
        _show(value["task"])
        click.echo()
        _show_exchanges(value["exchanges"])
        for line in value["logs"]:
            show_line(line)

    emit(found, as_json=as_json, show=show)
    return 0


def _show(found: Any) -> None:
    click.echo(
        f"{strong(found['id'])}  {coloured(found['state'])}"
        + (f" ({found['outcome']})" if found["outcome"] not in (None, "ok") else "")
    )
    took = None
    if found["started_us"] and found["finished_us"]:
        took = found["finished_us"] - found["started_us"]
    click.echo(
        f"{found['agent']} {found['release'][:12]}  session {found['session_id']}"
        f"  {seconds(took)}  {dollars(found['cost_nanos'])}  steps {found['steps']}"
    )
    if found["error"]:
        click.echo(f"{found['error']['type']}: {found['error']['message']}")
        if found["error"].get("traceback"):
            click.echo(found["error"]["traceback"].rstrip())
    for wait in found["waits"]:
        click.echo(f"waits for {strong(wait['id'])}: {short(wait['value'], 200)}")
    if len(found["waits"]) == 1:
        click.echo(f"answer it with: penstock task resume {found['id']} --answer …")
    elif found["waits"]:
        click.echo(f"answer with: penstock task resume {found['id']} --answers '{{id: answer}}'")
    if found["output"] is not None:
        click.echo(json.dumps(found["output"], indent=2, ensure_ascii=False))


def _show_exchanges(rows: Any) -> None:
    table(
        ("alias", "model", "status", "tokens", "cost", "took", "tries"),
        [
            (
                row["alias"],
                f"{row['provider']}/{row['model']}" if row["model"] else "",
                f"{row['status']} {row['outcome']}" + (" (record)" if row["replayed_from"] else ""),
                f"{row['usage']['input_tokens']}+{row['usage']['output_tokens']}",
                dollars(row["cost_nanos"]),
                seconds(row["duration_us"]),
                len(row["attempts"]),
            )
            for row in rows
        ],
        empty="No model call.",
    )


def _input(text: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    if not text.strip():
        raise Invalid("the task has no input", hint="penstock task create AGENT 'some text'")
    return _json(text)


def _json(text: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text.rstrip("\n")


def _object(text: str) -> dict[str, Any]:
    found = _json(text)
    if not isinstance(found, dict):
        raise Invalid(
            "--answers is no JSON object", hint='--answers \'{"ask#1": true, "ask#2": false}\''
        )
    return found
