"""The wiring: one process with store, worker, controller, gateway and API.

It starts in the order in which its parts need each other and stops in the opposite one: not ready,
drain the worker, stop answering, close the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

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
from penstock.domain.errors import Invalid, Unavailable
from penstock.domain.releases import Manifest, ToolSource
from penstock.domain.tools import SourceFacts
from penstock.drivers.builders.local import LocalBuilder
from penstock.drivers.compute.processes import ProcessCompute
from penstock.drivers.providers import Provider
from penstock.drivers.providers.compatible import CompatibleProvider
from penstock.drivers.providers.simulated import Faults, Latency, SimulatedProvider
from penstock.drivers.registries.oci import OciRegistry
from penstock.drivers.secrets.local import FileSecrets, VariableSecrets
from penstock.drivers.signing import PrivateKeys
from penstock.drivers.signing.files import FileKeys
from penstock.drivers.tools.mcp import McpServer
from penstock.drivers.tools.openapi import OpenApiFile, OpenApiUrl
from penstock.gateway.calls import Calls
from penstock.rules.checkpoints import Sealer
from penstock.rules.releases import verified
from penstock.runtime.sources import Sources
from penstock.runtime.states import States
from penstock.runtime.variables import Variables
from penstock.runtime.workers import Worker
from penstock.settings import Settings
from penstock.store import Store, Transaction, checkpoints, releases
from penstock.store import settings as kept

log = logging.getLogger(__name__)

_BACKLOG = 2048
_CLOSE_SECONDS = 3
_GATEWAY = "/gateway/"
_OF_A_WORKER = ("/livez", "/readyz", "/metrics")

OnReady = Callable[["Server"], Awaitable[None]]


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
            _refuse_alone(settings, self.role)
        self._socket = self._stack.enter_context(_bound(settings.host, settings.port))
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = Store(home=settings.home, url=settings.database_url)
        await store.open()
        self._stack.push_async_callback(store.close)
        pepper = await _pepper(store, settings.home)
        store.sealer = Sealer(pepper)
        await _seal_checkpoints(store)
        access = AccessActions(store, pepper)
        builder = LocalBuilder(settings.home, _read_source)
        signing = SigningActions(store, _signing_keys(store, settings))
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
            sources=Sources(store, _read_source),
            caps=settings.caps,
        )
        calls = Calls(
            store,
            providers=_providers(settings),
            manifest_of=_manifests(store),
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
            api = _only(api, _OF_A_WORKER)
        app = _dispatcher(api, Completions(calls, worker.callers))
        await self._serve(app, self._socket)
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

    async def _serve(self, app: Any, end: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            timeout_keep_alive=75,
        )
        server = _Uvicorn(config)
        starting = server.starting()
        serving = asyncio.create_task(server.serve(sockets=[end]), name="http")
        await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise Unavailable("the HTTP server did not start")

        async def close() -> None:
            server.should_exit = True
            await serving

        self._stack.push_async_callback(close)


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handlers: a drain comes before the end."""

    def starting(self) -> asyncio.Task[bool]:
        """Done once it answers."""
        self._answers = asyncio.Event()
        return asyncio.create_task(self._answers.wait(), name="http-starting")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets=sockets)
        self._answers.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`run`."""
        yield


def run(
    settings: Settings,
    on_ready: OnReady | None = None,
    *,
    role: Role = Role.SERVER,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one shortens the drain.

    Args:
        settings: of the server.
        on_ready: called once it answers; if it raises, the server stops and the error is raised.
        role: what the process is there for.
        parent: a process whose end means what SIGTERM means.
    """
    _open_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, on_ready, role, parent))


async def _run(
    settings: Settings, on_ready: OnReady | None, role: Role, parent: int | None
) -> None:
    loop = asyncio.get_running_loop()
    server = Server(settings, role)
    stopping = asyncio.Event()
    hurrying: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        if stopping.is_set():
            hurrying.add(asyncio.create_task(server.hurry()))
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server.on_drain = stopping.set
    await server.start()
    if parent is not None:
        _watch(parent, stopping)
    try:
        if on_ready is not None:
            following = asyncio.ensure_future(on_ready(server))
            waiting = asyncio.ensure_future(stopping.wait())
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            else:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
            waiting.cancel()
        await stopping.wait()
        log.info("stopping: draining for up to %.0f s", settings.drain_seconds)
    finally:
        await server.stop()


def _watch(parent: int, gone: asyncio.Event) -> None:
    """Set an event when a process ends; at once if it has."""
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        gone.set()
        return
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        gone.set()

    loop.add_reader(fd, on_end)


