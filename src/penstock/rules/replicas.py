"""How many replicas the load calls for.

The rule of the Kubernetes horizontal autoscaler, for tasks: enough replicas that each has
``target`` of them, with two stabilisation windows. A rise is followed once the *lowest* wish of the
last ``up_seconds`` calls for it, a fall once the *highest* wish of the last ``down_seconds`` allows
it, so neither a spike nor a pause makes processes come and go. The way up is limited to twice as
many at a time; the way from zero is not delayed, because somebody waits at its end.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.domain.replicas import Desired, Load, Scaling, Wish

_STEP_UP = 4  # replicas that may be added at once, however few there are


def desired_replicas(
    load: Load, scaling: Scaling, wishes: tuple[Wish, ...], *, now_seconds: float
) -> Desired:
    """How many replicas there should be.

    Args:
        load: as it is now.
        scaling: the bounds and windows.
        wishes: what the last answer handed back; none at the beginning.
        now_seconds: of a clock that never goes back.
    """
    wished = wanted(load, scaling)
    longest = max(scaling.up_seconds, scaling.down_seconds)
    kept = tuple(wish for wish in wishes if now_seconds - wish.at_seconds <= longest)
    kept = (*kept, Wish(at_seconds=now_seconds, replicas=wished))
    present = load.replicas
    lowest = _over(kept, scaling.up_seconds, now_seconds, min)
    highest = _over(kept, scaling.down_seconds, now_seconds, max)
    if present == 0 and wished:
        replicas = max(1, lowest)
    elif lowest > present:
        replicas = lowest
    elif highest < present:
        replicas = highest
    else:
        replicas = present
    replicas = min(replicas, max(2 * present, present + _STEP_UP))
    return Desired(replicas=max(scaling.least, min(scaling.most, replicas)), wishes=kept)


def wanted(load: Load, scaling: Scaling) -> int:
    """How many replicas this one reading calls for, within the bounds."""
    tasks = load.backlog + load.in_flight
    return max(scaling.least, min(scaling.most, -(-tasks // scaling.target)))


def _over(
    wishes: tuple[Wish, ...],
    seconds: float,
    now_seconds: float,
    best: Callable[[Iterable[int]], int],
) -> int:
    """The lowest or highest wish of a window."""
    return best(wish.replicas for wish in wishes if now_seconds - wish.at_seconds <= seconds)
