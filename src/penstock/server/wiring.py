"""The wiring: one process with store, worker, controller, gateway and API.

It starts in the order in which its parts need each other and stops in the opposite one: not ready,
drain the worker, stop answering, close the store.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from enum import StrEnum
from typing import Any

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
from penstock.actions.sessions import Judges, SessionActions
from penstock.actions.signing import SigningActions
from penstock.actions.states import StateActions
from penstock.actions.tasks import TaskActions
from penstock.actions.workers import WorkerActions
from penstock.api.app import build_app
from penstock.api.completions import Completions
from penstock.api.dependencies import Actions
from penstock.api.hot import HotRoutes
from penstock.control.expiries import Expiries
from penstock.control.replicas import Autoscaler
from penstock.control.rollouts import Controller
from penstock.domain.errors import Invalid
from penstock.drivers.builders.local import LocalBuilder
from penstock.drivers.compute.processes import ProcessCompute
from penstock.drivers.registries.oci import OciRegistry
from penstock.drivers.secrets.local import FileSecrets, VariableSecrets
from penstock.gateway.calls import Calls
from penstock.rules.checkpoints import Sealer
from penstock.runtime.sources import Sources
from penstock.runtime.states import States
from penstock.runtime.variables import Variables
from penstock.runtime.workers import Worker
from penstock.server.homes import make_home
from penstock.server.keys import pepper_of, seal_checkpoints, signing_keys
from penstock.server.listening import bound, dispatcher, only, serve
from penstock.server.outside import manifests, providers, read_source
from penstock.settings import Settings
from penstock.store import Store

_OF_A_WORKER = ("/livez", "/readyz", "/metrics")


class Role(StrEnum):
    """What a process is there for."""

    SERVER = "server"  # the API, the control loops, and as many attempts as its concurrency says
    WORKER = "worker"  # attempts and their gateway, and nothing else


class Server:
    """Everything one process serves."""

    def __init__(self, settings: Settings, role: Role = Role.SERVER) -> None:
        self.settings = settings
        self.role = role
        self.login_key: str | None = None  # of the first administrator, if it was just made
        self.on_drain: Callable[[], None] = lambda: None  # called when somebody wants it to leave
        self._stack = contextlib.AsyncExitStack()
        self._socket: socket.socket | None = None
        self._worker: Worker | None = None
        self._ready = False

    @property
    def url(self) -> str:
        """Where it answers."""
        assert self._socket is not None
        host = self.settings.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - how to reach what was bound, not a binding
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}"

    async def start(self) -> None:
        """Start every part; what has been started is stopped again if a later one fails.

        Raises:
            PenstockError: a part cannot start; says which and what to do.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self) -> None:
        """Drain and stop every part; safe to call twice."""
        self._ready = False
        await self._stack.aclose()

    async def hurry(self) -> None:
        """Hand all tasks back now, instead of when they reach a step."""
        if self._worker is not None:
            await self._worker.hurry()

    async def _start(self) -> None:
        settings = self.settings
        if settings.database_url is None:
            refuse_alone(settings, self.role)
        self._socket = self._stack.enter_context(bound(settings.host, settings.port))
        make_home(settings.home)
        store = Store(home=settings.home, url=settings.database_url)
        await store.open()
        self._stack.push_async_callback(store.close)
        pepper = await pepper_of(store, settings.home)
        store.sealer = Sealer(pepper)
        await seal_checkpoints(store)
        access = AccessActions(store, pepper)
        builder = LocalBuilder(settings.home, read_source)
        signing = SigningActions(store, signing_keys(store, settings))
        if self.role is Role.SERVER:
            self.login_key = await access.bootstrap(settings.admin_key)
            await signing.vouch_for_all()
        worker = self._worker = Worker(
            store,
            builder=builder,
            gateway_url=f"http://127.0.0.1:{self._socket.getsockname()[1]}/gateway",
            concurrency=settings.concurrency,
            scratch=settings.home / "scratch",
            variables=Variables(store, {"env": VariableSecrets(os.environ), "file": FileSecrets()}),
            sources=Sources(store, read_source),
            caps=settings.caps,
        )
        calls = Calls(
            store,
            providers=providers(settings),
            manifest_of=manifests(store),
            caps=settings.caps,
        )
        self._stack.push_async_callback(calls.close)
        states = States(store, worker.zygotes)
        judges = Judges()
        cutting = ReleaseActions(store, builder, signing)
        environments = EnvironmentActions(store, cutting)
        rollouts = RolloutActions(store, worker.zygotes.start, environments.overlaid)
        artifacts = ArtifactActions(store, builder, signing)
        actions = Actions(
            access=access,
            agents=AgentActions(store, worker.zygotes.describe),
            artifacts=artifacts,
            attachments=AttachmentActions(store),
            attachment_bytes=settings.attachment_bytes,
            backups=BackupActions(store, home=settings.home),
            components=ComponentActions(store),
            labels=LabelActions(store),
            deletions=DeletionActions(store),
            environments=environments,
            garbage=GarbageActions(store),
            insight=InsightActions(store),
            memories=MemoryActions(store),
            registries=RegistryActions(artifacts, OciRegistry()),
            releases=cutting,
            rollbacks=RollbackActions(store, cutting, rollouts),
            rollouts=rollouts,
            sessions=SessionActions(store, judges),
            signing=signing,
            states=StateActions(store, states),
            workers=WorkerActions(store),
            tasks=TaskActions(store, worker.deltas, judges, settings.queue_limits),
            ready=lambda: self._ready and worker.ready,
        )
        api: Any = HotRoutes(build_app(actions), actions)
        if self.role is Role.WORKER:
            api = only(api, _OF_A_WORKER)
        app = dispatcher(api, Completions(calls, worker.callers))
        self._stack.push_async_callback(await serve(app, self._socket))
        self._stack.callback(actions.stopping.set)
        self._stack.callback(actions.tasks.close)
        if self.role is Role.SERVER:
            self._control(store)
        self._stack.push_async_callback(worker.drain, settings.drain_seconds)
        self._stack.push_async_callback(states.stop)
        worker.on_drain = self.on_drain
        await worker.start()
        self._ready = True

    def _control(self, store: Store) -> None:
        """Start the loops that make wishes true."""
        controller = Controller(store)
        controller.start()
        self._stack.push_async_callback(controller.stop)
        expiries = Expiries(store)
        expiries.start()
        self._stack.push_async_callback(expiries.stop)
        if self.settings.scaling is not None:
            scaling = self.settings.scaling
            environment = {
                **os.environ,
                "PENSTOCK_HOME": str(self.settings.home),
                "PENSTOCK_HOST": "127.0.0.1",
                "PENSTOCK_PORT": "0",
                "PENSTOCK_CONCURRENCY": str(scaling.concurrency),
                "PENSTOCK_SCALE": "",
            }
            compute = ProcessCompute(environment, drain_seconds=self.settings.drain_seconds)
            autoscaler = Autoscaler(store, compute, scaling)
            autoscaler.start()
            self._stack.push_async_callback(autoscaler.stop)


def refuse_alone(settings: Settings, role: Role) -> None:
    """Say what needs a database that several processes can open.

    Raises:
        Invalid: the settings ask for it on SQLite.
    """
    several = (
        "a worker"
        if role is Role.WORKER
        else "PENSTOCK_SCALE"
        if settings.scaling
        else "PENSTOCK_CONCURRENCY=0"
        if not settings.concurrency
        else None
    )
    if several is not None:
        raise Invalid(
            f"{several} needs PostgreSQL: one process alone opens SQLite, and runs the attempts",
            hint="Set PENSTOCK_DATABASE_URL=postgresql://…, for the server and its workers alike.",
        )
