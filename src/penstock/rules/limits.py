"""Limits: how they are written, which of several is in force, and what is said of a broken one.

A limit has one name everywhere: ``memory`` in ``penstock.yaml``, in an environment's overlay
(``policy.limits.memory``), in the installation's caps and in the error of a task that broke it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.domain.errors import ProjectInvalid
from penstock.domain.releases import Limits
from penstock.domain.tasks import Ending, ResourceClass
from penstock.rules.budgets import dollars
from penstock.rules.documents import Document, under
from penstock.rules.quantities import count, nanos, positive, seconds, size_bytes

_MOST_ATTEMPTS = 100
_MIB = 1 << 20
_GIB = 1 << 30


def _attempts(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ATTEMPTS:
        raise ValueError(f"{value!r} is no number from 1 to {_MOST_ATTEMPTS}")
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """One limit: its field, how it is read, its unit, and an example."""

    field: str
    read: Callable[[Any], Any]
    unit: str
    example: str


_KINDS = {
    "time": _Kind(
        field="time_seconds", read=positive(seconds), unit="seconds", example="time: 5m"
    ),
    "cpu": _Kind(
        field="cpu_seconds", read=positive(seconds), unit="seconds", example="cpu: 60s of CPU time"
    ),
    "memory": _Kind(
        field="memory_bytes", read=positive(size_bytes), unit="bytes", example="memory: 1GiB"
    ),
    "memory_large": _Kind(
        field="memory_large_bytes",
        read=positive(size_bytes),
        unit="bytes",
        example="memory_large: 4GiB",
    ),
    "cost": _Kind(
        field="cost_nanos", read=positive(nanos), unit="nanodollars", example="cost: $0.50"
    ),
    "tokens": _Kind(
        field="tokens", read=positive(count), unit="tokens", example="tokens: 200k"
    ),
    "steps": _Kind(field="steps", read=positive(count), unit="steps", example="steps: 60"),
    "processes": _Kind(
        field="processes", read=positive(count), unit="processes", example="processes: 64"
    ),
    "files": _Kind(
        field="open_files", read=positive(count), unit="files", example="files: 1024"
    ),
    "output": _Kind(
        field="output_bytes", read=positive(size_bytes), unit="bytes", example="output: 8MiB"
    ),
    "wait": _Kind(field="wait_seconds", read=positive(seconds), unit="seconds", example="wait: 7d"),
    "attempts": _Kind(
        field="attempts", read=_attempts, unit="attempts", example="attempts: 3"
    ),
}  # fmt: skip

FIELDS: Mapping[str, str] = {name: kind.field for name, kind in _KINDS.items()}

# What one process of many cannot be held to.
_OF_PROCESSES = ("memory", "memory_large", "cpu", "processes", "files")


# ---------------------------------------------------------------- as people write them


def read_limits(document: Document) -> Limits:
    """What ``limits`` of a project says; what it leaves out is as shipped."""
    limits = replace(Limits(), **_given(document))
    large = limits.memory_large_bytes
    if large is not None and large <= (limits.memory_bytes or 0):
        document.refuse(
            ("limits", "memory_large"),
            "limits.memory_large is not more than limits.memory",
            "A task that runs out of memory is tried once more with memory_large.",
        )
    return limits


def unheld(document: Document) -> list[str]:
    """What a person is told of limits that ``isolation: shared`` cannot hold."""
    if document.data.get("isolation") != "shared":
        return []
    named = under(document, "limits")
    return [
        f"{document.file}:{document.line(('limits', name))}: limits.{name} does not hold with"
        " isolation: shared, where many attempts share one process. Use isolation: process."
        for name in _OF_PROCESSES
        if name in named
    ]


def read_caps(text: str) -> dict[str, Any]:
    """What an installation lets any task use, by field, from a JSON object of limits.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    given = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError('it is a JSON object: {"memory": "2GiB", "cost": "$5"}')  # noqa: TRY004 - as below
    try:
        document = Document(json.dumps({"limits": given}), file="")
        found = _given(document)
        document.check()
    except ProjectInvalid as error:
        raise ValueError(error.message.removeprefix(":1: ")) from None
    return found


def _given(document: Document) -> dict[str, Any]:
    """The fields that a document's ``limits`` set."""
    named = under(document, "limits")
    document.known(("limits",), named, tuple(_KINDS))
    found = {}
    for name, kind in _KINDS.items():
        value = document.read(("limits", name), kind.read, None, kind.example)
        if value is not None:
            found[kind.field] = value
    return found


# ---------------------------------------------------------------- which is in force


def capped(limits: Limits, caps: Mapping[str, Any]) -> Limits:
    """A release's limits where an installation has caps: of two, the lower one."""
    lower = {
        field: cap
        for field, cap in caps.items()
        if field != FIELDS["memory_large"]
        and ((own := getattr(limits, field)) is None or cap < own)
    }
    large = limits.memory_large_bytes
    if large is not None:
        # A cap on memory that says nothing of the large class holds there, too.
        most = caps.get("memory_large_bytes", caps.get("memory_bytes"))
        if most is not None and most < large:
            lower["memory_large_bytes"] = most
    return replace(limits, **lower)


