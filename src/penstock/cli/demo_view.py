"""What the demo shows while it runs: a picture on a terminal, lines in a pipe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from penstock.cli.demo_traffic import Tally
from penstock.cli.output import dollars, is_plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE_SECONDS = 5.0
_BAR = 24


@dataclass(slots=True)
class Scene:
    """What is going on."""

    title: str
    tally: Tally
    rollout: Any = None  # as the API describes it, once there is one


class View:
    """Draws the scene it was given last."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._plain = is_plain()
        self._live: Any = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if not self._silent and not self._plain:
            from rich.live import Live  # noqa: PLC0415 - only on a terminal

            self._live = Live(refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print something that stays."""
        if self._silent:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text)

    def show(self, scene: Scene) -> None:
        """Draw what is going on now."""
        if self._silent:
            return
        if self._live is not None:
            self._live.update(_picture(scene))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            click.echo("  " + _line(scene))


def _line(scene: Scene) -> str:
    parts = [
        f"{scene.tally.ended} sessions",
        f"{scene.tally.rate:.0f}/s",
        dollars(scene.tally.cost_nanos),
    ]
    if scene.rollout is not None:
        found = scene.rollout["rollout"]
        parts.append(f"{found['phase']} at {found['weight']:.0%}")
        parts += [
            f"{test['metric']} {test['question'].replace('_', ' ')} {test['progress']:.0%}"
            for test in scene.rollout["tests"]
            if test["metric"] == "completion"
        ]
    return ", ".join(parts)


def _picture(scene: Scene) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - only on a terminal
    from rich.panel import Panel  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    tally = scene.tally
    head = Text(
        f"{tally.ended} sessions   {tally.rate:.1f}/s   {dollars(tally.cost_nanos)}"
        "   process isolation"
    )
    if scene.rollout is None:
        return Panel(head, title=scene.title)
    found = scene.rollout["rollout"]
    filled = round(found["weight"] * _BAR)
    split = Text("candidate ")
    split.append("█" * filled, style="cyan")
    split.append("░" * (_BAR - filled))
    split.append(f" {found['weight']:.0%} of new sessions   {found['phase']}")
    table = Table(box=None, pad_edge=False)
    for heading in ("", "evidence", "candidate", "stable"):
        table.add_column(heading)
    for test in scene.rollout["tests"]:
        reached = round(test["progress"] * _BAR)
        colour = "green" if test["question"] == "not_worse" else "red"
        bar = Text("█" * reached, style=colour)
        bar.append("░" * (_BAR - reached), style="dim")
        name = f"{test['metric']} {test['question'].replace('_', ' ')}"
        table.add_row(name, bar, _mean(test["candidate_mean"]), _mean(test["stable_mean"]))
    return Panel(Group(head, split, table), title=scene.title)


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
