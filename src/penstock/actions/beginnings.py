"""How a rollout begins: its plan, the baseline it is frozen with, and its first state."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from penstock.domain.access import Actor
from penstock.domain.agents import Deployment
from penstock.domain.errors import Invalid
from penstock.domain.releases import Release
from penstock.domain.rollouts import (
    DEFAULT_PLAN,
    Baseline,
    Decision,
    Plan,
    Rollout,
    Strategy,
    plan_from_json,
)
from penstock.kit.ids import new_id
from penstock.rules import measures
from penstock.rules.evidence import open_evidence
from penstock.rules.explanations import explain
from penstock.store import (
    Transaction,
    audit,
    deployments,
    evidence,
    releases,
    rollouts,
    transitions,
)

_HISTORY = 500  # sessions of the stable release that make its baseline
_PROOF_SESSIONS = 2000  # about what an equal release takes on the shipped ramp
_LEAST_PACE = 20  # sessions that tell a pace
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_WORKBENCH = "dev"  # the environment where nobody waits for proof


def choose(
    release: Release,
    *,
    environment: str,
    strategy: str | None,
    plan: Mapping[str, Any] | None,
) -> Plan:
    """The plan that was asked for, or else the candidate's own, or else the shipped one.

    Raises:
        Invalid: it cannot be read or followed.
    """
    given = dict(plan if plan is not None else release.manifest.policy.rollout)
    if strategy is None and plan is None and environment == _WORKBENCH:
        strategy = Strategy.ALL_AT_ONCE.value
    if strategy is not None:
        if strategy not in set(Strategy):
            raise Invalid(
                f"there is no strategy {strategy!r}",
                hint="There are: " + ", ".join(known.value for known in Strategy),
            )
        if strategy != given.get("strategy", Strategy.CANARY.value):
            given.pop("steps", None)  # they belong to the other strategy
        given["strategy"] = strategy
    chosen = plan_from_json(given) if given else DEFAULT_PLAN
    if chosen.unit != "session":
        raise Invalid(
            "a rollout assigns sessions; unit: user is not supported yet",
            hint="Leave unit out, or set it to session.",
        )
    return chosen


async def begin(
    tx: Transaction,
    actor: Actor,
    deployment: Deployment,
    *,
    candidate: Release,
    plan: Plan,
    decision: Decision,
) -> Rollout:
    """Begin a rollout in its first state; one that has nothing to wait for ends here, too.

    Raises:
        Conflict: the deployment has been changed since it was read.
    """
    frozen = await baseline(tx, deployment)
    rollout = await rollouts.add(
        tx,
        rollout_id=new_id("rol"),
        agent=deployment.agent,
        environment=deployment.environment,
        stable=deployment.stable,
        candidate=candidate.digest,
        plan=plan,
        salt=secrets.token_hex(16),
        baseline=frozen,
        begin=decision,
    )
    tests = open_evidence(plan, frozen, measures.active(frozen))
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
            "to": rollout.phase.value,
            "step": rollout.step,
            "weight": rollout.weight,
            "reason": decision.reason,
            "numbers": dict(decision.numbers) | {"baseline_sessions": frozen.sessions},
            "explanation": explain(rollout, decision, rollout.started_us),
        },
    )
    return await transitions.settle(tx, actor, rollout)


async def baseline(tx: Transaction, deployment: Deployment) -> Baseline:
    """What is known of the stable release now; frozen with the rollout that begins."""
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


async def forecast(tx: Transaction, rollout: Rollout) -> str:
    """How long proof will take at the present pace, as a sentence; empty if nobody knows."""
    plan = rollout.plan
    if (plan.steps, plan.goal, plan.risk) != (
        DEFAULT_PLAN.steps,
        DEFAULT_PLAN.goal,
        DEFAULT_PLAN.risk,
    ):
        return ""
    rows = await rollouts.history(
        tx,
        agent=rollout.agent,
        environment=rollout.environment,
        release=rollout.stable,
        limit=_HISTORY,
    )
    proof = f"Proof of an equal release takes about {_PROOF_SESSIONS:,} sessions"
    if len(rows) < _LEAST_PACE:
        return f"{proof}."
    span_us = max(rollout.started_us - rows[-1]["created_us"], 1)
    seconds = _PROOF_SESSIONS * span_us / 1e6 / len(rows)
    return f"{proof}: {roughly(seconds)} at the pace of the last {len(rows)} sessions."


def roughly(seconds: float) -> str:
    """A duration as one says it."""
    for unit, word in ((_DAY, "days"), (_HOUR, "hours"), (_MINUTE, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.0f} {word}"
    return "a minute"


def _completion(row: Mapping[str, Any]) -> float:
    if row["score"] is not None:
        return float(row["score"])
    return 1.0 if row["tasks"] > 0 and not row["failures"] else 0.0
