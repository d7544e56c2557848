"""Approvals: which steps of a rollout a person has let pass; the audit is their record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.domain.access import Actor
from penstock.store import audit
from penstock.store.transaction import Transaction

_ACTION = "rollout.approve"
_MOST = 1000  # entries of one rollout


async def add(
    tx: Transaction, actor: Actor, rollout_id: str, *, step: int, detail: Mapping[str, Any]
) -> None:
    """Let the step of this index begin; the controller hears of it at the commit."""
    await audit.add(
        tx,
        actor,
        _ACTION,
        object_kind="rollout",
        object_id=rollout_id,
        detail={"step": step, **detail},
    )
    tx.notify("rollout", rollout_id)


async def steps(tx: Transaction, rollout_id: str) -> frozenset[int]:
    """The indexes of the steps that have been approved."""
    entries = await audit.listing(tx, object_kind="rollout", object_id=rollout_id, limit=_MOST)
    return frozenset(entry.detail["step"] for entry in entries if entry.action == _ACTION)
