"""Who acts, and what is written down about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a principal may do, from most to least."""

    ADMIN = "admin"  # everything, keys included
    OPERATOR = "operator"  # releases, rollouts, tasks
    VIEWER = "viewer"  # reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """The person or program behind a request."""

    id: str
    name: str
    role: Role


SYSTEM = Actor(id="system", name="penstock", role=Role.ADMIN)  # the control loops


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One thing that was done, by whom, with the numbers behind it."""

    seq: int
    at_us: int
    actor: str
    action: str
    object_kind: str
    object_id: str
    detail: Mapping[str, Any]
