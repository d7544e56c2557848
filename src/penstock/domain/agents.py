"""Agents and where they are deployed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """The named thing that is deployed."""

    name: str
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """An agent in an environment: the wished split of its traffic over releases."""

    agent: str
    environment: str
    stable: str  # digest of the release that serves unless a rollout says otherwise
    rollout_id: str | None  # the rollout that is splitting traffic now
    revision: int  # raised by every change; a writer names the one it read
    updated_us: int
