"""One release's zygote and the processes it forks, seen from the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.domain.errors import BuildFailed, Unavailable
from penstock.domain.releases import Limits
from penstock.drivers.builders import Launch
from penstock.inside.frames import Decoder, FrameError, encode
from penstock.runtime.cgroups import Cgroup
from penstock.runtime.procfs import kill_tree, pss_bytes

log = logging.getLogger(__name__)

_START = "import sys; sys.path[:0]={paths!r}; from penstock.inside.zygote import main; main()"
_START_SECONDS = 120.0
_CHUNK = 256 * 1024

_decode = msgspec.json.Decoder().decode

Frame = tuple[dict[str, Any], list[bytes]]


def _loads(data: bytes) -> Any:
    """JSON as ``json.loads`` reads it, mostly several times as fast."""
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return json.loads(data)  # a lone surrogate in an agent's text, or no JSON at all


class Child:
    """A forked process: its channel, its pipes, and how it ended."""

    def __init__(self, number: int, channel: socket.socket, stdout: int, stderr: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.channel = channel
        self.stdout = stdout
        self.stderr = stderr
        self.pid: int | None = None
        self.group: Cgroup | None = None  # what it has joined
        self.base_bytes = 0  # memory that it held before it was an attempt's
        self.exited: asyncio.Future[int | None] = loop.create_future()  # None: with its zygote
        self._decoder = Decoder(_loads)
        self._killed = False
        self._loop = loop
        self._sending = asyncio.Lock()

    async def send(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Send a frame; one that nobody reads any more is dropped."""
        data = encode(header, blobs)
        async with self._sending:
            with contextlib.suppress(OSError):
                await self._loop.sock_sendall(self.channel, data)

    async def receive(self) -> list[Frame]:
        """The next frames; none at the end.

        Raises:
            FrameError: the process sent something else.
        """
        while True:
            try:
                data = await self._loop.sock_recv(self.channel, _CHUNK)
            except OSError:
                return []
            if not data:
                return []
            if frames := self._decoder.feed(data):
                return frames

    def started(self, pid: int) -> None:
        """The zygote says which process this is."""
        self.pid = pid
        if self._killed:
            self.kill()

    def kill(self) -> None:
        """End the process and all that it started; from any thread."""
        self._killed = True
        if self.pid is not None and not self.exited.done():
            self._kill(self.pid)

    def ended(self, status: int | None) -> None:
        """The zygote says how the process ended, or has itself ended."""
        if not self.exited.done():
            if status is None and self.pid is not None:
                self._kill(self.pid)
            self.exited.set_result(status)

    def close(self) -> None:
        """Close our end of the channel; the process ends when it notices."""
        self.channel.close()

    def _kill(self, pid: int) -> None:
        if self.group is not None:
            self.group.kill()
        kill_tree(pid)


