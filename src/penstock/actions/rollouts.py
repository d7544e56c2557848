"""Rollouts: deploy, promote, abort, pause, resume, roll back, explain."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.access import Actor
from penstock.domain.agents import Deployment
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.domain.releases import Release
from penstock.domain.rollouts import (
    DEFAULT_PLAN,
    Baseline,
    Evidence,
    Plan,
    Rollout,
    Strategy,
    Verb,
    plan_from_json,
)
from penstock.kit.ids import new_id
from penstock.rules import measures
from penstock.rules.access import check
from penstock.rules.evidence import effect, open_evidence, verdict
from penstock.rules.rollouts import begin, request
from penstock.store import (
    Store,
    Transaction,
    agents,
    audit,
    deployments,
    evidence,
    releases,
    rollouts,
    transitions,
)

_HISTORY = 500  # sessions of the stable release that make its baseline
_MOST = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What a deploy led to."""

    deployment: Deployment
    release: Release
    rollout: Rollout | None  # none: it is the agent's first release here, or stable already


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One running test, as a person reads it."""

    metric: str
    question: str
    e: float  # what a bet of 1 against "no difference" has become
    threshold: float  # … and what it must become for a verdict
    progress: float  # between 0 and 1, on a logarithmic scale
    candidate_sessions: int
    candidate_mean: float | None
    stable_sessions: int
    stable_mean: float | None
    difference: float
    low: float  # of the 95 % confidence sequence of the difference
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutView:
    """A rollout with its evidence and its story."""

    rollout: Rollout
    tests: tuple[Test, ...]
    assigned: Mapping[str, int]  # sessions by arm, and how many of all were served
    lag: int  # sessions whose outcome is not in the evidence yet
    explanation: tuple[str, ...]  # one paragraph a transition


class RolloutActions:
    """What may be done with deployments and rollouts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def deploy(
        self,
        actor: Actor,
        *,
        agent: str,
        ref: str = "latest",
        environment: str = "production",
        strategy: str | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> Deployed:
        """Give a release traffic: all of it if it is the first, else what the plan says.

        Raises:
            NotFound: there is no such release.
            Conflict: a rollout is under way here.
            Invalid: the plan cannot be read or followed.
        """
        check(actor, "rollout.write")

        async def work(tx: Transaction) -> Deployed:
            await agents.get(tx, agent)
            release = await releases.find(tx, agent, ref)
            deployment = await deployments.get(tx, agent, environment)
            if deployment is None:
                return await self._first(tx, actor, release, environment)
            if deployment.rollout_id is not None:
                await self._refuse_second(tx, deployment)
            if deployment.stable == release.digest:
                return Deployed(deployment=deployment, release=release, rollout=None)
            chosen = _plan(release, strategy, plan)
            rollout = await self._begin(tx, actor, deployment, release, chosen)
            return Deployed(
                deployment=await self._deployment(tx, agent, environment),
                release=release,
                rollout=rollout,
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
        """Go on with a paused rollout."""
        return await self._request(actor, agent, environment, Verb.RESUME)

    async def rollback(
        self,
        actor: Actor,
        agent: str,
        environment: str = "production",
        *,
        to: str | None = None,
    ) -> Rollout:
        """Go back: end a rollout that is on, or else make an earlier release stable at once.

        Raises:
            NotFound: there is nothing to go back to.
            Conflict: the release is stable already.
        """
        check(actor, "rollout.write")

        async def work(tx: Transaction) -> Rollout:
            deployment = await self._deployment(tx, agent, environment)
            if deployment.rollout_id is not None and to is None:
                rollout = await rollouts.get(tx, deployment.rollout_id)
                return await transitions.record(tx, actor, rollout, request(rollout, Verb.ABORT))
            if deployment.rollout_id is not None:
                await self._refuse_second(tx, deployment)
            if to is not None:
                target = await releases.find(tx, agent, to)
            else:
                last = await rollouts.last_live(tx, agent=agent, environment=environment)
                if last is None or last.candidate != deployment.stable:
                    raise NotFound(
                        f"no earlier release of {agent} was stable in {environment}",
                        hint=f"Name one: penstock rollback {agent} --to RELEASE",
                    )
                target = await releases.get(tx, last.stable)
            if target.digest == deployment.stable:
                raise Conflict(f"release v{target.number} of {agent} is stable already")
            plan = plan_from_json({"strategy": Strategy.ALL_AT_ONCE.value})
            return await self._begin(tx, actor, deployment, target, plan)

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

    async def listing(
        self, actor: Actor, *, agent: str | None = None, limit: int = 50
    ) -> list[Rollout]:
        """Rollouts from the newest to the oldest."""
        check(actor, "rollout.read")

        async def work(tx: Transaction) -> list[Rollout]:
            return await rollouts.listing(tx, agent=agent, limit=min(limit, _MOST))

        return await self._store.read(work)

    # ------------------------------------------------------------ parts of transactions

    async def _first(
        self, tx: Transaction, actor: Actor, release: Release, environment: str
    ) -> Deployed:
        deployment = await deployments.add(
            tx, agent=release.agent, environment=environment, stable=release.digest
        )
        await audit.add(
            tx,
            actor,
            "deployment.create",
            object_kind="deployment",
            object_id=f"{release.agent}/{environment}",
            detail={"stable": release.digest, "release": release.number},
        )
        return Deployed(deployment=deployment, release=release, rollout=None)

    async def _begin(
        self, tx: Transaction, actor: Actor, deployment: Deployment, candidate: Release, plan: Plan
    ) -> Rollout:
        baseline = await self._baseline(tx, deployment)
        decision = begin(plan)
        rollout = await rollouts.add(
            tx,
            rollout_id=new_id("rol"),
            agent=deployment.agent,
            environment=deployment.environment,
            stable=deployment.stable,
            candidate=candidate.digest,
            plan=plan,
            salt=secrets.token_hex(16),
            baseline=baseline,
            begin=decision,
        )
        tests = open_evidence(plan, baseline, measures.active(baseline))
        await evidence.put(tx, rollout.id, tests, evidence.Fold())
        await deployments.change(tx, deployment, stable=deployment.stable, rollout_id=rollout.id)
        await audit.add(
            tx,
            actor,
            "rollout.begin",
            object_kind="rollout",
            object_id=rollout.id,
            detail={
                "agent": rollout.agent,
                "environment": rollout.environment,
                "stable": rollout.stable,
                "candidate": rollout.candidate,
                "reason": decision.reason,
                "weight": decision.weight,
                "numbers": dict(decision.numbers),
            },
        )
        return await transitions.settle(tx, actor, rollout)

    async def _baseline(self, tx: Transaction, deployment: Deployment) -> Baseline:
        """What is known of the stable release now; it does not change while the rollout is on."""
        rows = await rollouts.history(
            tx,
            agent=deployment.agent,
            environment=deployment.environment,
            release=deployment.stable,
            limit=_HISTORY,
        )
        rows = [row for row in rows if row["judge"] is None or row["judged_us"] is not None]
        release = await releases.get(tx, deployment.stable)
        return measures.freeze(
            latencies_us=[row["busy_us"] for row in rows],
            costs_nanos=[row["cost_nanos"] for row in rows],
            completions=[_completion(row) for row in rows],
            errors=sum(row["failures"] > 0 for row in rows),
            cost_limit_nanos=release.manifest.policy.limits.cost_nanos,
        )

    async def _request(self, actor: Actor, agent: str, environment: str, verb: Verb) -> Rollout:
        check(actor, "rollout.write")

        async def work(tx: Transaction) -> Rollout:
            deployment = await self._deployment(tx, agent, environment)
            if deployment.rollout_id is None:
                raise NotFound(
                    f"no rollout of {agent} is under way in {environment}",
                    hint=f"Begin one: penstock deploy {agent}",
                )
            rollout = await rollouts.get(tx, deployment.rollout_id)
            return await transitions.record(tx, actor, rollout, request(rollout, verb))

        return await self._store.transact(work)

    async def _deployment(self, tx: Transaction, agent: str, environment: str) -> Deployment:
        deployment = await deployments.get(tx, agent, environment)
        if deployment is None:
            raise NotFound(
                f"agent {agent!r} is not deployed in {environment}",
                hint=f"Deploy it: penstock deploy {agent} --environment {environment}",
            )
        return deployment

    async def _refuse_second(self, tx: Transaction, deployment: Deployment) -> None:
        assert deployment.rollout_id is not None
        rollout = await rollouts.get(tx, deployment.rollout_id)
        candidate = await releases.get(tx, rollout.candidate)
        raise Conflict(
            f"release v{candidate.number} of {deployment.agent} is being rolled out in"
            f" {deployment.environment} ({rollout.phase.value}, {rollout.weight:.0%} of traffic)",
            hint=f"End it first: penstock promote {deployment.agent}, or penstock abort"
            f" {deployment.agent}",
        )


async def view(tx: Transaction, rollout: Rollout) -> RolloutView:
    """A rollout as a person wants to see it."""
    tests, _ = await evidence.of_rollout(tx, rollout.id)
    thresholds = verdict(rollout.plan, tests).thresholds
    entries = await audit.listing(tx, object_kind="rollout", object_id=rollout.id)
    return RolloutView(
        rollout=rollout,
        tests=tuple(_test(test, thresholds[test.metric, test.question]) for test in tests),
        assigned=await rollouts.arms(tx, rollout.id),
        lag=rollout.assigned - rollout.folded,
        explanation=tuple(
            str(entry.detail.get("explanation") or entry.detail["reason"]) for entry in entries
        ),
    )


def _test(test: Evidence, threshold: float) -> Test:
    found = effect(test)
    reached = math.log(max(test.peak, 1.0)) / math.log(threshold) if threshold > 1 else 1.0
    return Test(
        metric=test.metric,
        question=test.question.value,
        e=test.e,
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


def _plan(release: Release, strategy: str | None, plan: Mapping[str, Any] | None) -> Plan:
    """The plan that was asked for, or else the candidate's own, or else the shipped one."""
    given = dict(plan if plan is not None else release.manifest.policy.rollout)
    if strategy is not None:
        if strategy == Strategy.ALL_AT_ONCE.value:
            given = {}
        given["strategy"] = strategy
    chosen = plan_from_json(given) if given else DEFAULT_PLAN
    if chosen.unit != "session":
        raise Invalid(
            "a rollout assigns sessions; unit: user is not supported yet",
            hint="Leave unit out, or set it to session.",
        )
    return chosen


def _completion(row: Mapping[str, Any]) -> float:
    if row["score"] is not None:
        return float(row["score"])
    return 1.0 if row["tasks"] > 0 and not row["failures"] else 0.0
