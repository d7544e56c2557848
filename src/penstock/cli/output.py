"""What commands print: tables on a terminal, plain columns in a pipe, JSON when asked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from penstock.domain.errors import BuildFailed, PenstockError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_COLOURS = {
    "completed": "green", "live": "green", "proven": "green",
    "failed": "red", "dead_lettered": "red", "rolled_back": "red", "rolling_back": "red",
    "running": "cyan", "ramping": "cyan", "holding": "yellow", "queued": "yellow",
    "waiting": "yellow",
}  # fmt: skip


def emit(value: Any, *, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print ``value`` as JSON, or as ``show`` does it."""
    if as_json:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        show(value)


def is_plain() -> bool:
    """Whether output goes without colour and without drawing."""
    return not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows below headings."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if is_plain():
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        for row in (list(headings), *cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo(line.rstrip())
        return
    from rich.console import Console  # noqa: PLC0415 - only on a terminal
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console().print(drawn)


def strong(text: str) -> str:
    """A text that stands out on a terminal."""
    return text if is_plain() else click.style(text, bold=True)


def coloured(word: str) -> str:
    """A state in its colour, on a terminal."""
    return word if is_plain() else click.style(word, fg=_COLOURS.get(word))


def note(text: str) -> None:
    """Say something beside the result: on stderr, so that a pipe gets the result alone."""
    click.echo(text, err=True)


def show_error(error: PenstockError, *, as_json: bool) -> None:
    """Say what went wrong, where, and what to do."""
    output = error.output if isinstance(error, BuildFailed) else ""
    if as_json:
        said: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        if output:
            said["output"] = output
        click.echo(json.dumps({"error": said}, indent=2, ensure_ascii=False))
        return
    fancy = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(
        (click.style("error: ", fg="red", bold=True) if fancy else "error: ") + error.message,
        err=True,
    )
    if output:
        click.echo("\n" + output.rstrip() + "\n", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def when(us: int | None) -> str:
    """A moment, in the reader's own time zone."""
    if us is None:
        return ""
    moment = datetime.fromtimestamp(us / 1_000_000, UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def dollars(nanos: int) -> str:
    """An amount of money."""
    amount = nanos / 1_000_000_000
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.6f}".rstrip("0").rstrip(".")


def seconds(us: int | None) -> str:
    """A duration."""
    if us is None:
        return ""
    milliseconds = us / 1000
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"  # noqa: PLR2004 - a second


def short(value: Any, width: int = 60) -> str:
    """JSON in one line of limited width."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
