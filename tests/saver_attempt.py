"""An attempt whose calls go straight to a store: a saver without a process around it."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial

from penstock.domain.errors import Conflict, Damaged, Stale
from penstock.domain.releases import Limits
from penstock.domain.tasks import TaskState
from penstock.inside.attempts import Stopped
from penstock.inside.channel import Refused
from penstock.inside.frameworks.langgraph_saver import PenstockSaver
from penstock.rules.limits import Terms
from penstock.runtime.calls import answer_call
from penstock.runtime.journals import Journal
from penstock.store import claims, endings, sessions, tasks
from rollout_world import AGENT, ENVIRONMENT


class StoreAttempt:
    """What a saver sees of its attempt; its frames are taken apart as the real ones are."""

    def __init__(self, store, claim):
        self.journal = Journal(store, claim, Terms.of(Limits(), {}, claim.task.resource_class))
        self.session = claim.task.session_id
        self.task = claim.task.id
        self.loop = asyncio.get_running_loop()
        self.calls = []
        self.threads = []  # op, and the thread that asked

    def call(self, op, blobs=(), **fields):
        """From a thread beside the loop."""
        return self.begin_call(op, blobs, **fields).result()

    def begin_call(self, op, blobs=(), **fields):
        """From any thread, waiting for nothing."""
        self.threads.append((op, threading.get_ident()))
        return asyncio.run_coroutine_threadsafe(self.acall(op, blobs, **fields), self.loop)

    async def acall(self, op, blobs=(), **fields):
        header = json.loads(json.dumps({"op": op, **fields}))
        self.calls.append(header)
        try:
            answer = await answer_call(
                self.journal, header, [bytes(blob) for blob in blobs], said=list
            )
        except Stale as error:
            raise Stopped from error
        except (Conflict, Damaged) as error:
            raise Refused(str(error)) from error
        return json.loads(json.dumps(answer.header)), [bytes(blob) for blob in answer.blobs]


async def session(store, digest, name="ses_1"):
    """A session in the store."""
    await store.transact(
        partial(
            sessions.add, session_id=name, agent=AGENT, environment=ENVIRONMENT, release=digest,
            user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )
    )  # fmt: skip


async def claimed(store, digest, number=1, *, name="ses_1"):
    """A task of a session that has just been claimed."""
    await store.transact(
        partial(
            tasks.add, task_id=f"task_{number}", session_id=name, agent=AGENT,
            environment=ENVIRONMENT, release=digest, given=None,
        )
    )  # fmt: skip
    return await claim_again(store)


async def claim_again(store, worker="w1"):
    """The one task that is due."""
    (claim,) = await store.transact(partial(claims.claim, worker_id=worker, limit=1))
    return claim


async def finish(store, claim):
    """End a task."""
    await store.transact(
        partial(
            endings.finish, task_id=claim.task.id, epoch=claim.epoch, state=TaskState.COMPLETED,
            outcome="ok", crashes=0, losses=0,
        )
    )  # fmt: skip


def saver_of(store, claim, allowed=()):
    """A saver for a claimed task."""
    saver = PenstockSaver()
    if allowed:
        saver = saver.with_allowlist(allowed)
    return saver.of(StoreAttempt(store, claim))
