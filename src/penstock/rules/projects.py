"""``penstock.yaml``: what an agent project says about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.domain.errors import Invalid, ProjectInvalid
from penstock.domain.releases import Isolation, ModelPin, Policy, ToolSource
from penstock.domain.rollouts import plan_from_json
from penstock.rules.documents import Document, name, under
from penstock.rules.limits import read_limits, unheld
from penstock.rules.project_models import read_models, undated
from penstock.rules.project_tools import read_default, read_modules, read_sources
from penstock.rules.quantities import positive, seconds, share

FILE = "penstock.yaml"

_KEYS = (
    "agent", "entrypoint", "prompts", "tools", "tools_default", "models", "limits", "isolation",
    "evaluate", "rollout", "env", "secrets", "dependencies", "strict", "sessions",
)  # fmt: skip
_AGENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ENTRYPOINT = re.compile(rf"{_MODULE.pattern}:[A-Za-z_]\w*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"(env|file):\S+")
_OURS = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PENSTOCK_GATEWAY", "PATH", "HOME", "LANG")
_FILES = ("requirements.txt", "pyproject.toml", "uv.lock")


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What a project asks for."""

    agent: str
    entrypoint: str  # module:attribute
    prompts: str = "prompts"  # directory of *.prompt files
    tools: tuple[str, ...] = ()  # modules that implement tools
    sources: tuple[ToolSource, ...] = ()  # servers that have tools; their versions are not known
    tools_default: Mapping[str, str] = field(default_factory=dict)  # of tools nobody has declared
    models: Mapping[str, tuple[ModelPin, ...]] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    dependencies: tuple[str, ...] | None = None  # files and requirements; None: the usual file
    paths: tuple[str, ...] = ()  # directories that modules are imported from, beside the project's
    warnings: tuple[str, ...] = ()


def parse(text: str, *, file: str = FILE, strict: bool = False) -> Project:
    """The project that a ``penstock.yaml`` describes; ``strict`` makes warnings errors.

    Raises:
        ProjectInvalid: something in it is wrong; every wrong line is named.
    """
    document = Document(text, file=file)
    document.known((), document.data, _KEYS)
    for key in ("agent", "entrypoint"):
        if key not in document.data:
            document.refuse((), f"{key} is missing", _EXAMPLES[key])
    project = _project(document)
    document.check()
    if project.warnings and (strict or project.policy.strict):
        raise ProjectInvalid(
            "strict: " + "\n".join(project.warnings), file=file, hint="Mend it, or drop strict."
        )
    return project


def fragment(given: Mapping[str, Any], *, source: str) -> Project:
    """A few keys of ``penstock.yaml`` read alone; those that are absent are as shipped.

    Args:
        given: the keys.
        source: where they come from, for errors.

    Raises:
        Invalid: something in them is wrong.
    """
    try:
        document = Document(json.dumps(given), file=source)
        document.known((), document.data, _KEYS)
        project = _project(document)
        document.check()
    except ProjectInvalid as error:
        text = str(error).removeprefix(f"{source}:1: ").removeprefix(f"{source}: ")
        raise Invalid(f"{source}: {text}", hint=error.hint) from None
    return project


def _project(document: Document) -> Project:
    models = read_models(document)
    return Project(
        agent=document.read(("agent",), _agent, "", _EXAMPLES["agent"]),
        entrypoint=document.read(("entrypoint",), _entrypoint, "", _EXAMPLES["entrypoint"]),
        prompts=document.read(("prompts",), _folder, "prompts"),
        tools=read_modules(document),
        sources=read_sources(document),
        tools_default=read_default(document),
        models=models,
        policy=Policy(
            limits=read_limits(document),
            isolation=document.read(
                ("isolation",), _isolation, Isolation.PROCESS, "isolation: process, or shared"
            ),
            evaluators=_evaluators(document),
            env=_env(document),
            secrets=_secrets(document),
            rollout=_rollout(document),
            rollback_window_seconds=document.read(
                ("rollout", "rollback_window"), seconds, 7 * 86400.0, "rollback_window: 7d"
            ),
            strict=document.read(("strict",), _flag, default=False),
            session_ttl_seconds=_session_ttl(document),
        ),
        dependencies=document.read(("dependencies",), _dependencies, None),
        warnings=(*undated(document, models), *unheld(document)),
    )


def _session_ttl(document: Document) -> float | None:
    document.known(("sessions",), under(document, "sessions"), ("ttl",))
    return document.read(("sessions", "ttl"), positive(seconds), None, "ttl: 30d")


_EXAMPLES = {
    "agent": "agent: support  (lower-case letters, digits and dashes)",
    "entrypoint": "entrypoint: package.module:name  (a LangGraph graph or a callable)",
}


def _agent(value: Any) -> str:
    if not isinstance(value, str) or not _AGENT.fullmatch(value):
        raise ValueError(f"{value!r} is no name of an agent")
    return value


