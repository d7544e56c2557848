"""Moves a rollout on, with its deployment and its audit entry, in one transaction."""

from __future__ import annotations

from penstock.domain.access import Actor
from penstock.domain.errors import NotFound
from penstock.domain.rollouts import Decision, Facts, Phase, Rollout
from penstock.rules.explanations import explain
from penstock.rules.rollouts import advance
from penstock.store import Transaction, audit, deployments, rollouts

_PASSING = {Phase.PROMOTING, Phase.ROLLING_BACK}


async def record(tx: Transaction, actor: Actor, before: Rollout, decision: Decision) -> Rollout:
    """Do what was decided about a rollout, and write down why.

    Promoting and rolling back are passed through at once: nothing has to be waited for.

    Raises:
        Conflict: the rollout, or its deployment, has changed since ``before`` was read.
    """
    after = await rollouts.transition(tx, before, decision)
    await audit.add(
        tx,
        actor,
        f"rollout.{decision.to_phase.value}",
        object_kind="rollout",
        object_id=before.id,
        detail={
            "agent": before.agent,
            "environment": before.environment,
            "from": before.phase.value,
            "to": decision.to_phase.value,
            "hold": None if decision.hold is None else decision.hold.value,
            "step": decision.step,
            "weight": decision.weight,
            "reason": decision.reason,
            "numbers": dict(decision.numbers),
            "explanation": explain(before, decision, after.phase_since_us),
        },
    )
    return await settle(tx, actor, after)


async def settle(tx: Transaction, actor: Actor, rollout: Rollout) -> Rollout:
    """Let the deployment follow a rollout that promotes, rolls back or has ended.

    Raises:
        Conflict: the deployment has just been changed by somebody else.
    """
    if rollout.phase in _PASSING:
        decision = advance(rollout, Facts(), rollout.phase_since_us)
        assert decision is not None
        return await record(tx, actor, rollout, decision)
    if rollout.phase in (Phase.LIVE, Phase.ROLLED_BACK):
        deployment = await deployments.get(tx, rollout.agent, rollout.environment)
        if deployment is None:
            raise NotFound(f"agent {rollout.agent} is not deployed in {rollout.environment}")
        if deployment.rollout_id == rollout.id:
            stable = rollout.candidate if rollout.phase is Phase.LIVE else rollout.stable
            await deployments.change(tx, deployment, stable=stable, rollout_id=None)
    return rollout
