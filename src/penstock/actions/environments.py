"""Environments: what they add to releases, and the release that comes of it."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.actions.releases import ReleaseActions, find
from penstock.domain.access import Actor
from penstock.domain.environments import Environment
from penstock.rules import compositions
from penstock.rules import environments as rules
from penstock.rules.access import check
from penstock.store import Store, Transaction, agents, audit, environments


class EnvironmentActions:
    """What may be done with environments."""

    def __init__(self, store: Store, releases: ReleaseActions) -> None:
        self._store = store
        self._releases = releases

    async def get(self, actor: Actor, agent: str, environment: str) -> Environment:
        """What an environment adds to an agent's releases.

        Raises:
            NotFound: there is no such agent.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> Environment:
            await agents.get(tx, agent)
            return await environments.get(tx, agent, environment)

        return await self._store.read(work)

    async def listing(self, actor: Actor, agent: str) -> list[Environment]:
        """The environments of an agent that add something.

        Raises:
            NotFound: there is no such agent.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> list[Environment]:
            await agents.get(tx, agent)
            return await environments.listing(tx, agent)

        return await self._store.read(work)

    async def change(
        self,
        actor: Actor,
        agent: str,
        environment: str,
        *,
        overlay: Mapping[str, str | None],
        variables: Mapping[str, str | None],
    ) -> Environment:
        """Add to an environment, or take away what is given as ``None``.

        Variables reach the agent's next attempts at once; an overlay makes a release of its own at
        the next deploy.

        Raises:
            Invalid: a name or a setting cannot be used.
            Conflict: somebody has changed it at the same moment.
        """
        check(actor, "environment.write")

        async def work(tx: Transaction) -> Environment:
            await agents.get(tx, agent)
            seen = await environments.get(tx, agent, environment)
            settings = _merged(seen.overlay, overlay)
            values = _merged(seen.variables, variables)
            rules.check(environment, settings, values)
            changed = await environments.change(
                tx, seen, overlay=settings, variables=values, updated_by=actor.name
            )
            await audit.add(
                tx,
                actor,
                "environment.change",
                object_kind="environment",
                object_id=f"{agent}/{environment}",
                detail={
                    "revision": changed.revision,
                    "overlay": dict(overlay),
                    "variables": dict(variables),
                },
            )
            return changed

        return await self._store.transact(work)

    async def overlaid(self, actor: Actor, agent: str, environment: str, ref: str) -> str:
        """The digest of what a release becomes in an environment; its own, if nothing is added.

        Raises:
            NotFound: there is no such release, or a version that the overlay names.
        """

        async def work(tx: Transaction) -> tuple[Environment, str]:
            await agents.get(tx, agent)
            release = await find(tx, agent, ref)
            return await environments.get(tx, agent, environment), release.digest

        added, digest = await self._store.read(work)
        if not added.overlay:
            return digest
        settings = compositions.settings_of(added.overlay)
        draft, _ = await self._releases.compose(agent, digest, settings)
        message = f"for {environment}"
        (cut,) = await self._releases.publish(actor, [draft], message=message)
        return cut.release.digest


def _merged(before: Mapping[str, str], change: Mapping[str, str | None]) -> dict[str, str]:
    found = {**before, **change}
    return {name: value for name, value in found.items() if value is not None}