def _refuse_alone(settings: Settings, role: Role) -> None:
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


def _open_many_files() -> None:
    """Every attempt holds a socket and two pipes, every client a socket: take what is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinite" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket, or an error that says who is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = socket.socket(family, socket.SOCK_STREAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        end.bind((host, port))
        end.listen(_BACKLOG)
    except OSError as error:
        end.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
            hint="Is another server running? Choose another port: PENSTOCK_PORT=8701"
            " (0 takes any that is free).",
        ) from None
    end.setblocking(False)
    return end


async def _pepper(store: Store, home: Path) -> bytes:
    """The secret under which keys are hashed: a file beside SQLite, or shared in PostgreSQL."""
    proposal = secrets.token_hex(32)
    if not store.embedded:

        async def work(tx: Transaction) -> str:
            return await kept.agree(tx, "pepper", proposal)

        return bytes.fromhex(await store.transact(work))
    file = home / "pepper"
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as text:
            text.write(proposal)
            text.flush()
            os.fsync(text.fileno())
    return bytes.fromhex(file.read_text(encoding="ascii"))


async def _seal_checkpoints(store: Store) -> None:
    """Seal what older releases of Penstock kept; from then on, what has no seal is refused."""

    async def work(tx: Transaction) -> int:
        return await checkpoints.adopt(tx, sealer=store.sealer)

    while await store.transact(work):
        pass


async def _read_source(source: ToolSource, folder: Path | None = None) -> SourceFacts:
    """What a tool source offers now; a document of the project is as it was pinned."""
    operations = source.operations or None
    if source.kind == "mcp":
        return await McpServer(source.location).read()
    if source.location.startswith(("http://", "https://")):
        return await OpenApiUrl(source.location, operations=operations).read()
    if folder is None:
        raise Unavailable(f"{source.location} is a file of the project; it cannot drift")
    return await OpenApiFile(folder, source.location, operations=operations).read()


def _signing_keys(store: Store, settings: Settings) -> PrivateKeys:
    """The key that signs releases: a file that was given, one beside SQLite, or in PostgreSQL."""
    if settings.signing_key is not None:
        return FileKeys(settings.signing_key)
    return FileKeys(settings.home / "signing" / "key.pem") if store.embedded else _SharedKey(store)


class _SharedKey:
    """The private key that all servers of one database sign with."""

    _NAME = "signing_key"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self) -> str | None:
        """The key, if there is one yet."""

        async def work(tx: Transaction) -> str | None:
            return await kept.get(tx, self._NAME)

        return await self._store.read(work)

    async def write(self, pem: str, *, seen: str | None) -> str:
        """Replace the key that was seen; the key that is kept now."""

        async def work(tx: Transaction) -> str:
            if seen is not None:
                await kept.change(tx, self._NAME, pem, seen=seen)
            return await kept.agree(tx, self._NAME, pem)

        return await self._store.transact(work)


def _providers(settings: Settings) -> dict[str, Provider]:
    usual = Latency()
    scale = settings.simulated_latency
    providers: dict[str, Provider] = {
        "simulated": SimulatedProvider(
            seed=settings.simulated_seed,
            latency=Latency(
                first_token=usual.first_token * scale,
                per_token=usual.per_token * scale,
                spread=usual.spread,
            ),
            faults=Faults(**settings.simulated_faults),
        ),
        "openai": CompatibleProvider(key=settings.openai_key),
    }
    for name, given in settings.providers.items():
        providers[name] = CompatibleProvider(
            base_url=given.base_url,
            key=given.key,
            key_needed=given.key_variable is not None,
            key_hint=f"Set {given.key_variable}.",
        )
    return providers


def _manifests(store: Store) -> Callable[[str], Awaitable[Manifest]]:
    async def manifest_of(digest: str) -> Manifest:
        async def work(tx: Transaction) -> Manifest:
            return verified(await releases.raw(tx, digest), digest)

        return await store.read(work)

    return manifest_of


def _only(api: Any, paths: tuple[str, ...]) -> Any:
    """An application that knows a few paths of another."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") in paths:
            await api(scope, receive, send)
        else:
            # Whatever else is asked is answered as an unknown route is.
            await api({**scope, "path": "/"}, receive, send)

    return app


def _dispatcher(api: Any, gateway: Any) -> Any:
    """One application out of two: model calls do not pass through the API's machinery."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        chosen = gateway if scope.get("path", "").startswith(_GATEWAY) else api
        await chosen(scope, receive, send)

    return app
