"""Which release a new unit meets."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.errors import NotFound
from penstock.domain.rollouts import Arm
from penstock.rules.assignments import assign, draw
from penstock.store import Transaction, deployments, rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a unit was put."""

    release: str  # digest
    stable: str  # digest of what it is compared with, or of what serves
    rollout_id: str | None
    arm: str | None


async def place(tx: Transaction, *, agent: str, environment: str, unit: str) -> Placement:
    """Give a new unit its release, under the weight that is in force at this very moment.

    The rollout's row is held until the commit, so positions have no gaps and no assignment is made
    under a weight that has just changed.

    Raises:
        NotFound: the agent is not deployed in this environment.
    """
    deployment = await deployments.get(tx, agent, environment)
    if deployment is None:
        raise NotFound(
            f"agent {agent!r} is not deployed in {environment}",
            hint=f"Deploy it: penstock deploy {agent} --environment {environment}",
        )
    if deployment.rollout_id is not None:
        position = await rollouts.next_position(tx, deployment.rollout_id)
        if position is not None:
            arm = assign(position.salt, unit, position.weight)
            await rollouts.assign(
                tx,
                deployment.rollout_id,
                unit=unit,
                position=position,
                arm=arm,
                draw=draw(position.salt, unit),
            )
            return Placement(
                release=position.candidate if arm is Arm.CANDIDATE else position.stable,
                stable=position.stable,
                rollout_id=deployment.rollout_id,
                arm=arm.value,
            )
        # It has ended since the deployment was read.
        ended = await deployments.get(tx, agent, environment)
        deployment = ended or deployment
    return Placement(release=deployment.stable, stable=deployment.stable, rollout_id=None, arm=None)
