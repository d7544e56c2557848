"""The rollout controller: folds what sessions came to, and moves rollouts on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict
from penstock.domain.rollouts import (
    Arm,
    Evidence,
    Facts,
    HardStopFacts,
    Outcome,
    Rollout,
)
from penstock.kit.ids import new_id
from penstock.kit.loops import Loop
from penstock.rules.evidence import fold
from penstock.rules.outcomes import outcome
from penstock.rules.rollouts import advance
from penstock.rules.splits import fold_split
from penstock.store import Store, Transaction, evidence, leases, rollouts, transitions
from penstock.store.evidence import Fold

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_LEASE_SECONDS = 10.0
_BATCH = 500
_CANDIDATE_TASKS = 50
_STABLE_TASKS = 500
_RECENT_POSITIONS = 1000  # where the latest ended tasks are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """One reading of a rollout, with the evidence as it will be once committed."""

    rollout: Rollout
    now_us: int
    tests: tuple[Evidence, ...]
    fold: Fold
    folded: int  # the cursor after this fold
    more: bool  # sessions are waiting that would be folded at once
    facts: Facts


class Controller:
    """Looks at every active rollout about twice a second, on one server at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holder = new_id("ctl")
        self._loop = Loop("rollouts", self._round, seconds=_TICK_SECONDS)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    async def stop(self) -> None:
        """End, and let another server lead at once."""
        await self._loop.stop()
        await self._store.transact(partial(leases.release, name="rollouts", holder=self._holder))

    async def _round(self) -> None:
        lead = partial(leases.acquire, name="rollouts", holder=self._holder, seconds=_LEASE_SECONDS)
        if await self._store.transact(lead) is None:
            return
        for rollout in await self._store.read(rollouts.active):
            try:
                while await self.tick(rollout.id):
                    pass
            except Conflict as error:
                log.info("rollout %s: %s", rollout.id, error)
            except Exception:
                # One rollout that cannot be read must not keep the others from their rollback.
                log.exception("rollout %s could not be moved on", rollout.id)

    async def tick(self, rollout_id: str) -> bool:
        """Fold what is known and move on; whether there is more to do at once.

        Evidence, cursor and decision are one commit: a controller that is killed goes on exactly
        where it was, and two at a time cannot count a session twice.

        Raises:
            Conflict: another controller, or a person, was faster; nothing was changed.
        """
        seen = await self._store.read(partial(_see, rollout_id))
        decision = advance(seen.rollout, seen.facts, seen.now_us)
        if decision is None and seen.folded == seen.rollout.folded:
            return False

        async def work(tx: Transaction) -> None:
            if seen.folded != seen.rollout.folded:
                if not await rollouts.move_cursor(tx, seen.rollout, folded=seen.folded):
                    raise Conflict("its evidence has been folded elsewhere")
                await evidence.put(tx, seen.rollout.id, seen.tests, seen.fold)
            if decision is not None:
                await transitions.record(tx, SYSTEM, seen.rollout, decision)

        await self._store.transact(work)
        if decision is not None:
            log.info("rollout %s: %s", rollout_id, decision.reason)
        return decision is not None or seen.more


async def _see(rollout_id: str, tx: Transaction) -> _Seen:
    rollout, now_us = await rollouts.get_with_time(tx, rollout_id)
    tests, before = await evidence.of_rollout(tx, rollout_id)
    results = await rollouts.results(tx, rollout_id, after=rollout.folded, limit=_BATCH)
    known: list[Outcome] = []
    folded = rollout.folded
    for result in results:
        found = outcome(
            result,
            rollout.baseline,
            horizon_seconds=rollout.plan.horizon_seconds,
            now_us=now_us,
        )
        if found is None:
            break  # in the order of assignment, or the evidence would favour what ends quickly
        folded = result.position
        if 0.0 < found.weight < 1.0:
            known.append(found)
    tests = tuple(fold(test, known) for test in tests)
    after = Fold(
        split=fold_split(before.split, known),
        last_fold_us=now_us if known else before.last_fold_us,
    )
    return _Seen(
        rollout=rollout,
        now_us=now_us,
        tests=tests,
        fold=after,
        folded=folded,
        more=len(results) == _BATCH and folded == results[-1].position,
        facts=Facts(
            evidence=tests,
            split=after.split,
            candidate_in_step=await rollouts.candidates_between(
                tx, rollout_id, after=rollout.step_since, last=folded
            ),
            last_fold_us=after.last_fold_us,
            hard_stops=await _hard_stops(tx, rollout),
        ),
    )


async def _hard_stops(tx: Transaction, rollout: Rollout) -> HardStopFacts:
    recent = partial(rollouts.finished, tx, rollout.id, after=rollout.assigned - _RECENT_POSITIONS)
    candidate = await recent(arm=Arm.CANDIDATE, limit=_CANDIDATE_TASKS)
    if not any(task.failed or task.cost_capped for task in candidate):
        return HardStopFacts(candidate=candidate)  # nothing stable could be compared with
    return HardStopFacts(
        candidate=candidate, stable=await recent(arm=Arm.STABLE, limit=_STABLE_TASKS)
    )
