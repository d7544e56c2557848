"""Memories: what an agent keeps across sessions, under namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Namespace = tuple[str, ...]

USERS = "users"  # the first part of a namespace that belongs to the user whom the second one names


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryScope:
    """Whose memories are meant: no agent sees another's, nor another environment's."""

    agent: str
    environment: str
    user_id: str | None = None  # of the session; of ``users`` it sees this user's only


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """One thing that is remembered."""

    namespace: Namespace
    key: str
    value: Mapping[str, Any]
    user_id: str | None  # whose session wrote it
    ttl_us: int | None
    expires_us: int | None
    created_us: int
    updated_us: int
    score: float | None = None  # how well it fits what was searched for


@dataclass(frozen=True, kw_only=True, slots=True)
class NewMemory:
    """What is to be remembered under a key; without a value the key is to be forgotten."""

    namespace: Namespace
    key: str
    value: Mapping[str, Any] | None
    words: str = ""
    vectors: tuple[bytes, ...] = ()
    ttl_us: int | None = None
