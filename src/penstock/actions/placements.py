"""Which release a new unit meets."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.agents import Deployment
from penstock.domain.errors import NotFound
from penstock.domain.rollouts import Arm
from penstock.rules.assignments import assign, draw
from penstock.store import Transaction, deployments, rollouts

_TRIES = 3  # rollouts that may end between one statement and the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a unit was put."""

    release: str  # digest
    stable: str  # digest of what it is compared with, or of what serves
    rollout_id: str | None
    arm: str | None


async def place(tx: Transaction, *, agent: str, environment: str, unit: str) -> Placement:
    """Give a unit its release, under the weight that is in force at this very moment.

    The rollout's row is held until the commit, so positions have no gaps and no assignment is made
    under a weight that has just changed. A unit that the rollout has met keeps its arm.

    Raises:
        NotFound: the agent is not deployed in this environment.
    """
    deployment = await deployed(tx, agent, environment)
    for _ in range(_TRIES):
        if deployment.rollout_id is None:
            break
        placed = await _in_rollout(tx, deployment.rollout_id, unit)
        if placed is not None:
            return placed
        # The rollout has ended since the deployment was read.
        deployment = await deployed(tx, agent, environment)
    return Placement(release=deployment.stable, stable=deployment.stable, rollout_id=None, arm=None)


async def deployed(tx: Transaction, agent: str, environment: str) -> Deployment:
    """An agent's deployment.

    Raises:
        NotFound: it is not deployed in this environment.
    """
    deployment = await deployments.get(tx, agent, environment)
    if deployment is None:
        raise NotFound(
            f"agent {agent!r} is not deployed in {environment}",
            hint=f"Deploy it: penstock deploy {agent} --environment {environment}",
        )
    return deployment


async def _in_rollout(tx: Transaction, rollout_id: str, unit: str) -> Placement | None:
    """The unit's place in a rollout, if it is still on."""
    position = await rollouts.next_position(tx, rollout_id, unit=unit)
    if position is None:
        known = await rollouts.assignment(tx, rollout_id, unit=unit)
        if known is None:
            return None
        return _placement(rollout_id, known.arm, stable=known.stable, candidate=known.candidate)
    arm = assign(position.salt, unit, position.weight)
    await rollouts.assign(
        tx,
        rollout_id,
        unit=unit,
        position=position,
        arm=arm,
        draw=draw(position.salt, unit),
    )
    return _placement(rollout_id, arm, stable=position.stable, candidate=position.candidate)


def _placement(rollout_id: str, arm: Arm, *, stable: str, candidate: str) -> Placement:
    return Placement(
        release=candidate if arm is Arm.CANDIDATE else stable,
        stable=stable,
        rollout_id=rollout_id,
        arm=arm.value,
    )
