"""What every route is given: the actions, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from penstock.actions.access import AccessActions
from penstock.actions.agents import AgentActions
from penstock.actions.artifacts import ArtifactActions
from penstock.actions.attachments import AttachmentActions
from penstock.actions.backups import BackupActions
from penstock.actions.components import ComponentActions
from penstock.actions.deletions import DeletionActions
from penstock.actions.environments import EnvironmentActions
from penstock.actions.garbage import GarbageActions
from penstock.actions.insight import InsightActions
from penstock.actions.labels import LabelActions
from penstock.actions.memories import MemoryActions
from penstock.actions.registries import RegistryActions
from penstock.actions.releases import ReleaseActions
from penstock.actions.rollbacks import RollbackActions
from penstock.actions.rollouts import RolloutActions
from penstock.actions.sessions import SessionActions
from penstock.actions.signing import SigningActions
from penstock.actions.states import StateActions
from penstock.actions.tasks import TaskActions
from penstock.actions.workers import WorkerActions
from penstock.domain.access import Actor
from penstock.domain.errors import Unauthenticated


@dataclass(frozen=True, kw_only=True, slots=True)
class Actions:
    """Everything that may be asked."""

    access: AccessActions
    agents: AgentActions
    artifacts: ArtifactActions
    attachments: AttachmentActions
    backups: BackupActions
    components: ComponentActions
    labels: LabelActions
    deletions: DeletionActions
    environments: EnvironmentActions
    garbage: GarbageActions
    insight: InsightActions
    memories: MemoryActions
    registries: RegistryActions
    releases: ReleaseActions
    rollbacks: RollbackActions
    rollouts: RolloutActions
    sessions: SessionActions
    signing: SigningActions
    states: StateActions
    tasks: TaskActions
    workers: WorkerActions
    ready: Callable[[], bool]  # whether the server takes work
    attachment_bytes: int  # the largest file that is taken
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # ends open streams


async def actions(request: Request) -> Actions:
    """The server's actions. Async: the framework runs a plain function in a thread."""
    return _actions(request)


async def authenticated(request: Request) -> Actor:
    """Whose key the request carries.

    Raises:
        Unauthenticated: it carries none, or one that is not known.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated(
            "this route needs a key", hint="Send the header  Authorization: Bearer psk_…"
        )
    return await _actions(request).access.authenticate(key.strip())


def _actions(request: Request) -> Actions:
    return cast("Actions", request.app.state.actions)


Asked = Annotated[Actions, Depends(actions)]
By = Annotated[Actor, Depends(authenticated)]
