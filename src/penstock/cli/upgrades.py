"""Upgrades: what a start of this program would do to the data that are there."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import click

from penstock.actions.upgrades import Standing, standing
from penstock.cli.backups import data_directory, store_options
from penstock.cli.output import emit, json_option, strong

_UNSAFE = 1


@click.command()
@click.option("--check", is_flag=True, help="Look; change nothing.")
@store_options
@json_option
def upgrade(home: Path | None, database_url: str | None, *, check: bool, as_json: bool) -> int:
    """Say whether this version of Penstock can be started on the data that are there.

    Install the new version beside the old one, run this with it, and start it when this says that
    it is safe (status 0). Otherwise it says what to do first (status 1). Nothing is changed.
    """
    if not check:
        raise click.UsageError("a start of a new version upgrades the data; look first: --check")
    found = asyncio.run(standing(home=data_directory(home), url=database_url))
    obstacle = _obstacle(found)
    said = {**dataclasses.asdict(found), "safe": obstacle is None, "first": obstacle}
    emit(said, as_json=as_json, show=lambda _: _show(found, obstacle))
    return 0 if obstacle is None else _UNSAFE


def _obstacle(found: Standing) -> str | None:
    """What must be done before this version is started, if there is something."""
    if found.schema > found.newest:
        return (
            f"These data are of a newer Penstock (schema {found.schema}; this one knows"
            f" {found.newest}). Install that version, or a later one."
        )
    # The disk of a database server is not ours to measure.
    free = found.database_bytes if found.free_bytes is None else found.free_bytes
    if found.schema and found.pending and free < found.database_bytes:
        return (
            f"A migration may need as much space again as the database has"
            f" ({_size(found.database_bytes)}), and {_size(free)} are free. Make room on its disk."
        )
    return None


def _show(found: Standing, obstacle: str | None) -> None:
    rows = [
        ("database", f"{found.database}, {_size(found.database_bytes)}"),
        ("schema there", str(found.schema) if found.schema else "none yet"),
        ("schema here", str(found.newest)),
        ("migrations", ", ".join(found.pending) or "none to apply"),
        ("tasks", f"{found.running} running, {found.queued} queued"),
        ("rollouts", ", ".join(found.rollouts) or "none under way"),
        ("servers", ", ".join(found.servers) or "none has it open"),
    ]
    if found.free_bytes is not None:
        rows.append(("free disk", _size(found.free_bytes)))
    for name, value in rows:
        click.echo(f"{name:13}{value}")
    click.echo("\n" + strong("Safe." if obstacle is None else f"Not yet. {obstacle}"))
    if obstacle is None:
        for step in _steps(found):
            click.echo(f"  {step}")


def _steps(found: Standing) -> list[str]:
    """How to go about it, for what is there."""
    steps = []
    if found.pending and found.schema:
        steps.append("Make a backup first: a migrated database is not migrated back.")
    if found.servers:
        steps.append("Stop every server; each drains and hands its tasks back.")
    if found.running or found.queued:
        steps.append("Tasks that have not ended go on behind their last step.")
    if found.rollouts:
        steps.append("Rollouts go on where they are, with the evidence they have.")
    return [*steps, "Start this version: penstock up"]


def _size(count: int) -> str:
    amount: Any = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":  # noqa: PLR2004 - the next unit
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
