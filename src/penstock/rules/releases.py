"""A release's identity: digests, labels, the composite name, and what differs between two.

Digests are sha256 in lower-case hex of canonical JSON (RFC 8785). Labels are for people and are in
no digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import rfc8785

from penstock.domain.components import ComponentKind
from penstock.domain.errors import Damaged
from penstock.domain.releases import FileEntry, Limits, Manifest, ModelPin, Policy, Tool, ToolSource

_SHORT = 7
_decode = msgspec.json.Decoder(Manifest).decode
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_COUNTED = re.compile(r"v(\d+)\.(\d+)")
_VERSION = re.compile(r"v\d+(\.\d+){0,3}([-.]?[a-z0-9]+)?")
_NAMED = (ComponentKind.PROMPT, ComponentKind.TOOLS, ComponentKind.MODEL, ComponentKind.CODE)


def digest_bytes(content: bytes) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """The digest of a JSON value in its canonical form."""
    return digest_bytes(canonical(value))


def canonical(value: Any) -> bytes:
    """A JSON value, or a record, in its canonical form (RFC 8785)."""
    return rfc8785.dumps(plain(value))


def plain(value: Any) -> Any:
    """A record as JSON has it.

    A setting that Penstock learned later is left out while it has its default: the digest of what
    a project said before must not change because more can be said now.
    """
    found = msgspec.to_builtins(value)
    if isinstance(value, Manifest):
        if not found["tools_default"]:
            del found["tools_default"]
        _without_defaults(found["policy"])
    elif isinstance(value, Policy):
        _without_defaults(found)
    return found


_LATER = {
    field.name: field.default
    for field in dataclasses.fields(Limits)
    if field.name
    in ("memory_large_bytes", "tokens", "steps", "processes", "open_files", "wait_seconds")
}


def _without_defaults(policy: dict[str, Any]) -> None:
    if policy.get("session_ttl_seconds") is None:
        policy.pop("session_ttl_seconds", None)
    limits = policy["limits"]
    for name, default in _LATER.items():
        if limits.get(name) == default:
            limits.pop(name, None)


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
    paths: tuple[str, ...] = ()
    state_types: tuple[str, ...] = ()
    sources: tuple[ToolSource, ...] = ()
    tools_default: Mapping[str, str] = field(default_factory=dict)


def contents(parts: Parts) -> dict[ComponentKind, Any]:
    """Each component's own content: no byte of the release is in two, none is in no one."""
    return {
        ComponentKind.PROMPT: _digests(parts.prompts),
        ComponentKind.TOOLS: {
            "files": _digests(parts.tool_files),
            "tools": [msgspec.to_builtins(tool) for tool in _by_name(parts.tools)],
            "sources": [msgspec.to_builtins(source) for source in parts.sources],
            **({"default": dict(parts.tools_default)} if parts.tools_default else {}),
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
            "paths": list(parts.paths),
            "lock": parts.lock.digest,
            "graph": parts.graph,
            "state_schema": parts.state_schema,
            "state_types": list(parts.state_types),
        },
        ComponentKind.POLICY: plain(parts.policy),
    }


def with_contents(parts: Parts, given: Mapping[ComponentKind, Any]) -> Parts:
    """The same parts with whole components replaced by contents of :func:`contents`."""
    changes: dict[str, Any] = {}
    for kind, content in given.items():
        match kind:
            case ComponentKind.PROMPT:
                changes["prompts"] = _entries(content)
            case ComponentKind.TOOLS:
                changes["tool_files"] = _entries(content["files"])
                changes["tools"] = msgspec.convert(content["tools"], tuple[Tool, ...])
                sources = content.get("sources", ())
                changes["sources"] = msgspec.convert(sources, tuple[ToolSource, ...])
                changes["tools_default"] = dict(content.get("default", {}))
            case ComponentKind.MODEL:
                changes["models"] = msgspec.convert(content, dict[str, tuple[ModelPin, ...]])
            case ComponentKind.CODE:
                changes |= _code(parts, content)
            case ComponentKind.POLICY:
                changes["policy"] = msgspec.convert(content, Policy)
    return replace(parts, **changes)


def _code(parts: Parts, content: Mapping[str, Any]) -> dict[str, Any]:
    executable = set(content["executable"])
    return {
        "entrypoint": content["entrypoint"],
        "python": content["python"],
        "code": tuple(
            FileEntry(path=path, digest=digest, executable=path in executable)
            for path, digest in sorted(content["files"].items())
        ),
        "paths": tuple(content.get("paths", ())),
        "lock": replace(parts.lock, digest=content["lock"]),
        "graph": content["graph"],
        "state_schema": content["state_schema"],
        "state_types": tuple(content.get("state_types", ())),
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
        tools=_by_name(parts.tools),
        models=parts.models,
        lock=parts.lock,
        graph=parts.graph,
        state_schema=parts.state_schema,
        policy=parts.policy,
        components={kind: digest_json(value) for kind, value in contents(parts).items()},
        paths=parts.paths,
        state_types=parts.state_types,
        sources=parts.sources,
        tools_default=parts.tools_default,
    )


