"""Rolling back one component: a new release out of parts that have served before."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actions.placements import deployed
from penstock.actions.releases import ReleaseActions, find
from penstock.actions.rollouts import Deployed, RolloutActions
from penstock.domain.access import Actor
from penstock.domain.components import ComponentKind
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.domain.releases import Release
from penstock.domain.rollouts import Strategy
from penstock.kit.clock import BootClock, Clock
from penstock.rules import compositions, rollbacks
from penstock.rules.access import check
from penstock.rules.rollbacks import Stable
from penstock.store import Store, Transaction, releases, rollouts

_DEEP = 50  # stable releases that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack:
    """What a component's rollback led to."""

    deployed: Deployed
    component: ComponentKind
    fast: bool  # every part was proven within the rollback window: no ramp
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Situation:
    """What is stable, and what was."""

    stable: Release
    history: tuple[Stable, ...]


class RollbackActions:
    """Rolls one component back and leaves the others as they are."""

    def __init__(
        self,
        store: Store,
        releases: ReleaseActions,
        rollouts: RolloutActions,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._releases = releases
        self._rollouts = rollouts
        self._clock = clock or BootClock()

    async def roll_back(
        self,
        actor: Actor,
        agent: str,
        component: str,
        *,
        environment: str = "production",
        to: str | None = None,
    ) -> RolledBack:
        """Make a release that differs from the stable one in one component, and give it traffic.

        Args:
            actor: who.
            agent: whose.
            component: prompt, tools, model, code or policy; or one prompt or alias, prompt.system.
            environment: where.
            to: a version of the component; without it, what it was before.

        Raises:
            Conflict: a rollout is under way, or the component is at that version already.
            NotFound: there is no such version, or the component has never been another.
        """
        check(actor, "rollout.write")
        setting = _setting(component, to)
        situation = await self._situation(agent, environment)
        now = situation.stable.manifest.components
        if to is None:
            stable = rollbacks.target(setting.kind, now, situation.history)
            if stable is None:
                raise NotFound(
                    f"the {setting.kind.value} of {agent} has not been another in {environment}",
                    hint=f"Name a version: penstock rollback {agent} --component {component}"
                    " --to VERSION",
                )
            setting = _setting(component, f"@{stable.past.release}")
        draft, _ = await self._releases.compose(agent, situation.stable.digest, [setting])
        wanted = draft.pinned.components
        if wanted == now:
            raise Conflict(
                f"the {component} of {agent} in {environment} is at {to or 'that version'} already"
            )
        message = f"roll back {component}" + (f" to {to}" if to else "")
        (cut,) = await self._releases.publish(actor, [draft], message=message)
        fast = rollbacks.is_proven(
            wanted,
            now,
            situation.history,
            now_us=self._clock.now_us(),
            window_seconds=situation.stable.manifest.policy.rollback_window_seconds,
        )
        done = await self._rollouts.deploy(
            actor,
            agent=agent,
            ref=cut.release.digest,
            environment=environment,
            strategy=Strategy.ALL_AT_ONCE.value if fast else None,
            overlay=False,
        )
        why = (
            "every part of it was stable within the rollback window"
            if fast
            else "a part of it was not stable within the rollback window, so it has to prove itself"
        )
        return RolledBack(
            deployed=done,
            component=setting.kind,
            fast=fast,
            note=f"{done.note} Of v{situation.stable.number} it changes {component} only; {why}.",
        )

    async def _situation(self, agent: str, environment: str) -> _Situation:
        async def work(tx: Transaction) -> _Situation:
            deployment = await deployed(tx, agent, environment)
            if deployment.rollout_id is not None:
                raise Conflict(
                    f"a rollout of {agent} is under way in {environment}",
                    hint=f"End it first: penstock rollback {agent} (without --component)",
                )
            pasts = await rollouts.stables(tx, agent=agent, environment=environment, limit=_DEEP)
            history = []
            for past in pasts:
                release = await releases.get(tx, past.release)
                history.append(Stable(past=past, components=release.manifest.components))
            stable = await find(tx, agent, deployment.stable)
            return _Situation(stable=stable, history=tuple(history))

        return await self._store.read(work)


def _setting(component: str, to: str | None) -> compositions.Setting:
    hint = "One of: prompt, tools, model, code, policy, or one prompt or alias: prompt.system."
    try:
        setting = compositions.parse(f"{component}={to or '@previous'}")
    except Invalid:
        raise Invalid(f"{component!r} is no component", hint=hint) from None
    if setting.path:
        raise Invalid(f"{component!r} is no component", hint=hint)
    return setting
