"""Going back with one component: to which version, and whether it has to be proven again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.domain.components import ComponentKind
from penstock.domain.rollouts import Past


@dataclass(frozen=True, kw_only=True, slots=True)
class Stable:
    """A release that was stable once, with what it was made of."""

    past: Past
    components: Mapping[ComponentKind, str]  # digests


def target(
    kind: ComponentKind, now: Mapping[ComponentKind, str], history: Sequence[Stable]
) -> Stable | None:
    """The last stable release whose component was another than now.

    Args:
        kind: the component that goes back.
        now: the components of the release that is stable.
        history: what was stable before it, the last one first.
    """
    for stable in history:
        if stable.components.get(kind) != now.get(kind):
            return stable
    return None


def is_proven(
    wanted: Mapping[ComponentKind, str],
    now: Mapping[ComponentKind, str],
    history: Sequence[Stable],
    *,
    now_us: int,
    window_seconds: float,
) -> bool:
    """Whether each part of a release is stable now, or was within the rollback window.

    Such a release skips the ramp: it is made of what has served everybody not long ago. That the
    parts fit together is checked when it is composed, and hard stops watch it as any other.

    Args:
        wanted: the components of the release that is to be stable.
        now: those of the release that is.
        history: what was stable before, the last one first.
        now_us: the time.
        window_seconds: how long ago a part may have been stable.
    """
    since_us = now_us - window_seconds * 1e6
    recent = [stable.components for stable in history if stable.past.until_us >= since_us]
    return all(
        digest == now.get(kind) or any(digest == parts.get(kind) for parts in recent)
        for kind, digest in wanted.items()
    )
