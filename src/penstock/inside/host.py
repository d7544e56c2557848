"""What a forked process does with its one attempt: settle in, run it, report, and be gone."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.inside import context, limits, tracebacks
from penstock.inside.attempts import Attempt, Stopped, Waits
from penstock.inside.channel import EXIT_STALE, Channel
from penstock.inside.frames import FrameError

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

    from penstock.inside.entrypoints import Runner

# Collections are rarer than Python's default: an attempt is short, and every pass over the young
# objects touches memory it shares with the zygote.
_GC_THRESHOLDS = (20_000, 20, 100)

_KEPT_SIGNALS = (signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP)


def settle(fds: tuple[int, int, int], order: dict[str, Any], *, parent: int | None) -> Channel:
    """Make this process an attempt's own: group, signals, output, limits, randomness.

    Args:
        fds: the channel and the pipes that become stdout and stderr.
        order: the fork frame.
        parent: the zygote's pid, None when this process is the zygote itself.
    """
    if parent is not None:
        limits.die_with_parent(parent)
    limits.adopt_orphans()
    if os.getpgrp() != os.getpid():
        os.setsid()
    channel_fd, stdout, stderr = fds
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    faulthandler.enable(file=2)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _reseed()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()
    connection = socket.socket(fileno=channel_fd)
    connection.setblocking(True)
    limits.join(order.get("joins") or ())
    limits.apply(order.get("limits") or {})
    return Channel(connection)


def run_alone(
    channel: Channel, runner: Runner, *, project: str, loaded: Collection[str]
) -> NoReturn:
    """Take the one order of this process, run it, and end the process.

    Args:
        channel: the link to the supervisor.
        runner: the agent.
        project: the project's directory, for tracebacks.
        loaded: the modules the zygote had; what came on top is reported for the next zygote.
    """
    order, _ = channel.receive()
    attempt = Attempt(order, channel, on_stale=_leave)
    channel.start(_on_frame)
    context.enter(attempt, alone=True)
    try:
        output = wait_for(runner.arun(attempt)) if runner.is_async else _run_sync(runner, attempt)
        _flush()
        attempt.finish(output)
    except Waits as asked:
        _flush()
        attempt.wait(asked.waits)
    except Stopped:
        _leave()
    except BaseException as error:  # noqa: BLE001 - sys.exit, too, ends in a report
        report(attempt, error, project)
    # Most attempts import nothing; looking at every name would copy the pages they are in.
    if len(sys.modules) != len(loaded):
        names = [name for name in list(sys.modules) if name not in loaded]
        channel.send({"t": "modules", "a": attempt.number, "names": names})
    end(0)


def report(attempt: Attempt, error: BaseException, project: str) -> None:
    """Say why an attempt failed, also when memory is what it lacks.

    A question to a person is no failure, also where a group of tasks has wrapped it.
    """
    if attempt.is_asking and isinstance(error, BaseExceptionGroup):
        _flush()
        attempt.wait(())
        return
    if isinstance(error, MemoryError):
        limits.release_reserve()
        error = error.with_traceback(_emptied(error))
    if isinstance(error, FrameError):
        error = ValueError(f"the agent's output cannot be sent: {error}")
    _flush()
    attempt.fail(tracebacks.describe(error, project))


def wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop that is never closed: nobody waits for leaked tasks and threads."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(work)


def end(status: int) -> NoReturn:
    """End the process: output is flushed, nothing else of the zygote's or the agent's is run."""
    _flush()
    os._exit(status)


def _flush() -> None:
    """Push out what was printed; an agent may have closed or replaced the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def _run_sync(runner: Runner, attempt: Attempt) -> Any:
    """A sync agent's output; an awaitable that slipped out of one is awaited."""
    output = runner.run(attempt)
    if hasattr(output, "__await__") or hasattr(output, "__aiter__"):
        return wait_for(runner.finish(output, attempt))  # type: ignore[attr-defined]
    return output


def _on_frame(header: dict[str, Any]) -> None:
    """A frame that is no reply: only a cancel makes sense here."""
    if header.get("t") == "cancel":
        _leave()


def _leave() -> NoReturn:
    """Stop at once: whatever this process would still say, nobody listens."""
    os._exit(EXIT_STALE)


def _emptied(error: BaseException) -> Any:
    """The traceback of an error, its frames' variables dropped: they hold the memory."""
    trace = error.__traceback__
    step = trace
    while step is not None:
        with contextlib.suppress(RuntimeError):  # a frame that is still running: ours
            step.tb_frame.clear()
        step = step.tb_next
    return trace


def _reseed() -> None:
    """Give this process randomness of its own, wherever a library keeps a seeded generator."""
    random.seed()
    for module, name in (("numpy.random", "seed"), ("uuid_utils", "reseed_rng")):
        reseed = getattr(sys.modules.get(module), name, None)
        if callable(reseed):
            reseed()
