"""Talk to an agent."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import note, strong
from penstock.client import Client


@click.command()
@click.argument("agent")
@click.option("-e", "--environment", default="production", show_default=True)
@click.option("--session", "session_id", help="Go on with this session.")
@click.option("--user", "user_id", help="As whom.")
@server_options
def chat(
    agent: str,
    environment: str,
    session_id: str | None,
    user_id: str | None,
    url: str | None,
    key: str | None,
) -> None:
    """Talk to AGENT, line by line, in one session. End with Ctrl-D.

    Each line is the input of a task: a text, or JSON.
    """
    interactive = sys.stdin.isatty()
    with connect(url, key) as client:
        begun = session_id
        if begun is None:
            session = client.create_session(agent, environment=environment, user_id=user_id)
            begun = session["id"]
            note(f"session {begun} on release {session['release'][:12]}")
        try:
            while (line := _line(interactive=interactive)) is not None:
                if line.strip():
                    _turn(client, agent, begun, line)
        finally:
            if session_id is None:
                client.close_session(begun)


def _line(*, interactive: bool) -> str | None:
    """The next line, or nothing at the end of the input."""
    if not interactive:
        return sys.stdin.readline() or None
    try:
        return input("> ")
    except EOFError:
        click.echo()
        return None


def _json(line: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    try:
        return json.loads(line)
    except ValueError:
        return line.rstrip("\n")


def _turn(client: Client, agent: str, session_id: str, line: str) -> None:
    created = client.create_task(agent=agent, input=_json(line), session_id=session_id)
    said = False
    for event in client.stream(created["id"]):
        if event["event"] == "delta" and event["data"]["mode"] == "messages":
            text = event["data"]["data"]
            if isinstance(text, dict):
                text = text.get("content") or ""
            if isinstance(text, str):
                click.echo(text, nl=False)
                said = True
        elif event["event"] == "waiting":
            _ask(client, created["id"], event["data"]["data"]["waits"])
        elif event["event"] == "finished":
            _answer(event["data"]["data"], said=said)


def _ask(client: Client, task_id: str, waits: list[dict[str, Any]]) -> None:
    """Put what the agent asks to the person, and the next lines to the agent."""
    answers = {}
    for wait in waits:
        click.echo(f"? {_text(wait['value'])}")
        if (line := _line(interactive=sys.stdin.isatty())) is None:
            note(f"nobody answers: penstock task resume {task_id}")
            raise click.exceptions.Exit(1)
        answers[wait["id"]] = _json(line)
    client.resume_task(task_id, answers=answers)


def _answer(data: Any, *, said: bool) -> None:
    if data["state"] != "completed":
        error = data.get("error") or {}
        note(f"{data['state']}: {error.get('type', '')} {error.get('message', '')}")
    elif said:
        click.echo()
    else:
        click.echo(_text(data.get("output")))


def _text(output: Any) -> str:
    """What an agent answered: the last message of a graph's state, a text, or JSON."""
    if isinstance(output, dict):
        for name in ("answer", "output", "text", "content"):
            if isinstance(output.get(name), str):
                return str(output[name])
        messages = output.get("messages")
        if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
            return _text(messages[-1])
    return output if isinstance(output, str) else strong(json.dumps(output, ensure_ascii=False))
