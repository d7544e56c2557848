"""The rollout controller: folds what sessions came to, and moves rollouts on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from penstock.control.leadership import Leadership
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict
from penstock.domain.rollouts import Arm, Evidence, Facts, HardStopFacts, Outcome, Rollout
from penstock.kit.loops import Loop
from penstock.rules.evidence import fold
from penstock.rules.outcomes import outcome
from penstock.rules.rollouts import advance
from penstock.rules.splits import fold_split
from penstock.store import Store, Transaction, approvals, evidence, rollouts, transitions
from penstock.store.evidence import Fold

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_LEASE_SECONDS = 10.0
_RENEW_SECONDS = 3.0
_FIRST_BATCH = 50  # sessions looked at while the oldest unknown one keeps the others waiting
_BATCH = 500
_TICKS = 20  # of one rollout in a row, before the others have their turn
_CANDIDATE_TASKS, _CANDIDATE_SESSIONS = 50, 200
_STABLE_TASKS, _STABLE_SESSIONS = 500, 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """One reading of a rollout, with the evidence as it will be once committed."""

    rollout: Rollout
    now_us: int
    tests: tuple[Evidence, ...]
    fold: Fold
    folded: int  # the cursor after this fold
    more: bool  # every session that was looked at is known: there may be others
    facts: Facts


class Controller:
    """Looks at every active rollout about twice a second, on one server at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = Loop("rollouts", self._round, seconds=_TICK_SECONDS)
        # It only saves work: a leader that has lost it unawares fails every compare-and-set.
        self._leadership = Leadership(
            store, "controller", lease_seconds=_LEASE_SECONDS, renew_seconds=_RENEW_SECONDS
        )
        self._failing: dict[str, str] = {}  # rollout → why it could not be moved on
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin."""
        self._unsubscribe = self._store.subscribe("rollout", lambda _: self._loop.wake())
        self._loop.start()

    async def stop(self) -> None:
        """End, and let another server lead at once."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._loop.stop()
        await self._leadership.give_up()

    async def _round(self) -> None:
        active = await self._store.read(rollouts.active_ids)
        self._failing = {known: why for known, why in self._failing.items() if known in active}
        if not active or not await self._leadership.held():
            return
        for rollout_id in active:
            try:
                await self._carry_on(rollout_id)
            except Conflict as error:
                log.info("rollout %s: %s", rollout_id, error)
            except Exception as error:
                # One rollout that cannot be read must not keep the others from their rollback.
                if self._failing.get(rollout_id) != str(error):
                    log.exception("rollout %s cannot be moved on; it is tried again", rollout_id)
                self._failing[rollout_id] = str(error)
            else:
                self._failing.pop(rollout_id, None)

    async def _carry_on(self, rollout_id: str) -> None:
        """Ticks until there is nothing to do, or the other rollouts have waited long enough."""
        batch = _FIRST_BATCH
        for _ in range(_TICKS):
            if not await self.tick(rollout_id, batch=batch):
                return
            batch = _BATCH
        self._loop.wake()

    async def tick(self, rollout_id: str, *, batch: int = _BATCH) -> bool:
        """Fold what is known and move on; whether there may be more to do at once.

        Evidence, cursor and decision are one commit: a controller that is killed goes on exactly
        where it was, and two at a time cannot count a session twice.

        Raises:
            Conflict: another controller, or a person, was faster; nothing was changed.
        """
        seen = await self._store.read(partial(_see, rollout_id, batch))
        grown = seen.folded != seen.rollout.folded
        decision = advance(replace(seen.rollout, folded=seen.folded), seen.facts, seen.now_us)
        if decision is None and not grown:
            return False

        async def work(tx: Transaction) -> None:
            if grown:
                if not await rollouts.move_cursor(tx, seen.rollout, folded=seen.folded):
                    raise Conflict("its evidence has been folded elsewhere meanwhile")
                await evidence.put(tx, rollout_id, seen.tests, seen.fold)
            if decision is not None:
                await transitions.record(tx, SYSTEM, seen.rollout, decision)

        await self._store.transact(work)
        if decision is not None:
            log.info("rollout %s: %s", rollout_id, decision.reason)
        return decision is not None or seen.more


async def _see(rollout_id: str, batch: int, tx: Transaction) -> _Seen:
    rollout, now_us = await rollouts.get_with_time(tx, rollout_id)
    tests, before = await evidence.of_rollout(tx, rollout_id)
    horizon_seconds = rollout.plan.horizon_seconds
    results = await rollouts.results(
        tx, rollout_id, after=rollout.folded, limit=batch, horizon_seconds=horizon_seconds
    )
    known: list[Outcome] = []
    folded = rollout.folded
    for result in results:
        found = outcome(result, rollout.baseline, horizon_seconds=horizon_seconds, now_us=now_us)
        if found is None:
            break  # in the order of assignment, or the evidence would favour what ends quickly
        folded = result.position
        if 0.0 < found.weight < 1.0:
            known.append(found)
    tests = tuple(fold(test, known) for test in tests)
    after = _fold(before, rollout, known, now_us)
    return _Seen(
        rollout=rollout,
        now_us=now_us,
        tests=tests,
        fold=after,
        folded=folded,
        more=len(results) == batch and folded == results[-1].position,
        facts=Facts(
            evidence=tests,
            split=after.split,
            candidate_in_step=after.candidate_in_step,
            last_fold_us=after.last_fold_us,
            hard_stops=await _hard_stops(tx, rollout),
            approved=await _approved(tx, rollout),
        ),
    )


def _fold(before: Fold, rollout: Rollout, known: list[Outcome], now_us: int) -> Fold:
    """What is folded beside the tests, after these sessions.

    A step begins behind the last position that was given out, so nothing of a new one is folded
    when it is first seen, and its candidates can be counted as they come.
    """
    since = rollout.step_since
    counted = before.candidate_in_step if before.step_since == since else 0
    met = sum(found.arm is Arm.CANDIDATE and found.position > since for found in known)
    return Fold(
        split=fold_split(before.split, known),
        last_fold_us=now_us if known else before.last_fold_us,
        step_since=since,
        candidate_in_step=counted + met,
    )


async def _hard_stops(tx: Transaction, rollout: Rollout) -> HardStopFacts:
    candidate = await rollouts.finished(
        tx, rollout, Arm.CANDIDATE, sessions=_CANDIDATE_SESSIONS, limit=_CANDIDATE_TASKS
    )
    if not any(task.failed or task.cost_capped for task in candidate[-1:]):
        return HardStopFacts(candidate=candidate)  # no run of bad tasks to compare stable with
    stable = await rollouts.finished(
        tx,
        rollout,
        Arm.STABLE,
        sessions=_STABLE_SESSIONS,
        limit=_STABLE_TASKS,
        since_us=candidate[0].finished_us,
    )
    return HardStopFacts(candidate=candidate, stable=stable)


async def _approved(tx: Transaction, rollout: Rollout) -> frozenset[int]:
    if not any(step.approval for step in rollout.plan.steps):
        return frozenset()
    return await approvals.steps(tx, rollout.id)
