"""Whose turn it is, and when a queue is full.

A worker deals its free places out in turns, twice: over the queues (an agent in an environment)
that have something to be claimed, and in each over the tenants (users) that have. Nobody gets a
second place before everybody has had one, however much he has queued; the next deal goes on behind
the one who was served last. So a task that is alone in its queue waits for one turn of every other
queue, and a user's only task for one turn of every other user of its agent.

Within a tenant, high priority goes first, then what was due first. Priority moves nobody ahead of
another tenant, and no task ahead of another of its own session.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from penstock.domain.queues import QueueLoad, Turns
from penstock.domain.tasks import Claim

_Key = TypeVar("_Key", str, tuple[str, str])

_ROOM = 0.05  # of a full queue: so much has drained when a refused caller comes back
_SHORTEST_SECONDS = 1
_LONGEST_SECONDS = 300


def deal(free: int, keys: Iterable[_Key], *, behind: _Key | None) -> dict[_Key, int]:
    """How many of ``free`` places each key gets, in the order of their turns.

    Args:
        free: how many there are to deal.
        keys: who wants any.
        behind: who was served last; the one behind him, in the order of the keys, begins.
    """
    order = sorted(keys)
    if not order or free <= 0:
        return {}
    if behind is not None:
        order = [k for k in order if k > behind] + [k for k in order if k <= behind]
    each, more = divmod(free, len(order))
    dealt = {key: each + (1 if index < more else 0) for index, key in enumerate(order)}
    return {key: number for key, number in dealt.items() if number}


def after_claims(turns: Turns, claims: Sequence[Claim]) -> Turns:
    """Whose turn it was, once these were claimed in this order."""
    if not claims:
        return turns
    tenants = dict(turns.tenants)
    for claim in claims:
        tenants[claim.task.agent, claim.task.environment] = claim.tenant
    last = claims[-1].task
    return Turns(queue=(last.agent, last.environment), tenants=tenants)


def is_full(load: QueueLoad, *, limit: int) -> bool:
    """Whether more wait than may, the one that has just come included."""
    return load.waiting > limit


def retry_after_seconds(load: QueueLoad, *, limit: int, chance: float) -> int:
    """When it is worth trying again: once a twentieth of the queue has drained.

    Args:
        load: of the queue that is full.
        limit: how many may wait in it.
        chance: in [0, 1); spreads callers that were refused at the same moment.
    """
    room = max(1.0, limit * _ROOM) + max(0, load.waiting - limit)
    if load.departed <= 0 or load.period_us <= 0:
        seconds = float(_LONGEST_SECONDS)
    else:
        seconds = room * load.period_us / load.departed / 1_000_000
    spread = min(seconds, _LONGEST_SECONDS) * (1.0 + 0.5 * chance)
    return max(_SHORTEST_SECONDS, min(math.ceil(spread), _LONGEST_SECONDS))
