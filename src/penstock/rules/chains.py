"""When a call moves on to the next link of its chain.

::

    link ── ok ─────────────────────────────────────────────► answer
      ├──── skipped · connect · timeout · stall · cut · invalid ─► next link
      ├──── status 408 409 425 429 5xx (529 among them) ─────────► next link
      └──── any other status ────────────────────────────────────► answer

A request that is wrong at one provider is wrong at the next: other 4xx are handed to the agent.
``cut`` and ``stall`` move on only while nothing of the answer has left the gateway; that is the
business of the engine, which asks only until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.domain.exchanges import LinkAttempt

_TRY_THE_NEXT = frozenset({408, 409, 425, 429})
_SERVER_ERROR = 500
_OUTCOMES = frozenset({"skipped", "connect", "timeout", "stall", "cut", "invalid"})


def falls_back(outcome: str, status: int | None) -> bool:
    """Whether the next link is to be asked after this outcome of a link."""
    if outcome == "status":
        return status is not None and (status in _TRY_THE_NEXT or status >= _SERVER_ERROR)
    return outcome in _OUTCOMES


def drifted(
    pinned: str | None, returned: str | None, fingerprint: str | None, before: str | None
) -> str | None:
    """What is not as it was pinned or last seen in an answer, as a sentence; None if nothing is.

    Args:
        pinned: the model's id as the release has it.
        returned: the id that the provider put into its answer.
        fingerprint: of the provider's configuration, in this answer.
        before: the same in the answer before it.
    """
    if pinned and returned and returned != pinned and not returned.startswith(f"{pinned}-"):
        return f"{pinned} was asked, and {returned} answered"
    if fingerprint and before and fingerprint != before:
        return f"{pinned} answers with the configuration {fingerprint}; it was {before}"
    return None


def final_status(attempts: Sequence[LinkAttempt]) -> int:
    """The status of a call that no link answered.

    The last link that was really asked decides: its own status if it gave one, 504 if it took too
    long, 502 otherwise. If none could be asked, 503.
    """
    for attempt in reversed(attempts):
        if attempt.outcome == "skipped":
            continue
        if attempt.status is not None and attempt.outcome == "status":
            return attempt.status
        return 504 if attempt.outcome in {"timeout", "stall"} else 502
    return 503


def explain(alias: str, attempts: Sequence[LinkAttempt]) -> str:
    """Why no link of the chain answered, link by link."""
    links = "; ".join(f"{a.provider}/{a.model}: {a.detail}" for a in attempts)
    return f"No model of the chain `{alias}` answered. {links}"
