"""An agent with releases and sessions whose outcomes are known, straight in the store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from penstock.actions.placements import place
from penstock.domain.access import Actor, Role
from penstock.domain.components import ComponentKind, NewComponent
from penstock.domain.releases import FileEntry, Limits, Manifest, Policy
from penstock.domain.tasks import Ending, TaskState
from penstock.rules.releases import digest_bytes
from penstock.store import agents, audit, claims, endings, releases, rollouts, sessions, tasks

AGENT = "support"
ENVIRONMENT = "production"
ADA = Actor(id="prn_ada", name="ada", role=Role.ADMIN)
VIEWER = Actor(id="prn_vic", name="vic", role=Role.VIEWER)

_ENDINGS = {
    "ok": (TaskState.COMPLETED, Ending.OK),
    "error": (TaskState.FAILED, Ending.ERROR),
    "budget": (TaskState.FAILED, Ending.BUDGET),
    "crash": (TaskState.DEAD_LETTERED, Ending.CRASH),
}
_numbers = count(1)


async def release(store, name: str, *, agent: str = AGENT, rollout=None, evaluators=None):
    """A release that differs from another by its name."""
    lock = b"# nothing"
    file = FileEntry(path="x", digest=digest_bytes(lock))
    manifest = Manifest(
        agent=agent,
        entrypoint="support.graph:graph",
        python="3.11",
        code=(),
        prompts=(),
        tool_files=(),
        tools=(),
        models={},
        lock=file,
        graph={},
        state_schema="0" * 64,
        policy=Policy(
            env={"NAME": name},
            limits=Limits(cost_nanos=500_000_000),
            rollout=rollout or {},
            evaluators=evaluators or {},
        ),
        components={},
    )

    parts = [
        NewComponent(kind=kind, name="", digest=f"{name}{kind.value}", content="{}")
        for kind in ComponentKind
    ]

    async def work(tx):
        await agents.ensure(tx, agent)
        made, _ = await releases.add(
            tx, manifest, parts=parts, contents={file.digest: lock}, message=name, created_by="ada"
        )
        return made

    return await store.transact(work)


async def serve(
    store,
    ending: Callable[[str | None, int], str] | str,
    number: int,
    *,
    agent: str = AGENT,
    close: bool = True,
    judge: str | None = None,
):
    """``number`` new sessions of one task each; ``ending(arm, index)`` says how each ends.

    ``open`` is a session without a task. Returns their ids and arms, in order.
    """
    served = []

    async def work(tx):
        for index in range(number):
            session_id = f"ses_{next(_numbers):08d}"
            placement = await place(tx, agent=agent, environment=ENVIRONMENT, unit=session_id)
            await sessions.add(
                tx,
                session_id=session_id,
                agent=agent,
                environment=ENVIRONMENT,
                release=placement.release,
                user_id=None,
                metadata={},
                rollout_id=placement.rollout_id,
                arm=placement.arm,
                judge=judge,
            )
            how = ending if isinstance(ending, str) else ending(placement.arm, index)
            await _task(tx, session_id, placement.release, agent, how, close=close)
            served.append((session_id, placement.arm))

    await store.transact(work)
    return served


async def _task(tx, session_id, digest, agent, how, *, close):
    if how == "open":
        return
    state, outcome = _ENDINGS[how]
    task_id = f"task_{session_id}"
    await tasks.add(
        tx,
        task_id=task_id,
        session_id=session_id,
        agent=agent,
        environment=ENVIRONMENT,
        release=digest,
        given={},
        close_session=close,
    )
    for claim in await claims.claim(tx, worker_id="wrk", limit=10):
        await endings.finish(
            tx,
            task_id=claim.task.id,
            epoch=claim.epoch,
            state=state,
            outcome=outcome.value,
            output={},
            crashes=0,
            losses=0,
        )


async def rollout(store, rollout_id: str):
    """A rollout as it stands."""

    async def work(tx):
        return await rollouts.get(tx, rollout_id)

    return await store.read(work)


async def results(store, rollout_id: str, *, horizon_seconds: float = 1800.0):
    """What came of every session of a rollout."""

    async def work(tx):
        return await rollouts.results(
            tx, rollout_id, after=0, limit=100_000, horizon_seconds=horizon_seconds
        )

    return await store.read(work)


async def story(store, rollout_id: str):
    """The audit entries of a rollout."""

    async def work(tx):
        return await audit.listing(tx, object_kind="rollout", object_id=rollout_id, limit=1000)

    return await store.read(work)
