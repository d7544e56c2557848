"""Sessions: conversations, pinned to the release they began on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.rollouts import Arm


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A conversation; everything in it runs on one release."""

    id: str
    agent: str
    environment: str
    release: str  # digest; never changes while the session lives
    user_id: str | None
    metadata: Mapping[str, Any]
    state: str  # open | closed
    rollout_id: str | None  # the rollout that assigned it, if one was on
    arm: str | None  # stable | candidate
    tasks: int  # ended
    failures: int  # … of which did not complete
    cost_nanos: int
    busy_us: int  # sum of the durations of its tasks
    thumb: int  # -1 | 0 | 1
    score: float | None  # the evaluator's answer in [0, 1]
    created_us: int
    closed_us: int | None
    expires_us: int | None = None  # when it is deleted, unless it is used before


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionResult:
    """What is known of a session that a rollout has assigned."""

    position: int
    arm: Arm
    weight: float
    assigned_us: int
    closed: bool
    tasks: int
    failures: int
    cost_nanos: int
    busy_us: int
    thumb: int
    waits_for_judge: bool  # it has an evaluator that has not answered yet
    score: float | None  # the evaluator's answer, if it gave one
