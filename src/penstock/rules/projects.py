"""``penstock.yaml``: what an agent project says about itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.releases import Isolation, Limits, ModelPin, Policy, Price
from penstock.domain.rollouts import plan_from_json
from penstock.rules.documents import Document, Path, name
from penstock.rules.quantities import nanos, seconds, share, size_bytes

FILE = "penstock.yaml"

_KEYS = (
    "agent", "entrypoint", "prompts", "tools", "models", "limits", "isolation", "evaluate",
    "rollout", "env", "dependencies",
)  # fmt: skip
_AGENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ENTRYPOINT = re.compile(rf"{_MODULE.pattern}:[A-Za-z_]\w*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATED = re.compile(r"(\d{4}-?\d{2}-?\d{2}|-\d{4}|@|:)")
_UNDATED_PROVIDERS = {"simulated", "local"}
_OURS = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PENSTOCK_GATEWAY", "PATH", "HOME", "LANG")
_FILES = ("requirements.txt", "pyproject.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What a project asks for."""

    agent: str
    entrypoint: str  # module:attribute
    prompts: str = "prompts"  # directory of *.prompt files
    tools: tuple[str, ...] = ()  # modules that implement tools
    models: Mapping[str, tuple[ModelPin, ...]] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    dependencies: str | None = None  # file; None: whichever of the usual ones is there
    warnings: tuple[str, ...] = ()


def parse(text: str, *, file: str = FILE) -> Project:
    """The project that a ``penstock.yaml`` describes.

    Raises:
        ProjectInvalid: something in it is wrong; every wrong line is named.
    """
    document = Document(text, file=file)
    document.known((), document.data, _KEYS)
    for key in ("agent", "entrypoint"):
        if key not in document.data:
            document.refuse((), f"{key} is missing", _EXAMPLES[key])
    models = _models(document)
    project = Project(
        agent=document.read(("agent",), _agent, "", _EXAMPLES["agent"]),
        entrypoint=document.read(("entrypoint",), _entrypoint, "", _EXAMPLES["entrypoint"]),
        prompts=document.read(("prompts",), _folder, "prompts"),
        tools=document.read(("tools",), _modules, (), "A list of modules: [support.tools]"),
        models=models,
        policy=Policy(
            limits=_limits(document),
            isolation=document.read(
                ("isolation",), _isolation, Isolation.PROCESS, "isolation: process, or shared"
            ),
            evaluators=_evaluators(document),
            env=_env(document),
            rollout=_rollout(document),
        ),
        dependencies=document.read(("dependencies",), _dependencies, None),
        warnings=tuple(_undated(document, models)),
    )
    document.check()
    return project


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


