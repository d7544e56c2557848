"""What may be asked of a task before there is one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.tasks import MultitaskStrategy

HIGHEST_PRIORITY = 100
LONGEST_DELAY_SECONDS = 366 * 86_400.0


def due(*, delay_seconds: float, run_at: str | None, now_us: int) -> int:
    """When a task is asked to run, in microseconds since 1970; 0 when only the delay counts.

    Raises:
        Invalid: the two contradict each other, or lie more than a year ahead.
    """
    if not 0 <= delay_seconds <= LONGEST_DELAY_SECONDS:
        raise Invalid("delay_seconds lies between 0 and a year")
    if run_at is None:
        return 0
    if delay_seconds:
        raise Invalid("a task has either delay_seconds or run_at", hint="Leave one of them out.")
    try:
        moment = datetime.fromisoformat(run_at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Invalid(
            f"run_at is no moment: {run_at!r}",
            hint="Write it as RFC 3339 says, with its offset: 2026-12-24T18:00:00Z.",
        )
    at_us = int(moment.timestamp() * 1_000_000)
    if at_us > now_us + int(LONGEST_DELAY_SECONDS * 1_000_000):
        raise Invalid(f"run_at {run_at} lies more than a year ahead")
    return max(0, at_us)


def check_together(
    *,
    priority: int,
    strategy: MultitaskStrategy,
    later: bool,
    stateless: bool,
    session_id: str | None,
) -> None:
    """Whether these may be asked for together.

    Raises:
        Invalid: they may not; says which and why.
    """
    if not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise Invalid(f"priority lies between -{HIGHEST_PRIORITY} and {HIGHEST_PRIORITY}")
    if later and strategy is not MultitaskStrategy.ENQUEUE:
        raise Invalid(
            f"multitask_strategy {strategy.value} is about what runs now,"
            " and this task is to run later",
            hint="Leave out delay_seconds and run_at, or multitask_strategy.",
        )
    if stateless and session_id is not None:
        raise Invalid(
            "a stateless task has no session of its own to keep",
            hint="Leave out session_id, or stateless.",
        )


def request_digest(asked: Mapping[str, Any]) -> str:
    """What was asked under an idempotency key, as a sha256 in hexadecimal."""
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
