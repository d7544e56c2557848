"""Queues: the tasks of an agent in an environment that have not begun yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QueueName = tuple[str, str]  # agent, environment

ALL: QueueName = ("", "")  # every queue together


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLoad:
    """How full a queue is, and how fast it drains."""

    waiting: int  # tasks that were accepted and have not begun
    departed: int  # … that left it within the period
    period_us: int


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How many tasks may wait."""

    each: int = 20_000  # for one agent in one environment
    total: int = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Whose turn it was last, for whoever claims; the next turn is that of the one behind."""

    queue: QueueName | None = None
    tenants: Mapping[QueueName, str] = field(default_factory=dict)
