"""The lines of ``proof_statistics``' table: a figure, its uncertainty, its goal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics."""
    ordered = sorted(values)
    n = len(ordered)
    half = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return statistics.median(ordered), ordered[low], ordered[high]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    seen: str
    interval: str
    goal: str = ""
    met: bool | None = None  # None: no goal, for comparison


def share_row(what: str, hits: int, n: int, *, most: float | None = None) -> Row:
    """A share that must not be above ``most``, its interval's upper end included."""
    low, high = share_interval(hits, n)
    return Row(
        what,
        f"{hits / n:.1%}",
        f"{low:.1%} to {high:.1%}",
        "" if most is None else f"<= {most:.0%}",
        None if most is None else high <= most,
    )


def median_row(what: str, values: Sequence[float], *, most: float | None = None) -> Row:
    """A median that must not be above ``most``; infinity stands for "never"."""
    middle, low, high = median_interval(values)
    p90 = sorted(values)[math.ceil(0.9 * len(values)) - 1]
    return Row(
        what,
        f"{middle:,.0f} (p90 {p90:,.0f})",
        f"{low:,.0f} to {high:,.0f}",
        "" if most is None else f"<= {most:,.0f}",
        None if most is None else middle <= most,
    )