def _modules(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError("must be a list of modules")  # noqa: TRY004 - see above
    for item in items:
        if not isinstance(item, str) or not _MODULE.fullmatch(item):
            raise ValueError(f"{item!r} is no module such as support.tools")
    return tuple(dict.fromkeys(items))


def _isolation(value: Any) -> Isolation:
    if value not in set(Isolation):
        raise ValueError(f"{value!r} is neither process nor shared")
    return Isolation(value)


def _dependencies(value: Any) -> str:
    if value not in _FILES:
        raise ValueError(f"{value!r} is none of {', '.join(_FILES)}")
    return str(value)


def _evaluators(document: Document) -> dict[str, str]:
    given = _under(document, "evaluate")
    document.known(("evaluate",), given, ("completion",))
    hint = "evaluate: {completion: package.module:function}"
    return {
        metric: document.read(("evaluate", metric), _entrypoint, "", hint)
        for metric in given
        if metric == "completion"
    }


def _env(document: Document) -> dict[str, str]:
    found = {}
    for key, value in _under(document, "env").items():
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


def _limits(document: Document) -> Limits:
    shipped = Limits()
    given = _under(document, "limits")
    document.known(("limits",), given, ("time", "cpu", "memory", "cost", "attempts", "output"))
    return Limits(
        time_seconds=document.read(
            ("limits", "time"), _positive(seconds), shipped.time_seconds, "time: 5m"
        ),
        cpu_seconds=document.read(
            ("limits", "cpu"), _positive(seconds), shipped.cpu_seconds, "cpu: 60s of CPU time"
        ),
        memory_bytes=document.read(
            ("limits", "memory"), _positive(size_bytes), shipped.memory_bytes, "memory: 1GiB"
        ),
        cost_nanos=document.read(
            ("limits", "cost"), _positive(nanos), shipped.cost_nanos, "cost: $0.50"
        ),
        attempts=document.read(("limits", "attempts"), _attempts, shipped.attempts, "attempts: 3"),
        output_bytes=document.read(
            ("limits", "output"), _positive(size_bytes), shipped.output_bytes, "output: 8MiB"
        ),
    )


def _positive(parse: Any) -> Any:
    def checked(value: Any) -> Any:
        number = parse(value)
        if number <= 0:
            raise ValueError(f"{value!r} is not more than nothing")
        return number

    return checked


def _attempts(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100:  # noqa: PLR2004 - said in the message
        raise ValueError(f"{value!r} is no number from 1 to 100")
    return value


# ---------------------------------------------------------------- models


def _models(document: Document) -> dict[str, tuple[ModelPin, ...]]:
    found = {}
    for alias, value in _under(document, "models").items():
        path: Path = ("models", alias)
        links = value if isinstance(value, list) else [value]
        if not links:
            document.refuse(path, f"{name(path)} has no model", _LINK)
        chain = []
        for index, link in enumerate(links):
            at = (*path, index) if isinstance(value, list) else path
            pin = _link(document, at, link)
            if pin is not None:
                chain.append(pin)
        found[alias] = tuple(chain)
    return found


_LINK = "models: {main: [openai/gpt-4o-2024-08-06, simulated/small]}"
_LINK_KEYS = ("model", "parameters", "timeout", "first_token", "price")


def _link(document: Document, path: Path, link: Any) -> ModelPin | None:
    given: Mapping[str, Any] = {"model": link} if isinstance(link, str) else link
    if not isinstance(given, dict):
        document.refuse(path, f"{name(path)} is no model", _LINK)
        return None
    if isinstance(link, dict):
        document.known(path, given, _LINK_KEYS)
    provider, _, model = str(given.get("model", "")).partition("/")
    if not provider or not model:
        document.refuse(path, f"{name(path)}: a model is written provider/model", _LINK)
        return None
    shipped = ModelPin(provider=provider, model=model)
    return ModelPin(
        provider=provider,
        model=model,
        parameters=document.read((*path, "parameters"), _mapping, _NOTHING),
        timeout_seconds=document.read(
            (*path, "timeout"), _positive(seconds), shipped.timeout_seconds
        ),
        first_token_seconds=document.read(
            (*path, "first_token"), _positive(seconds), shipped.first_token_seconds
        ),
        price=document.read(
            (*path, "price"), _price, None, "price: {input: $2.50, output: $10}  # a million tokens"
        ),
    )


def _price(value: Any) -> Price:
    if not isinstance(value, dict) or value.keys() != {"input", "output"}:
        raise ValueError("a price has input and output, in dollars for a million tokens")
    return Price(
        input_nanos=nanos(value["input"]) // 1_000_000,
        output_nanos=nanos(value["output"]) // 1_000_000,
    )


def _undated(document: Document, models: Mapping[str, tuple[ModelPin, ...]]) -> list[str]:
    """A model's name without a date is whatever the provider makes of it tomorrow."""
    return [
        f"{document.file}:{document.line(('models', alias, index))}: {pin.provider}/{pin.model} is"
        " not dated: the provider may change what it stands for. Pin a dated id."
        for alias, chain in models.items()
        for index, pin in enumerate(chain)
        if pin.provider not in _UNDATED_PROVIDERS and not _DATED.search(pin.model)
    ]


# ---------------------------------------------------------------- rollout

_DURATIONS = ("horizon", "quiet", "max_duration")
_ROLLOUT_KEYS = (
    "strategy", "steps", "approve", "guards", "goal", "risk", "unit", "on_inconclusive",
    *_DURATIONS,
)  # fmt: skip


def _rollout(document: Document) -> dict[str, Any]:
    given = _under(document, "rollout")
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
_NOTHING: dict[str, Any] = {}


def _under(document: Document, key: str) -> dict[str, Any]:
    """The mapping below a key; empty when it is absent."""
    return document.read((key,), _mapping, _NOTHING)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of names to values")  # noqa: TRY004 - see above
    return value