class Zygote:
    """The process of a release that forks its attempts."""

    def __init__(
        self, launch: Launch, process: subprocess.Popen[bytes], control: socket.socket
    ) -> None:
        self.launch = launch
        self.mode = "fork"
        self.why: str | None = None
        self.alive = True
        self.children: dict[int, Child] = {}
        self.on_end: Callable[[], None] | None = None
        self._process = process
        self._control = control
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._numbers = 0
        self._taken = False
        self._reader: asyncio.Task[None] | None = None
        self._warmed: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, launch: Launch, *, gateway_url: str, scratch: Path) -> Zygote:
        """Start it and wait until the agent is imported.

        Call this from a thread that lives as long as the server: the zygote dies with it.

        Raises:
            BuildFailed: the agent cannot be imported; names the user's line.
            Unavailable: the process did not start, or took too long.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            with (scratch / "zygote.log").open("ab") as output:
                process = _spawn(launch, theirs, output.fileno(), gateway_url, scratch)
        except OSError as error:
            ours.close()
            raise Unavailable(f"the process of release {launch.release[:12]}: {error}") from error
        finally:
            theirs.close()
        zygote = cls(launch, process, ours)
        try:
            async with asyncio.timeout(_START_SECONDS):
                header = await zygote._first()
        except TimeoutError:
            zygote._end()
            raise Unavailable(
                f"importing {launch.manifest.entrypoint} took more than {_START_SECONDS:.0f} s",
                hint="Does the module wait for something when it is imported?",
            ) from None
        except BaseException:
            zygote._end()
            raise
        zygote.mode, zygote.why = header["mode"], header.get("why")
        zygote._reader = asyncio.create_task(zygote._read(), name=f"zygote-{launch.release[:12]}")
        return zygote

    @property
    def pid(self) -> int:
        """The zygote's own process."""
        return self._process.pid

    async def fork(
        self, limits: Limits, *, shared: bool = False, joins: Sequence[str] = ()
    ) -> Child:
        """Start a process for an attempt (or for many, when ``shared``).

        Args:
            limits: what the process may use.
            shared: whether it is for many attempts, and not held to limits.
            joins: the files by which it joins its control group.

        Raises:
            Unavailable: the zygote has ended.
        """
        if self._warmed is not None and not self._warmed.done():
            await self._warmed  # it may turn out that it cannot fork any more
        if self.mode == "spare" and self._taken:
            raise Unavailable("the release's process has become another attempt's")
        self._taken = True
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stdout, stdout_w = os.pipe()
        stderr, stderr_w = os.pipe()
        self._numbers += 1
        child = Child(self._numbers, ours, stdout, stderr)
        if self.mode == "spare":
            child.base_bytes = pss_bytes(self.pid)
        self.children[child.number] = child
        frame = encode(
            {
                "t": "fork",
                "order": child.number,
                "shared": shared,
                "limits": {} if shared else _rlimits(limits),
                "joins": list(joins),
            }
        )
        try:
            await self._send(frame, [theirs.fileno(), stdout_w, stderr_w])
        except OSError as error:
            self.children.pop(child.number, None)
            child.close()
            os.close(stdout)
            os.close(stderr)
            raise Unavailable("the release's process has ended") from error
        finally:
            theirs.close()
            os.close(stdout_w)
            os.close(stderr_w)
        return child

    async def warm(self, modules: Sequence[str]) -> None:
        """Import what an attempt had to import by itself, for the next ones."""
        if self._warmed is not None:
            return
        self._warmed = self._loop.create_future()
        with contextlib.suppress(OSError):
            await self._send(encode({"t": "warm", "modules": list(modules)}), [])
            await self._warmed

    async def stop(self) -> None:
        """End the zygote and everything it forked."""
        self.alive = False
        self._control.close()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._end()

    async def _first(self) -> dict[str, Any]:
        while True:
            data = await self._loop.sock_recv(self._control, _CHUNK)
            if not data:
                raise Unavailable(
                    f"the process of release {self.launch.release[:12]} ended while it started"
                    f" (exit status {self._process.poll()})"
                )
            for header, _ in self._decoder.feed(data):
                if header["t"] == "failed":
                    error = header["error"]
                    raise BuildFailed(
                        f"{self.launch.manifest.entrypoint} cannot be imported:"
                        f" {error['type']}: {error['message']}",
                        output=error.get("traceback") or "",
                    )
                return header

    async def _send(self, data: bytes, fds: list[int]) -> None:
        async with self._sending:
            if not self.alive:
                raise OSError("the zygote has ended")
            while True:
                try:
                    sent = socket.send_fds(self._control, [data], fds)
                    break
                except BlockingIOError:
                    await _writable(self._loop, self._control)
            if sent < len(data):
                await self._loop.sock_sendall(self._control, data[sent:])

    async def _read(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._control, _CHUNK):
                for header, _ in self._decoder.feed(data):
                    self._on_frame(header)
        except (OSError, FrameError) as error:
            log.warning("the process of release %s: %s", self.launch.release[:12], error)
        if self.mode == "spare" and self.children:
            # It has become the attempt's process and speaks on this socket no more.
            await self._watch_spare()
        self._end()

    def _on_frame(self, header: dict[str, Any]) -> None:
        match header["t"]:
            case "forked":
                if (child := self.children.get(header["order"])) is not None:
                    child.started(header["pid"])
            case "exited":
                child = self.children.pop(header["order"], None)
                if child is not None:
                    child.pid = child.pid or header["pid"]
                    child.ended(header["status"])
            case "warmed":
                self.mode, self.why = header["mode"], header.get("why")
                self._taken = False
                if self._warmed is not None and not self._warmed.done():
                    self._warmed.set_result(None)

    async def _watch_spare(self) -> None:
        ended = asyncio.Event()
        try:
            fd = os.pidfd_open(self._process.pid)
        except OSError:
            ended.set()
        else:
            self._loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                self._loop.remove_reader(fd)
                os.close(fd)
        status = self._process.wait()
        kill_tree(self._process.pid)
        for child in self.children.values():
            child.ended(status)
        self.children.clear()

    def _end(self) -> None:
        """Leave nothing behind: the zygote, its attempts, and what those started."""
        was_alive, self.alive = self.alive, False
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for child in self.children.values():
            child.ended(None)
        self.children.clear()
        if self._warmed is not None and not self._warmed.done():
            self._warmed.set_result(None)
        if was_alive and self.on_end is not None:
            self.on_end()


def _spawn(
    launch: Launch, control: socket.socket, output: int, gateway_url: str, scratch: Path
) -> subprocess.Popen[bytes]:
    config = {
        "entrypoint": launch.manifest.entrypoint,
        "project": launch.project,
        "vendor": launch.vendor,
        "prompts": dict(launch.prompts),
        "tools": [
            {"name": tool.name, "effect": tool.effect, "retry": tool.retry}
            for tool in launch.manifest.tools
        ],
        "tools_default": dict(launch.manifest.tools_default),
    }
    start = _START.format(paths=[launch.inside, launch.project, *launch.paths])
    return subprocess.Popen(  # noqa: S603 - the interpreter of the release's own environment
        [launch.python, "-I", "-B", "-c", start, str(control.fileno()), json.dumps(config)],
        pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=launch.project,
        env=_environment({**launch.manifest.policy.env, **launch.variables}, gateway_url, scratch),
        start_new_session=True,  # Ctrl-C in a terminal is for the server, which then ends its own
    )


def _environment(policy: Mapping[str, str], gateway_url: str, scratch: Path) -> dict[str, str]:
    """What an agent's process finds in its environment: nothing of the server's own."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        **policy,
        "OPENAI_BASE_URL": f"{gateway_url}/openai/v1",
        "OPENAI_API_KEY": "penstock",
        "PENSTOCK_GATEWAY": gateway_url,
    }


def _rlimits(limits: Limits) -> dict[str, Any]:
    return {
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "open_files": limits.open_files,
    }


async def _writable(loop: asyncio.AbstractEventLoop, end: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def on_writable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(end, on_writable)
    try:
        await ready
    finally:
        loop.remove_writer(end)
