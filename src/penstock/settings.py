"""Settings, read from the environment once, when a server starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from penstock.domain.errors import Invalid
from penstock.domain.queues import QueueLimits
from penstock.domain.replicas import Scaling
from penstock.rules.limits import read_caps

T = TypeVar("T")

DEFAULT_PORT = 8700

_HIGHEST_PORT = 65535
_MOST_CONCURRENCY = 1000
_MOST_QUEUED = 10_000_000
_MOST_REPLICAS = 64
_MOST_ATTACHMENT_BYTES = 60 << 20  # it reaches an agent in one frame


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderSettings:
    """An OpenAI-compatible endpoint."""

    base_url: str
    key: str | None = None
    key_variable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a server is told from outside."""

    home: Path
    database_url: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: any, printed
    concurrency: int = 64  # attempts at once; 0: this server runs none itself
    scaling: Scaling | None = None  # of replicas that this server starts; None: it starts none
    drain_seconds: float = 20.0
    queue_limits: QueueLimits = field(default_factory=QueueLimits)
    admin_key: str | None = None  # the first key, instead of a random one
    openai_key: str | None = None
    simulated_seed: int = 0
    simulated_latency: float = 1.0  # times the simulated model's usual delays
    simulated_faults: Mapping[str, float] = field(default_factory=dict)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    signing_key: Path | None = None  # a mounted private key, instead of one of our own making
    caps: Mapping[str, Any] = field(default_factory=dict)  # what any task may use, by field
    attachment_bytes: int = 32 << 20  # the largest file of a session
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Settings:
        """Read ``PENSTOCK_…`` and ``OPENAI_API_KEY``.

        Raises:
            Invalid: a value cannot be used; names the variable.
        """
        read = _Reader(env)
        scaling = read("SCALE", _scaling, None)
        return cls(
            home=Path(env.get("PENSTOCK_HOME") or ".penstock").expanduser().absolute(),
            database_url=read("DATABASE_URL", _database_url, None),
            host=env.get("PENSTOCK_HOST") or "127.0.0.1",
            port=read("PORT", _between(0, _HIGHEST_PORT), DEFAULT_PORT),
            concurrency=read("CONCURRENCY", _between(0, _MOST_CONCURRENCY), 0 if scaling else 64),
            scaling=scaling,
            drain_seconds=read("DRAIN_SECONDS", _not_negative, 20.0),
            queue_limits=QueueLimits(
                each=read("QUEUE_LIMIT", _between(1, _MOST_QUEUED), QueueLimits.each),
                total=read("QUEUE_TOTAL_LIMIT", _between(1, _MOST_QUEUED), QueueLimits.total),
            ),
            admin_key=read("ADMIN_KEY", _key, None),
            openai_key=env.get("OPENAI_API_KEY") or None,
            simulated_seed=read("SIMULATED_SEED", int, 0),
            simulated_latency=read("SIMULATED_LATENCY", _not_negative, 1.0),
            simulated_faults=read("SIMULATED_FAULTS", _faults, {}),
            providers=read("PROVIDERS", lambda text: _providers(text, env), {}),
            signing_key=read("SIGNING_KEY", lambda text: Path(text).expanduser(), None),
            caps=read("LIMITS", read_caps, {}),
            attachment_bytes=read(
                "ATTACHMENT_BYTES", _between(1, _MOST_ATTACHMENT_BYTES), 32 << 20
            ),
            log_level=read("LOG_LEVEL", _level, "INFO"),
        )


class _Reader:
    """Reads one variable after the other, with errors that name it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def __call__(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._env.get(f"PENSTOCK_{name}")
        if not text:
            return default
        try:
            return parse(text)
        except (ValueError, TypeError, KeyError) as error:
            shown = "…" if "KEY" in name or "URL" in name else repr(text)
            raise Invalid(
                f"PENSTOCK_{name}={shown} cannot be used: {error}",
                hint=f"Set it to something else, or leave PENSTOCK_{name} out.",
            ) from None


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if text.strip().isdigit() else -1
        if not low <= number <= high:
            raise ValueError(f"it is a whole number from {low} to {high}")
        return number

    return parse


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError("it is a number that is not negative")
    return number


def _database_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it begins with postgresql://")
    return text


def _key(text: str) -> str:
    if not text.startswith("psk_") or len(text) < 36:  # noqa: PLR2004 - 32 characters of randomness
        raise ValueError("a key is psk_ followed by at least 32 random characters")
    return text


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("it is debug, info, warning or error")
    return text.upper()


def _faults(text: str) -> dict[str, float]:
    given = json.loads(text)
    known = ("errors", "overloaded", "rate_limited", "hangs", "cuts")
    if not isinstance(given, dict) or not given.keys() <= set(known):
        raise ValueError(f"it is a JSON object with shares of {', '.join(known)}")
    return {name: float(value) for name, value in given.items()}


def _scaling(text: str) -> Scaling:
    given: Any = json.loads(text)
    known = {"min", "max", "target", "concurrency", "up_seconds", "down_seconds"}
    if not isinstance(given, dict) or not given.keys() <= known or "max" not in given:
        raise ValueError(f'it is a JSON object: {{"max": 4}}, and also {", ".join(sorted(known))}')
    numbers = {name: given[name] for name in given if not name.endswith("_seconds")}
    if not all(type(value) is int for value in numbers.values()):
        raise ValueError(f"{', '.join(numbers)} are whole numbers")
    found = Scaling(
        least=given.get("min", 0),
        most=given["max"],
        target=given.get("target", 32),
        concurrency=given.get("concurrency", 64),
        up_seconds=float(given.get("up_seconds", 0.0)),
        down_seconds=float(given.get("down_seconds", 60.0)),
    )
    if not 0 <= found.least <= found.most <= _MOST_REPLICAS or not found.most:
        raise ValueError(f"0 ≤ min ≤ max, and max is from 1 to {_MOST_REPLICAS}")
    if found.target < 1 or not 1 <= found.concurrency <= _MOST_CONCURRENCY:
        raise ValueError(f"target is 1 or more, concurrency from 1 to {_MOST_CONCURRENCY}")
    if not (0 <= found.up_seconds < float("inf") and 0 <= found.down_seconds < float("inf")):
        raise ValueError("seconds are not negative")
    return found


def _providers(text: str, env: Mapping[str, str]) -> dict[str, ProviderSettings]:
    given: Any = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError('it is a JSON object: {"local": {"base_url": "http://…/v1"}}')  # noqa: TRY004 - all are
    found = {}
    for name, value in given.items():
        if not isinstance(value, dict) or not value.keys() <= {"base_url", "key_env"}:
            raise ValueError(f"{name} has base_url and, if it needs a key, key_env")
        variable = value.get("key_env")
        found[name] = ProviderSettings(
            base_url=str(value["base_url"]).rstrip("/"),
            key=env.get(variable) if variable else None,
            key_variable=variable,
        )
    return found
