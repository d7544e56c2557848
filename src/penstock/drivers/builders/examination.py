"""Asks a project's code what it is, in a process without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.domain.errors import BuildFailed
from penstock.drivers.builders.agent_side import AgentSide

_START = "import sys; sys.path[:0]={paths!r}; from penstock.inside.facts import main; main()"
_SECONDS = 120.0
_MOST_BYTES = 16 << 20
_SHOWN = 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is imported, and with what around it."""

    entrypoint: str
    tools: tuple[str, ...]  # modules
    tools_default: Mapping[str, str]  # how a tool in them is taken that is not declared
    evaluators: Mapping[str, str]
    env: Mapping[str, str]
    paths: tuple[str, ...]


async def examine(
    project: Subject, folder: Path, *, python: Path, side: AgentSide, prompts: Mapping[str, Path]
) -> dict[str, Any]:
    """The facts of a project's code: graph, state schema, tools and the files they are in.

    Raises:
        BuildFailed: importing it failed (names the author's line), or took too long.
    """
    answer_r, answer_w = os.pipe()
    config = {
        "entrypoint": project.entrypoint,
        "project": str(folder),
        "vendor": str(side.vendor),
        "prompts": {name: str(path) for name, path in prompts.items()},
        "tools": list(project.tools),
        "tools_default": dict(project.tools_default),
        "evaluators": dict(project.evaluators),
    }
    paths = [str(side.inside), str(folder), *(str(folder / path) for path in project.paths)]
    start = _START.format(paths=paths)
    with tempfile.TemporaryDirectory(prefix="penstock-build-") as home:
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - the release's own interpreter, not waited for here
            [str(python), "-I", "-c", start, str(answer_w), json.dumps(config)],
            pass_fds=[answer_w],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(project, home),
            start_new_session=True,
        )
        os.close(answer_w)
        try:
            async with asyncio.timeout(_SECONDS):
                answer, printed = await asyncio.gather(
                    asyncio.to_thread(_read, answer_r),
                    asyncio.to_thread(_read, process.stdout.fileno() if process.stdout else -1),
                )
        except TimeoutError:
            raise BuildFailed(
                f"importing {project.entrypoint} took more than {_SECONDS:.0f} s",
                hint="Does the module wait for something, or run the agent, when it is imported?",
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(answer_r)
            if process.stdout is not None:
                process.stdout.close()
    return _facts(project, answer, printed, process.returncode)


def _facts(project: Subject, answer: bytes, printed: bytes, status: int) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise BuildFailed(
            f"importing {project.entrypoint} ended the process (status {status})",
            output=printed.decode(errors="replace")[-_SHOWN:],
            hint="A module must not exit or crash when it is imported.",
        ) from None
    if data["ok"]:
        facts: dict[str, Any] = data["facts"]
        return facts
    error = data["error"]
    where = f" at {error['where']}" if error.get("where") else ""
    name = project.entrypoint if data["where"] == "entrypoint" else data["where"]
    raise BuildFailed(
        f"{name} cannot be imported{where}: {error['type']}: {error['message']}",
        output=error.get("traceback") or "",
        hint=_hint(error["type"]),
    )


def _hint(kind: str) -> str | None:
    if kind in ("ModuleNotFoundError", "ImportError"):
        return "Is it in the project's dependencies, and is the name right?"
    if kind == "StateTypeError":
        return (
            "Define it at the top of a module, and import what its fields name where Python finds"
            " it at run time (not under TYPE_CHECKING)."
        )
    if kind == "EntrypointError":
        return "penstock.yaml names it as package.module:name."
    return None


def _environment(project: Subject, home: str) -> dict[str, str]:
    """Like an attempt's environment; the gateway in it answers nothing."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": home,
        "PYTHONHASHSEED": "0",
        **project.env,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/gateway/openai/v1",
        "OPENAI_API_KEY": "penstock",
        "PENSTOCK_GATEWAY": "http://127.0.0.1:9/gateway",
    }


def _read(fd: int) -> bytes:
    data = bytearray()
    while chunk := os.read(fd, 65536):
        if len(data) < _MOST_BYTES:
            data += chunk
    return bytes(data)
