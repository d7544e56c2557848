"""Sessions: begin, look up, end, give feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.actions.placements import place
from penstock.domain.access import Actor
from penstock.domain.errors import Invalid
from penstock.domain.sessions import Session
from penstock.kit.ids import new_id
from penstock.rules.access import check
from penstock.store import Store, Transaction, endings, releases, sessions, tasks

_MOST = 500
_LONGEST_TTL_SECONDS = 10 * 366 * 86_400.0
_METRIC = "completion"


class Judges:
    """What a release says of sessions; it never changes, so its answer is kept."""

    def __init__(self) -> None:
        self._judging: dict[str, bool] = {}
        self._ttl: dict[str, float | None] = {}

    async def of(self, tx: Transaction, stable: str) -> str | None:
        """``stable`` if it brings an evaluator: both arms of a rollout are judged by it."""
        known = self._judging.get(stable)
        if known is None:
            release = await releases.get(tx, stable)
            known = self._judging[stable] = _METRIC in release.manifest.policy.evaluators
        return stable if known else None

    async def ttl_seconds(self, tx: Transaction, release: str) -> float | None:
        """How long after its last use a session on ``release`` is deleted; never, if nothing."""
        if release not in self._ttl:
            found = await releases.get(tx, release)
            self._ttl[release] = found.manifest.policy.session_ttl_seconds
        return self._ttl[release]


async def begin(
    tx: Transaction,
    judges: Judges,
    *,
    agent: str,
    environment: str,
    user_id: str | None,
    metadata: Mapping[str, Any],
    ttl_seconds: float | None = None,
) -> Session:
    """A new session on the release that the deployment, or its rollout, gives it.

    It lives for ``ttl_seconds`` after its last use, or for as long as its release says.

    Raises:
        NotFound: the agent is not deployed in this environment.
    """
    session_id = new_id("ses")
    placement = await place(tx, agent=agent, environment=environment, unit=session_id)
    if ttl_seconds is None:
        ttl_seconds = await judges.ttl_seconds(tx, placement.release)
    return await sessions.add(
        tx,
        session_id=session_id,
        agent=agent,
        environment=environment,
        release=placement.release,
        user_id=user_id,
        metadata=metadata,
        rollout_id=placement.rollout_id,
        arm=placement.arm,
        judge=await judges.of(tx, placement.stable),
        ttl_seconds=ttl_seconds,
    )


class SessionActions:
    """What may be done with sessions."""

    def __init__(self, store: Store, judges: Judges) -> None:
        self._store = store
        self._judges = judges

    async def create(
        self,
        actor: Actor,
        *,
        agent: str,
        environment: str = "production",
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
    ) -> Session:
        """Begin a session; ``ttl_seconds`` after its last use it is deleted.

        Raises:
            Invalid: the time is not between a second and ten years.
            NotFound: the agent is not deployed in this environment.
        """
        check(actor, "session.write")
        if ttl_seconds is not None and not 1 <= ttl_seconds <= _LONGEST_TTL_SECONDS:
            raise Invalid("ttl_seconds lies between 1 and ten years")

        async def work(tx: Transaction) -> Session:
            return await begin(
                tx,
                self._judges,
                agent=agent,
                environment=environment,
                user_id=user_id,
                metadata=metadata or {},
                ttl_seconds=ttl_seconds,
            )

        return await self._store.transact(work)

    async def get(self, actor: Actor, session_id: str) -> Session:
        """One session.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "session.read")

        async def work(tx: Transaction) -> Session:
            return await sessions.get(tx, session_id)

        return await self._store.read(work)

    async def listing(
        self,
        actor: Actor,
        *,
        agent: str | None = None,
        state: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Session]:
        """Sessions from the newest to the oldest."""
        check(actor, "session.read")

        async def work(tx: Transaction) -> list[Session]:
            return await sessions.listing(
                tx, agent=agent, state=state, limit=min(limit, _MOST), before=before
            )

        return await self._store.read(work)

    async def close(self, actor: Actor, session_id: str) -> Session:
        """End a session, at once or with the last of its tasks that has not ended.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "session.write")

        async def work(tx: Transaction) -> Session:
            await sessions.lock(tx, session_id)
            live, _ = await tasks.live_in_session(tx, session_id)
            if live:
                await endings.close_after(tx, session_id)
            else:
                await sessions.close(tx, session_id)
            return await sessions.get(tx, session_id)

        return await self._store.transact(work)

    async def feedback(self, actor: Actor, session_id: str, *, thumb: int) -> Session:
        """Keep what a person thought of a session: -1 down, 1 up, 0 takes it back.

        Raises:
            Invalid: the thumb is none of these.
            NotFound: there is no such session.
        """
        check(actor, "session.write")
        if thumb not in (-1, 0, 1):
            raise Invalid(
                f"a thumb is -1 (down), 0 (none) or 1 (up), not {thumb}",
                hint='Send {"thumb": 1} or {"thumb": -1}.',
            )

        async def work(tx: Transaction) -> Session:
            return await sessions.feedback(tx, session_id, thumb=thumb)

        return await self._store.transact(work)