def parts_of(release: Manifest) -> Parts:
    """What a release is made of."""
    return Parts(
        **{field.name: getattr(release, field.name) for field in dataclasses.fields(Parts)}
    )


def files(release: Manifest) -> dict[str, FileEntry]:
    """Every file of a release, by the digest of its content."""
    entries = (*release.code, *release.prompts, *release.tool_files, release.lock)
    return {entry.digest: entry for entry in entries}


def verified(raw: bytes, digest: str) -> Manifest:
    """A stored manifest, once it is proven to be the one of this digest.

    Raises:
        Damaged: it is not.
    """
    try:
        pinned = _decode(raw)
        found = digest_bytes(rfc8785.dumps(json.loads(raw)))
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged(f"the manifest of release {digest} cannot be read: {error}") from None
    if found != digest:
        raise Damaged(
            f"the manifest of release {digest} is not what its digest says: it is {found}",
            hint="The stored artifact is damaged: import it again, or restore a backup.",
        )
    return pinned


def release_digest(release: Manifest) -> str:
    """The digest of a release: of its manifest, which holds nothing but hashes and pins."""
    return digest_json(release)


def label(
    kind: ComponentKind, *, digest: str, hint: str | None, latest: str | None, taken: Container[str]
) -> str:
    """What people call a new component version.

    Args:
        kind: of the component.
        digest: its digest.
        hint: the author's own version, or a model's id.
        latest: the label of the version before it; its minor number is raised.
        taken: labels that other versions have.
    """
    if kind is ComponentKind.CODE or kind is ComponentKind.POLICY:
        length = _SHORT
        while digest[:length] in taken:
            length += 1
        return digest[:length]
    if hint is None:
        counted = _COUNTED.fullmatch(latest or "")
        major, minor = (int(counted[1]), int(counted[2])) if counted else (1, -1)
        while (chosen := f"v{major}.{minor + 1}") in taken:
            minor += 1
        return chosen
    wanted = _DATE.sub(r"\1\2\3", hint)
    chosen, number = wanted, 1
    while chosen in taken:
        number += 1
        chosen = f"{wanted}.{number}"
    return chosen


def author_label(version: object) -> str:
    """The label that an author's ``version:`` asks for: ``v3.2`` of ``3.2``.

    Raises:
        ValueError: it is no version.
    """
    text = str(version).strip()
    wanted = text if text.startswith("v") else f"v{text}"
    if isinstance(version, bool | dict | list) or not _VERSION.fullmatch(wanted):
        raise ValueError(f"{text!r} is no version such as 3.2")
    return wanted


def composite(labels: Mapping[ComponentKind, str]) -> str:
    """A release's name for people: ``prompt-v1.2+tools-v1.0+model-…+code-1f3a9c2``."""
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
    flat |= _flat_tools(release)
    for alias, chain in release.models.items():
        flat[ComponentKind.MODEL.value, alias] = msgspec.to_builtins(chain)
    code = {
        "entrypoint": release.entrypoint,
        "python": release.python,
        "graph": dict(release.graph),
        "state schema": release.state_schema,
        "paths": list(release.paths),
        "state types": list(release.state_types),
    }
    for name, value in code.items():
        flat[ComponentKind.CODE.value, name] = value
    policy: dict[str, Any] = plain(release.policy)
    for name, value in policy.items():
        if isinstance(value, dict):
            for key, item in value.items():
                flat[ComponentKind.POLICY.value, f"{name}.{key}"] = item
        else:
            flat[ComponentKind.POLICY.value, name] = value
    return flat


def _flat_tools(release: Manifest) -> dict[tuple[str, str], Any]:
    kind = ComponentKind.TOOLS.value
    flat: dict[tuple[str, str], Any] = {}
    for tool in release.tools:
        flat[kind, f"tool {tool.name}"] = msgspec.to_builtins(tool)
    for source in release.sources:
        flat[kind, f"source {source.name}"] = msgspec.to_builtins(source)
    if release.tools_default:
        flat[kind, "undeclared tools"] = dict(release.tools_default)
    return flat


def _entries(files: Mapping[str, str]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(path=path, digest=digest) for path, digest in sorted(files.items()))


def _by_name(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    return tuple(sorted(tools, key=lambda tool: (tool.module, tool.name)))


def _digests(entries: Sequence[FileEntry]) -> dict[str, str]:
    return {entry.path: entry.digest for entry in entries}


def _sorted(entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))
