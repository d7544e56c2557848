"""Evidence: the running tests of a rollout, between one fold and the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from penstock.domain.rollouts import Evidence, SplitEvidence
from penstock.store.transaction import Transaction

_SPLIT = "split"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """What is folded beside the tests of the metrics."""

    split: SplitEvidence = field(default_factory=SplitEvidence)
    last_fold_us: int | None = None  # when the evidence last grew
    step_since: int = 0  # the position behind which the present step began
    candidate_in_step: int = 0  # candidate sessions folded whose position is past it


_encode = msgspec.json.Encoder().encode
_evidence = msgspec.json.Decoder(Evidence).decode
_fold = msgspec.json.Decoder(Fold).decode


async def of_rollout(tx: Transaction, rollout_id: str) -> tuple[tuple[Evidence, ...], Fold]:
    """Every test of a rollout, by metric and question, and what else is folded."""
    tests: list[Evidence] = []
    fold = Fold()
    for row in await tx.fetch_all("evidence.of_rollout", rollout_id=rollout_id):
        if row["question"] == _SPLIT:
            fold = _fold(row["state"])
        else:
            tests.append(_evidence(row["state"]))
    return tuple(tests), fold


async def put(tx: Transaction, rollout_id: str, tests: Iterable[Evidence], fold: Fold) -> None:
    """Keep the tests' states."""
    for test in tests:
        await tx.execute(
            "evidence.put",
            rollout_id=rollout_id,
            metric=test.metric,
            question=test.question.value,
            state=_encode(test).decode(),
        )
    await tx.execute(
        "evidence.put",
        rollout_id=rollout_id,
        metric=_SPLIT,
        question=_SPLIT,
        state=_encode(fold).decode(),
    )
