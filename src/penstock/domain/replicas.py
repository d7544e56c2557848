"""Replicas: worker processes that one rule makes more or fewer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """How many replicas there may be, and how quickly their number follows the load."""

    least: int = 0  # replicas that are kept without work; 0 scales to zero
    most: int = 1  # replicas at any time
    target: int = 32  # tasks, waiting or in flight, that one replica is meant to have
    up_seconds: float = 0.0  # a load must have lasted so long before there are more
    down_seconds: float = 60.0  # … and its absence so long before there are fewer
    concurrency: int = 64  # attempts a replica runs at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What there is to do, and who does it."""

    backlog: int  # tasks that wait and are due
    in_flight: int  # tasks that run
    replicas: int  # that are up, or on their way up; not those that drain


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How many replicas one reading of the load called for."""

    at_seconds: float  # by the monotonic clock of whoever asks
    replicas: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Desired:
    """How many replicas there should be now, and the wishes that the next answer needs."""

    replicas: int
    wishes: tuple[Wish, ...]
