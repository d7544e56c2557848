"""Releases and what they pin.

A release is an immutable set of component versions. Its digest is the sha256 of the canonical
JSON (RFC 8785) of its manifest, which holds content hashes and pins only: labels, the composite
name and the time it was made refer to the digest and are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from penstock.domain.components import ComponentKind


class Isolation(StrEnum):
    """How one attempt is kept from the next."""

    PROCESS = "process"  # a process of its own for every attempt
    SHARED = "shared"  # one process for many: for trusted light agents


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What tokens cost, in nano-dollars a token."""

    input_nanos: int
    output_nanos: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPin:
    """One link of a chain: a provider's model with its parameters."""

    provider: str  # openai, simulated, local …: the name a provider is configured under
    model: str  # the id the provider is asked for
    parameters: Mapping[str, Any] = field(default_factory=dict)  # over what the agent sends
    timeout_seconds: float = 60.0  # for the whole answer
    first_token_seconds: float = 30.0  # until the first byte of the answer's body
    price: Price | None = None  # instead of the price list's


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one task may use; ``None`` means no limit of ours.

    A field that came later than the first release is not in a manifest while it has its default:
    see ``rules/releases.py``.
    """

    time_seconds: float = 300.0  # wall time of one attempt
    cpu_seconds: float | None = None  # CPU time of one attempt, with all that it started
    memory_bytes: int | None = 1 << 30  # of one attempt, with all that it started
    cost_nanos: int | None = None  # dollars of all attempts together
    attempts: int = 3  # attempts that may die before the task is a dead letter
    output_bytes: int = 8 << 20  # of the result; captured stdout and stderr are cut at it
    memory_large_bytes: int | None = None  # of the attempt after one that ran out of memory_bytes
    tokens: int | None = None  # in and out, of all attempts together
    steps: int | None = None  # committed, of all attempts together
    processes: int = 256  # that run at the same time in one attempt
    open_files: int = 4096  # of one process
    wait_seconds: float | None = None  # for a person, each time


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool as the model sees it, and how often it may run."""

    name: str
    description: str
    schema: Mapping[str, Any]  # JSON Schema of its arguments
    module: str  # that implements it, or the name of the source it comes from
    effect: str = "write"  # read | write
    retry: str = "never"  # safe | keyed | never


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSource:
    """A server whose tools the release pins: an MCP server, or an OpenAPI document."""

    name: str
    kind: str  # mcp | openapi
    location: str  # URL, or a file of the project
    version: str  # of the server, as it said when the release was cut
    on_drift: str = "refuse"  # refuse | tolerate: when it offers other tools than those pinned
    operations: tuple[str, ...] = ()  # of an OpenAPI document; none means all


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file of the artifact."""

    path: str  # relative, with forward slashes
    digest: str  # sha256 of its bytes
    executable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a release is run and judged."""

    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = Isolation.PROCESS
    evaluators: Mapping[str, str] = field(default_factory=dict)  # metric → module:function
    env: Mapping[str, str] = field(default_factory=dict)
    rollout: Mapping[str, Any] = field(default_factory=dict)  # domain.rollouts.plan_from_json
    secrets: Mapping[str, str] = field(default_factory=dict)  # variable → reference, never a value
    rollback_window_seconds: float = 7 * 86400.0  # in which what was proven need not be again
    strict: bool = False  # warnings of a release are errors
    session_ttl_seconds: float | None = None  # after its last use a session is deleted


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a release pins; its canonical JSON is what the digest covers."""

    agent: str
    entrypoint: str  # module:attribute
    python: str  # minor version: 3.11
    code: tuple[FileEntry, ...]  # the tree without prompts and tool modules
    prompts: tuple[FileEntry, ...]
    tool_files: tuple[FileEntry, ...]  # the modules that implement the tools
    tools: tuple[Tool, ...]
    models: Mapping[str, tuple[ModelPin, ...]]  # alias → chain
    lock: FileEntry  # penstock.lock
    graph: Mapping[str, Any]  # nodes and edges, as the builder found them
    state_schema: str  # sha256 of the state's JSON Schema; of nothing for plain callables
    policy: Policy
    components: Mapping[ComponentKind, str]  # digest of each
    paths: tuple[str, ...] = ()  # directories of the project that modules are imported from, too
    state_types: tuple[str, ...] = ()  # module:name of the classes a checkpoint may hold
    sources: tuple[ToolSource, ...] = ()  # where tools come from that are not in the code
    tools_default: Mapping[str, str] = field(default_factory=dict)  # of undeclared: effect, retry


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """An immutable set of component versions."""

    digest: str
    agent: str
    number: int  # 1, 2, 3 … within the agent
    composite: str  # for people
    manifest: Manifest
    message: str
    created_by: str
    created_us: int
