"""States: what a session's framework keeps between its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class StateWish:
    """What is asked of a session's state, in the words of its framework."""

    kind: str  # get | history | edit
    checkpoint_id: str | None = None  # the latest, without one
    values: Any = None  # edit: what is written
    as_node: str | None = None  # edit: as if this node had written it
    limit: int = 20  # history
    before: str | None = None  # history: checkpoints older than this one


State = Mapping[str, Any]  # values, next, checkpoint_id, parent_id, created_at, source, step, tasks
