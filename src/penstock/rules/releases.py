"""A release's identity: digests, labels, the composite name, and what differs between two.

Digests are sha256 in lower-case hex of canonical JSON (RFC 8785). Labels are for people and are in
no digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import rfc8785

from penstock.domain.releases import (
    Component,
    ComponentKind,
    FileEntry,
    Manifest,
    ModelPin,
    Policy,
    Tool,
)

_SHORT = 7
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_NAMED = (ComponentKind.PROMPT, ComponentKind.TOOLS, ComponentKind.MODEL, ComponentKind.CODE)


def digest_bytes(content: bytes) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """The digest of a JSON value in its canonical form."""
    return digest_bytes(canonical(value))


def canonical(value: Any) -> bytes:
    """A JSON value, or a record, in its canonical form (RFC 8785)."""
    return rfc8785.dumps(msgspec.to_builtins(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a release is made of, before it has a name."""

    agent: str
    entrypoint: str
    python: str
    code: tuple[FileEntry, ...]
    prompts: tuple[FileEntry, ...]
    tool_files: tuple[FileEntry, ...]
    tools: tuple[Tool, ...]
    models: Mapping[str, tuple[ModelPin, ...]]
    lock: FileEntry
    graph: Mapping[str, Any]
    state_schema: str
    policy: Policy


def contents(parts: Parts) -> dict[ComponentKind, Any]:
    """Each component's own content; no byte of the release is in two of them."""
    return {
        ComponentKind.PROMPT: _digests(parts.prompts),
        ComponentKind.TOOLS: {
            "files": _digests(parts.tool_files),
            "tools": [msgspec.to_builtins(tool) for tool in parts.tools],
        },
        ComponentKind.MODEL: {
            alias: [msgspec.to_builtins(pin) for pin in chain]
            for alias, chain in parts.models.items()
        },
        ComponentKind.CODE: {
            "entrypoint": parts.entrypoint,
            "python": parts.python,
            "files": _digests(parts.code),
            "executable": sorted(entry.path for entry in parts.code if entry.executable),
            "lock": parts.lock.digest,
            "graph": parts.graph,
            "state_schema": parts.state_schema,
        },
        ComponentKind.POLICY: msgspec.to_builtins(parts.policy),
    }


def manifest(parts: Parts) -> Manifest:
    """The manifest, with the digest of each component."""
    return Manifest(
        agent=parts.agent,
        entrypoint=parts.entrypoint,
        python=parts.python,
        code=_sorted(parts.code),
        prompts=_sorted(parts.prompts),
        tool_files=_sorted(parts.tool_files),
        tools=tuple(sorted(parts.tools, key=lambda tool: (tool.module, tool.name))),
        models=parts.models,
        lock=parts.lock,
        graph=parts.graph,
        state_schema=parts.state_schema,
        policy=parts.policy,
        components={kind: digest_json(value) for kind, value in contents(parts).items()},
    )


def release_digest(release: Manifest) -> str:
    """The digest of a release: of its manifest, which holds nothing but hashes and pins."""
    return digest_json(release)


def label(kind: ComponentKind, *, digest: str, number: int, hint: str | None) -> str:
    """What people call a component version.

    Args:
        kind: of the component.
        digest: its digest.
        number: 1, 2, 3 … in order of first publication.
        hint: the author's own version, or a model's id.
    """
    if kind is ComponentKind.CODE or kind is ComponentKind.POLICY:
        return digest[:_SHORT]
    if hint:
        return _DATE.sub(r"\1\2\3", hint)
    return f"v1.{number - 1}"


def composite(components: Sequence[Component]) -> str:
    """A release's name for people: ``prompt-v1.2+tools-v1.0+model-…+code-1f3a9c2``."""
    labels = {component.kind: component.label for component in components}
    return "+".join(f"{kind.value}-{labels[kind]}" for kind in _NAMED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that is not the same in two releases."""

    component: ComponentKind
    name: str  # a file, a tool, an alias, a key of the policy
    before: Any  # digest or value; None where it does not exist
    after: Any


def diff(before: Manifest, after: Manifest) -> list[Difference]:
    """What changed from one release to another, component by component."""
    old, new = _flat(before), _flat(after)
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            kind, name = key
            found.append(
                Difference(
                    component=ComponentKind(kind),
                    name=name,
                    before=old.get(key),
                    after=new.get(key),
                )
            )
    return found


def _flat(release: Manifest) -> dict[tuple[str, str], Any]:
    flat: dict[tuple[str, str], Any] = {}
    for kind, files in (
        (ComponentKind.PROMPT, release.prompts),
        (ComponentKind.TOOLS, release.tool_files),
        (ComponentKind.CODE, (*release.code, release.lock)),
    ):
        for entry in files:
            flat[kind.value, entry.path] = entry.digest
    for tool in release.tools:
        flat[ComponentKind.TOOLS.value, f"tool {tool.name}"] = msgspec.to_builtins(tool)
    for alias, chain in release.models.items():
        flat[ComponentKind.MODEL.value, alias] = msgspec.to_builtins(chain)
    code = {
        "entrypoint": release.entrypoint,
        "python": release.python,
        "graph": dict(release.graph),
        "state schema": release.state_schema,
    }
    for name, value in code.items():
        flat[ComponentKind.CODE.value, name] = value
    policy: dict[str, Any] = msgspec.to_builtins(release.policy)
    for name, value in policy.items():
        if isinstance(value, dict):
            for key, item in value.items():
                flat[ComponentKind.POLICY.value, f"{name}.{key}"] = item
        else:
            flat[ComponentKind.POLICY.value, name] = value
    return flat


def _digests(entries: Sequence[FileEntry]) -> dict[str, str]:
    return {entry.path: entry.digest for entry in entries}


def _sorted(entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))
