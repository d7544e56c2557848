"""Agents: what is deployed, and how it is doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.actions.rollouts import RolloutView, view
from penstock.domain.access import Actor
from penstock.domain.agents import Agent, Deployment
from penstock.domain.releases import Isolation, Release
from penstock.rules.access import check
from penstock.store import Store, Transaction, agents, deployments, releases, rollouts, tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """How the attempts of a release get their process on this server."""

    mode: str  # fork | spare | shared
    why: str | None  # it is not forked


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentView:
    """A deployment with its releases and the rollout that is on."""

    deployment: Deployment
    stable: Release
    candidate: Release | None
    rollout: RolloutView | None
    starts: Mapping[str, Start]  # by release; those whose process is ready here


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentStatus:
    """An agent, wherever it is deployed."""

    agent: Agent
    deployments: tuple[DeploymentView, ...]
    tasks: Mapping[str, int]  # by state
    latest: Release | None


class AgentActions:
    """What may be asked about agents."""

    def __init__(
        self,
        store: Store,
        loaded: Callable[[], Mapping[str, tuple[str, str | None]]] = dict,
    ) -> None:
        """``loaded`` tells of the releases that are ready here how their attempts are started."""
        self._store = store
        self._loaded = loaded

    async def listing(self, actor: Actor) -> list[AgentStatus]:
        """Every agent with its status."""
        check(actor, "agent.read")

        async def work(tx: Transaction) -> list[AgentStatus]:
            counts = await _counts(tx)
            loaded = self._loaded()
            return [await _status(tx, agent, counts, loaded) for agent in await agents.listing(tx)]

        return await self._store.read(work)

    async def status(self, actor: Actor, name: str) -> AgentStatus:
        """One agent.

        Raises:
            NotFound: there is none of this name.
        """
        check(actor, "agent.read")

        async def work(tx: Transaction) -> AgentStatus:
            found = await agents.get(tx, name)
            return await _status(tx, found, await _counts(tx), self._loaded())

        return await self._store.read(work)


async def _counts(tx: Transaction) -> dict[str, dict[str, int]]:
    """Tasks by agent and state."""
    found: dict[str, dict[str, int]] = {}
    for agent, _, state, count in await tasks.counts(tx):
        states = found.setdefault(agent, {})
        states[state.value] = states.get(state.value, 0) + count
    return found


async def _status(
    tx: Transaction,
    agent: Agent,
    counts: Mapping[str, Mapping[str, int]],
    loaded: Mapping[str, tuple[str, str | None]],
) -> AgentStatus:
    views = []
    for deployment in await deployments.listing(tx, agent.name):
        rollout = None
        if deployment.rollout_id is not None:
            rollout = await view(tx, await rollouts.get(tx, deployment.rollout_id))
        stable = await releases.get(tx, deployment.stable)
        candidate = None if rollout is None else await releases.get(tx, rollout.rollout.candidate)
        views.append(
            DeploymentView(
                deployment=deployment,
                stable=stable,
                candidate=candidate,
                rollout=rollout,
                starts={
                    release.digest: _start(release, *loaded[release.digest])
                    for release in (stable, candidate)
                    if release is not None and release.digest in loaded
                },
            )
        )
    newest = await releases.listing(tx, agent.name, limit=1)
    return AgentStatus(
        agent=agent,
        deployments=tuple(views),
        tasks=counts.get(agent.name, {}),
        latest=newest[0] if newest else None,
    )


def _start(release: Release, mode: str, why: str | None) -> Start:
    shared = release.manifest.policy.isolation is Isolation.SHARED
    return Start(mode="shared" if shared else mode, why=why)