def _entrypoint(value: Any) -> str:
    if not isinstance(value, str) or not _ENTRYPOINT.fullmatch(value):
        raise ValueError(f"{value!r} is not module:name")
    return value


def _folder(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no directory of the project")  # noqa: TRY004 - all are
    parts = value.strip("/").split("/")
    if value.startswith("/") or ".." in parts or not parts[0]:
        raise ValueError(f"{value!r} leads out of the project")
    return "/".join(part for part in parts if part != ".")


def _isolation(value: Any) -> Isolation:
    if value not in set(Isolation):
        raise ValueError(f"{value!r} is neither process nor shared")
    return Isolation(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004 - all are
    return value


def _dependencies(value: Any) -> tuple[str, ...]:
    if value not in _FILES:
        raise ValueError(f"{value!r} is none of {', '.join(_FILES)}")
    return (str(value),)


def _secrets(document: Document) -> dict[str, str]:
    """Variables whose values are looked up when an attempt starts, and kept nowhere."""
    found = {}
    for key, value in under(document, "secrets").items():
        path = ("secrets", key)
        if not _VARIABLE.fullmatch(key) or key in _OURS:
            document.refuse(path, f"{key!r} is no name of a variable of yours")
        elif not isinstance(value, str) or not _SECRET.fullmatch(value):
            document.refuse(
                path,
                f"{name(path)} is no reference to a secret",
                "Write env:NAME (a variable of the server) or file:/path, never the value.",
            )
        else:
            found[key] = value
    return found


def _evaluators(document: Document) -> dict[str, str]:
    given = under(document, "evaluate")
    document.known(("evaluate",), given, ("completion",))
    hint = "evaluate: {completion: package.module:function}"
    return {
        metric: document.read(("evaluate", metric), _entrypoint, "", hint)
        for metric in given
        if metric == "completion"
    }


def _env(document: Document) -> dict[str, str]:
    found = {}
    for key, value in under(document, "env").items():
        path = ("env", key)
        if not _VARIABLE.fullmatch(key):
            document.refuse(path, f"{key!r} is no name of an environment variable")
        elif key in _OURS:
            document.refuse(path, f"{name(path)} is set by Penstock", "Leave it out.")
        elif isinstance(value, dict | list) or value is None:
            document.refuse(path, f"{name(path)} must be a text")
        else:
            found[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


# ---------------------------------------------------------------- rollout

_DURATIONS = ("horizon", "quiet", "max_duration")
_ROLLOUT_KEYS = (
    "strategy", "steps", "approve", "guards", "goal", "risk", "unit", "on_inconclusive",
    "rollback_window", *_DURATIONS,
)  # fmt: skip


def _rollout(document: Document) -> dict[str, Any]:
    given = under(document, "rollout")
    document.known(("rollout",), given, _ROLLOUT_KEYS)
    plan: dict[str, Any] = {
        key: given[key]
        for key in ("strategy", "guards", "goal", "unit", "on_inconclusive")
        if key in given
    }
    for key in _DURATIONS:
        if key in given:
            plan[f"{key}_seconds"] = document.read(("rollout", key), seconds, 1.0, f"{key}: 30m")
    if "risk" in given:
        plan["risk"] = document.read(("rollout", "risk"), share, 0.05, "risk: 5%")
    approve = document.read(("rollout", "approve"), _shares, _NO_SHARES, "approve: [100%]")
    if "steps" in given:
        plan["steps"] = document.read(
            ("rollout", "steps"), _steps, _NO_STEPS, "steps: [10%, 25%, 50%, 100%]"
        )
        for step in plan["steps"]:
            step["approval"] = step.get("approval", False) or step["weight"] in approve
    try:
        plan_from_json(plan)
    except Invalid as error:
        document.refuse(("rollout",), f"rollout: {error.message}", error.hint)
    return plan


def _shares(value: Any) -> list[float]:
    return [share(item) for item in _list(value)]


def _steps(value: Any) -> list[dict[str, Any]]:
    steps = []
    for item in _list(value):
        if item in ("replay", "shadow"):
            raise ValueError(f"{item} is no step of this version")
        given = item if isinstance(item, dict) else {"weight": item}
        step: dict[str, Any] = {"weight": share(given.get("weight"))}
        if "sessions" in given:
            step["candidate_sessions"] = given["sessions"]
        if unknown := given.keys() - {"weight", "sessions"}:
            raise ValueError(f"a step has no {', '.join(sorted(unknown))}")
        if step["weight"] == 1.0:
            step.setdefault("candidate_sessions", 0)
        steps.append(step)
    return steps


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be a list")  # noqa: TRY004 - see above
    return value


_NO_SHARES: list[float] = []
_NO_STEPS: list[dict[str, Any]] = []
