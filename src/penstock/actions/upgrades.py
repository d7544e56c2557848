"""Upgrades: what a start of this program would do to what is there, before it does."""

from __future__ import annotations

from pathlib import Path

from penstock.store import upgrades
from penstock.store.upgrades import Standing

__all__ = ["Standing", "standing"]


async def standing(*, home: Path, url: str | None = None) -> Standing:
    """What a database holds and what a start of this program would do to it; changes nothing.

    Raises:
        Unavailable: it does not answer, or cannot be read.
    """
    return await upgrades.standing(home=home, url=url)
