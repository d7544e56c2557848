"""Rollouts: deploy, promote, abort, pause, resume, roll back, explain."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.actions import beginnings
from penstock.actions.placements import deployed
from penstock.actions.releases import find
from penstock.domain.access import Actor
from penstock.domain.agents import Deployment
from penstock.domain.errors import Conflict, NotFound
from penstock.domain.releases import Release
from penstock.domain.rollouts import (
    Evidence,
    Hold,
    Rollout,
    SplitEvidence,
    Strategy,
    Verb,
    plan_from_json,
)
from penstock.rules import rollouts as machine
from penstock.rules.access import check
from penstock.rules.evidence import effect, thresholds
from penstock.store import (
    Store,
    Transaction,
    agents,
    approvals,
    audit,
    deployments,
    evidence,
    releases,
    rollouts,
    transitions,
)

Start = Callable[[str, str], Awaitable[None]]  # release, environment
# Actor, agent, environment, and which release: the digest of the release that is deployed.
Overlaid = Callable[[Actor, str, str, str], Awaitable[str]]

_MOST = 200
_STORY = 1000  # entries of a rollout's story
_LEAST = 1e-300  # an e-value below it is not worth a logarithm


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What a deploy led to."""

    deployment: Deployment
    release: Release
    rollout: Rollout | None  # none: it is the agent's first release here, or stable already
    note: str  # the same as a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceRow:
    """One running test, as a person reads it."""

    metric: str
    question: str  # worse | not_worse
    e: float  # what a bet of 1 against "no difference" has become
    peak: float  # … and the most it has been: what the verdict looks at
    log10_evidence: float  # of e, for a chart
    threshold: float  # what it must become for a verdict
    progress: float  # of the peak towards the threshold, 0 to 1, on a logarithmic scale
    candidate_sessions: int
    candidate_mean: float | None  # None without sessions
    stable_sessions: int
    stable_mean: float | None
    difference: float  # candidate - stable
    low: float  # of the 95 % confidence sequence of the difference
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutView:
    """A rollout with its evidence and its story."""

    rollout: Rollout
    tests: tuple[EvidenceRow, ...]
    split: SplitEvidence
    assigned: Mapping[str, int]  # sessions given to stable and candidate; exposed: served of all
    lag: int  # sessions whose outcome is not in the evidence yet
    explanation: tuple[str, ...]  # one paragraph a transition