def in_class(limits: Limits, resource_class: ResourceClass) -> Limits:
    """The limits of an attempt in a resource class."""
    if resource_class is ResourceClass.LARGE and limits.memory_large_bytes is not None:
        return replace(limits, memory_bytes=limits.memory_large_bytes)
    return limits


def has_larger(limits: Limits, resource_class: ResourceClass) -> bool:
    """Whether there is a class with more memory than this one."""
    large = limits.memory_large_bytes
    return (
        resource_class is ResourceClass.STANDARD
        and large is not None
        and limits.memory_bytes is not None
        and large > limits.memory_bytes
    )


# ---------------------------------------------------------------- what is said of a broken one


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A limit that an attempt has reached."""

    limit: str  # its name: memory
    value: float  # in its unit: seconds, bytes, nano-dollars, tokens …
    used: float
    detail: str = ""  # in the process's own words


_ENDINGS = {
    "time": Ending.TIMEOUT,
    "cpu": Ending.CPU,
    "memory": Ending.MEMORY,
    "processes": Ending.PROCESSES,
    "files": Ending.FILES,
    "output": Ending.OUTPUT,
    "cost": Ending.BUDGET,
    "tokens": Ending.TOKENS,
    "steps": Ending.STEPS,
}

_TYPES = {
    "time": "Timeout",
    "cpu": "CPULimit",
    "memory": "MemoryLimit",
    "processes": "ProcessLimit",
    "files": "OpenFilesLimit",
    "output": "OutputTooLarge",
    "cost": "BudgetExceeded",
    "tokens": "TokenLimit",
    "steps": "StepLimit",
}


def ending_of(broken: Broken) -> Ending:
    """How an attempt ends that breaks a limit."""
    return _ENDINGS[broken.limit]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The limits of one attempt, and whose they are."""

    own: Limits  # of the release
    caps: Mapping[str, Any]  # of the installation, by field
    limits: Limits  # what is in force

    @classmethod
    def of(cls, own: Limits, caps: Mapping[str, Any], resource_class: ResourceClass) -> Terms:
        """The limits of an attempt in a resource class."""
        return cls(own=own, caps=caps, limits=in_class(capped(own, caps), resource_class))

    def broken(self, limit: str, used: float, detail: str = "") -> Broken:
        """That a limit is broken."""
        value = getattr(self.limits, FIELDS[limit])
        return Broken(limit=limit, value=value, used=used, detail=detail)


def error_of(
    broken: Broken,
    terms: Terms,
    *,
    overlay: Mapping[str, str],
    cause: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a task says of the limit it broke.

    Args:
        broken: the limit.
        terms: the attempt's.
        overlay: of the task's environment, setting by setting.
        cause: the error that the agent made of it, if it lived to raise one.
    """
    said = dict(cause or {"type": _TYPES[broken.limit], "traceback": ""})
    if cause is None or broken.limit in ("memory", "files"):
        said["message"] = _message(broken)
    return {
        **said,
        "limit": broken.limit,
        "limit_value": broken.value,
        "used": broken.used,
        "unit": _KINDS[broken.limit].unit,
        "scope": _scope(broken, terms, overlay),
    }


def _scope(broken: Broken, terms: Terms, overlay: Mapping[str, str]) -> str:
    """Whose limit it is: the installation's cap, the environment's overlay, or the release's."""
    names = ("memory", "memory_large") if broken.limit == "memory" else (broken.limit,)
    if all(getattr(terms.own, FIELDS[name]) != broken.value for name in names):
        return "installation"
    for name in names:
        text = overlay.get(f"policy.limits.{name}")
        if text is not None and _reads_as(name, text, broken.value):
            return "environment"
    return "task"


def _reads_as(name: str, text: str, value: float) -> bool:
    """Whether a setting of an overlay says this value; ``60`` is a number there, too."""
    try:
        return bool(_KINDS[name].read(int(text) if text.isdigit() else text) == value)
    except (ValueError, TypeError):
        return False


_MESSAGES = {
    "time": "ran for {value} s, its limit",
    "cpu": "used {value} s of CPU time, its limit",
    "memory": "used {value} of memory, its limit",
    "processes": "ran {used} processes; the limit is {value}",
    "files": "had {value} files open, its limit",
    "output": "the result has {used} bytes; the limit is {value}",
    "cost": "cost {used}; the next call could pass {value}, its limit",
    "tokens": "used {used} tokens; the next call could pass {value}, its limit",
    "steps": "committed {used} steps, its limit, and began another",
}


def _message(broken: Broken) -> str:
    text = _MESSAGES[broken.limit].format(
        value=_shown(broken.limit, broken.value), used=_shown(broken.limit, broken.used)
    )
    return f"{text}: {broken.detail}" if broken.detail else text


def _shown(limit: str, amount: float) -> str:
    if limit == "cost":
        return dollars(int(amount))
    if limit == "memory":
        unit, size = ("GiB", _GIB) if amount >= _GIB else ("MiB", _MIB)
        return f"{amount / size:.4g} {unit}"
    return f"{amount:g}" if limit in ("time", "cpu") else str(int(amount))
