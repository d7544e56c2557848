"""States: look at what a session keeps between its tasks, edit it, fork it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, NotFound
from penstock.domain.sessions import Session
from penstock.domain.states import State, StateWish
from penstock.kit.ids import new_id
from penstock.rules.access import check
from penstock.store import Store, Transaction, attachments, audit, checkpoints, sessions

_MOST = 100


class Framework(Protocol):
    """Who can read a state: a process of the session's own release."""

    async def ask(self, session: Session, wish: StateWish) -> State | list[State]:
        """What the framework says to a wish; an edit is committed when this returns."""
        ...


class StateActions:
    """What may be done with the state of a session."""

    def __init__(self, store: Store, framework: Framework) -> None:
        self._store = store
        self._framework = framework

    async def get(
        self, actor: Actor, session_id: str, *, checkpoint_id: str | None = None
    ) -> State | list[State]:
        """The state of a session: the latest, or that of a checkpoint.

        Raises:
            NotFound: there is no such session or checkpoint.
            Conflict: its agent keeps no state.
            Unavailable: its process does not answer.
        """
        check(actor, "session.read")
        wish = StateWish(kind="get", checkpoint_id=checkpoint_id)
        return await self._framework.ask(await self._session(session_id), wish)

    async def history(
        self, actor: Actor, session_id: str, *, limit: int = 20, before: str | None = None
    ) -> State | list[State]:
        """The states of a session from the newest to the oldest; raises like :meth:`get`."""
        check(actor, "session.read")
        wish = StateWish(kind="history", limit=min(limit, _MOST), before=before)
        return await self._framework.ask(await self._session(session_id), wish)

    async def edit(
        self,
        actor: Actor,
        session_id: str,
        *,
        values: Any,
        as_node: str | None = None,
        checkpoint_id: str | None = None,
    ) -> State | list[State]:
        """Write into the state of a session, as if a node had done it: a new checkpoint.

        A task that waits goes on from there.

        Raises:
            NotFound: there is no such session or checkpoint.
            Conflict: a task of the session runs, or has changed the state meanwhile; or its agent
                keeps no state.
            Invalid: the graph has no such node, or the values do not fit; nothing was changed.
            Unavailable: its process does not answer.
        """
        check(actor, "session.write")
        session = await self._session(session_id)
        wish = StateWish(kind="edit", values=values, as_node=as_node, checkpoint_id=checkpoint_id)
        edited = await self._framework.ask(session, wish)

        async def note(tx: Transaction) -> None:
            detail = {"as_node": as_node, "checkpoint": edited}
            await audit.add(
                tx, actor, "state.edit", object_kind="session", object_id=session_id, detail=detail
            )

        await self._store.transact(note)
        return edited

    async def fork(
        self,
        actor: Actor,
        session_id: str,
        *,
        checkpoint_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new session that begins where another is, or was at a checkpoint.

        It stays on the same release, and lives for as long after its last use; from here on neither
        knows of the other. No rollout counts it: nobody assigned it.

        Raises:
            NotFound: there is no such session or checkpoint.
            Conflict: the session has no state.
        """
        check(actor, "session.write")

        async def work(tx: Transaction) -> Session:
            # Held: what is deleted meanwhile would be copied in half.
            origin = await sessions.lock(tx, session_id)
            until = checkpoint_id or await checkpoints.latest(tx, session_id)
            if until is None:
                raise Conflict(
                    f"session {session_id} has no state to begin with",
                    hint="Only LangGraph graphs keep a state between tasks.",
                )
            if not await checkpoints.exists(tx, session_id, until):
                raise NotFound(f"session {session_id} has no checkpoint {until}")
            forked = await sessions.add(
                tx,
                session_id=new_id("ses"),
                agent=origin.agent,
                environment=origin.environment,
                release=origin.release,
                user_id=origin.user_id if user_id is None else user_id,
                metadata={**origin.metadata, **(metadata or {}), "forked_from": session_id},
                rollout_id=None,
                arm=None,
                judge=None,
            )
            await checkpoints.copy(
                tx,
                sealer=self._store.sealer,
                session_id=session_id,
                to_session_id=forked.id,
                until=until,
                pending=False,
            )
            await attachments.copy(tx, session_id=session_id, to_session_id=forked.id)
            return await sessions.last_like(tx, forked.id, other=session_id)

        return await self._store.transact(work)

    async def _session(self, session_id: str) -> Session:
        async def work(tx: Transaction) -> Session:
            return await sessions.get(tx, session_id)

        return await self._store.read(work)