class RolloutActions:
    """What may be done with deployments and rollouts."""

    def __init__(
        self, store: Store, start: Start | None = None, overlaid: Overlaid | None = None
    ) -> None:
        """Act on ``store``.

        Args:
            store: where everything is.
            start: has a release's process running when it returns.
            overlaid: the release that an environment makes of another.
        """
        self._store = store
        self._start = start
        self._overlaid = overlaid

    async def deploy(
        self,
        actor: Actor,
        *,
        agent: str,
        ref: str = "latest",
        environment: str = "production",
        strategy: str | None = None,
        plan: Mapping[str, Any] | None = None,
        overlay: bool = True,
    ) -> Deployed:
        """Give a release traffic: all of it if it is the first, else what the plan says.

        What the environment adds to every release (``overlay``) makes a release of its own, and
        that one is deployed. It is started first: one that does not start gets none, and the
        candidate's first sessions are not slow for a reason that says nothing about it.

        Raises:
            BuildFailed, Unavailable: the release does not start.
            NotFound: there is no such release.
            Conflict: a rollout is under way here.
            Invalid: the plan cannot be read or followed.
        """
        check(actor, "rollout.write")

        if overlay and self._overlaid is not None:
            ref = await self._overlaid(actor, agent, environment, ref)

        async def look(tx: Transaction) -> Release:
            await agents.get(tx, agent)
            return await find(tx, agent, ref)

        if self._start is not None:
            await self._start((await self._store.read(look)).digest, environment)

        async def work(tx: Transaction) -> Deployed:
            await agents.get(tx, agent)
            release = await find(tx, agent, ref)
            chosen = beginnings.choose(
                release, environment=environment, strategy=strategy, plan=plan
            )
            deployment = await deployments.lock(tx, agent, environment)
            if deployment is None:
                return await _first(tx, actor, release, environment)
            if deployment.rollout_id is not None:
                await _refuse_second(tx, deployment)
            name = f"v{release.number} of {agent}"
            if deployment.stable == release.digest:
                note = f"{name} is the stable release in {environment} already; nothing changed."
                return Deployed(deployment=deployment, release=release, rollout=None, note=note)
            rollout = await beginnings.begin(
                tx,
                actor,
                deployment,
                candidate=release,
                plan=chosen,
                decision=machine.begin(chosen),
            )
            if chosen.strategy is Strategy.ALL_AT_ONCE:
                note = f"{name} is the stable release in {environment} now, unproven."
            else:
                note = (
                    f"{name} meets {rollout.weight:.0%} of new sessions in {environment}."
                    f" {await beginnings.forecast(tx, rollout)}"
                ).rstrip()
            return Deployed(
                deployment=await deployed(tx, agent, environment),
                release=release,
                rollout=rollout,
                note=note,
            )

        return await self._store.transact(work)

    async def promote(self, actor: Actor, agent: str, environment: str = "production") -> Rollout:
        """Make the candidate stable now, proven or not."""
        return await self._request(actor, agent, environment, Verb.PROMOTE)

    async def abort(self, actor: Actor, agent: str, environment: str = "production") -> Rollout:
        """End the rollout: stable gets every new session."""
        return await self._request(actor, agent, environment, Verb.ABORT)

    async def pause(self, actor: Actor, agent: str, environment: str = "production") -> Rollout:
        """Stay at the present share of traffic until resumed; rolling back stays possible."""
        return await self._request(actor, agent, environment, Verb.PAUSE)

    async def resume(self, actor: Actor, agent: str, environment: str = "production") -> Rollout:
        """Go on with a paused rollout; one that waits for an approval has it with this."""
        return await self._request(actor, agent, environment, Verb.RESUME)

    async def rollback(
        self,
        actor: Actor,
        agent: str,
        environment: str = "production",
        *,
        to: str | None = None,
    ) -> Rollout:
        """Go back at once: end the rollout that is on, or make an earlier release stable again.

        With ``to`` that release is stable afterwards, whatever was going on.

        Raises:
            NotFound: there is nothing to go back to.
            Conflict: the release is stable already.
        """
        check(actor, "rollout.write")

        async def work(tx: Transaction) -> Rollout:
            target = None if to is None else await find(tx, agent, to)
            rollout = await _under_way(tx, agent, environment)
            if rollout is not None:
                decision = machine.request(rollout, Verb.ABORT)
                ended = await transitions.record(tx, actor, rollout, decision)
                if target is None or target.digest == rollout.stable:
                    return ended
            deployment = await deployed(tx, agent, environment)
            target = target or await _previous(tx, deployment)
            if target.digest == deployment.stable:
                raise Conflict(
                    f"v{target.number} of {agent} is the stable release in {environment} already"
                )
            plan = plan_from_json({"strategy": Strategy.ALL_AT_ONCE.value})
            decision = replace(
                machine.begin(plan),
                reason=f"A person rolled back to v{target.number}: all new sessions go to it.",
                numbers={"cause": "rollback"},
            )
            return await beginnings.begin(
                tx, actor, deployment, candidate=target, plan=plan, decision=decision
            )

        return await self._store.transact(work)

    async def get(self, actor: Actor, rollout_id: str) -> RolloutView:
        """A rollout with its evidence and its story.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "rollout.read")

        async def work(tx: Transaction) -> RolloutView:
            return await view(tx, await rollouts.get(tx, rollout_id))

        return await self._store.read(work)

    async def explain(self, actor: Actor, rollout_id: str) -> tuple[str, ...]:
        """What happened to a rollout and why, a paragraph a transition.

        Raises:
            NotFound: there is none of this id.
        """
        return (await self.get(actor, rollout_id)).explanation

    async def listing(
        self, actor: Actor, *, agent: str | None = None, limit: int = 50
    ) -> list[Rollout]:
        """Rollouts from the newest to the oldest."""
        check(actor, "rollout.read")

        async def work(tx: Transaction) -> list[Rollout]:
            return await rollouts.listing(tx, agent=agent, limit=max(0, min(limit, _MOST)))

        return await self._store.read(work)

    async def _request(self, actor: Actor, agent: str, environment: str, verb: Verb) -> Rollout:
        check(actor, "rollout.write")

        async def work(tx: Transaction) -> Rollout:
            rollout = await _under_way(tx, agent, environment)
            if rollout is None:
                raise NotFound(
                    f"no rollout of {agent} is under way in {environment}",
                    hint=f"Begin one: penstock deploy {agent}",
                )
            if verb is Verb.RESUME and rollout.hold is Hold.APPROVAL:
                await _approve(tx, actor, rollout)
                return rollout
            return await transitions.record(tx, actor, rollout, machine.request(rollout, verb))

        return await self._store.transact(work)


async def view(tx: Transaction, rollout: Rollout) -> RolloutView:
    """A rollout as a person wants to see it."""
    tests, fold = await evidence.of_rollout(tx, rollout.id)
    limits = thresholds(rollout.plan, tests)
    entries = await audit.listing(tx, object_kind="rollout", object_id=rollout.id, limit=_STORY)
    return RolloutView(
        rollout=rollout,
        tests=tuple(_row(test, limits[test.metric, test.question]) for test in tests),
        split=fold.split,
        assigned=await rollouts.arms(tx, rollout.id),
        lag=rollout.assigned - rollout.folded,
        explanation=tuple(
            str(entry.detail.get("explanation") or entry.detail["reason"]) for entry in entries
        ),
    )


def previous(moves: Iterable[tuple[str, str]], stable: str) -> str | None:
    """The release that was stable before the one that is, going back over what was rolled back.

    Args:
        moves: From which release to which stable has moved, the oldest move first.
        stable: The release that is stable now.
    """
    path: list[str] = []
    for source, target in moves:
        path = path or [source]
        path = path[: path.index(target)] if target in path else path
        path.append(target)
    before = path[: path.index(stable)] if stable in path else path
    return before[-1] if before else None


def _row(test: Evidence, threshold: float) -> EvidenceRow:
    found = effect(test)
    reached = math.log(max(test.peak, 1.0)) / math.log(threshold) if threshold > 1 else 1.0
    return EvidenceRow(
        metric=test.metric,
        question=test.question.value,
        e=test.e,
        peak=test.peak,
        log10_evidence=math.log10(max(test.e, _LEAST)),
        threshold=threshold,
        progress=min(1.0, reached),
        candidate_sessions=found.candidate_sessions,
        candidate_mean=found.candidate_mean,
        stable_sessions=found.stable_sessions,
        stable_mean=found.stable_mean,
        difference=found.difference,
        low=found.low,
        high=found.high,
    )


# ---------------------------------------------------------------- parts of transactions


async def _first(tx: Transaction, actor: Actor, release: Release, environment: str) -> Deployed:
    deployment = await deployments.add(
        tx, agent=release.agent, environment=environment, stable=release.digest
    )
    name = f"v{release.number} of {release.agent}"
    note = f"{name} is the first release in {environment} and has all of its sessions."
    await audit.add(
        tx,
        actor,
        "deployment.create",
        object_kind="deployment",
        object_id=f"{release.agent}/{environment}",
        detail={"stable": release.digest, "release": release.number, "reason": note},
    )
    return Deployed(deployment=deployment, release=release, rollout=None, note=note)


async def _approve(tx: Transaction, actor: Actor, rollout: Rollout) -> None:
    step = rollout.step + 1
    share = rollout.plan.steps[step].weight
    await approvals.add(
        tx,
        actor,
        rollout.id,
        step=step,
        detail={"reason": f"{actor.name} approved the step to {share:.0%} of new sessions."},
    )


async def _previous(tx: Transaction, deployment: Deployment) -> Release:
    moves = await rollouts.moves(tx, agent=deployment.agent, environment=deployment.environment)
    digest = previous(moves, deployment.stable)
    if digest is None:
        raise NotFound(
            f"no earlier release of {deployment.agent} was stable in {deployment.environment}",
            hint=f"Name one: penstock rollback {deployment.agent} --to RELEASE",
        )
    return await releases.get(tx, digest)


async def _under_way(tx: Transaction, agent: str, environment: str) -> Rollout | None:
    """The rollout that splits the traffic, held until the commit."""
    deployment = await deployed(tx, agent, environment)
    if deployment.rollout_id is None:
        return None
    rollout = await rollouts.lock(tx, deployment.rollout_id)
    return rollout if rollout.ended_us is None else None


async def _refuse_second(tx: Transaction, deployment: Deployment) -> None:
    assert deployment.rollout_id is not None
    rollout = await rollouts.get(tx, deployment.rollout_id)
    candidate = await releases.get(tx, rollout.candidate)
    raise Conflict(
        f"v{candidate.number} of {deployment.agent} is being rolled out in"
        f" {deployment.environment} ({rollout.phase.value}, {rollout.weight:.0%} of new sessions;"
        f" {rollout.id})",
        hint=f"End it first: penstock promote {deployment.agent}, or penstock abort"
        f" {deployment.agent}",
    )
