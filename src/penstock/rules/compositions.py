"""Releases derived from releases: what ``--set prompt.system=v3.3`` asks for, and what it makes.

A setting names a component, perhaps a part of it, and what it shall be::

    prompt=v1.4                          all prompts, as in a version of the whole component
    prompt.system=v3.3                   one prompt: a version, a label, a digest's beginning
    tools=v1.2    code=1f3a9c2           whole components
    model.main=openai/gpt-4o-2024-08-06  an alias: a chain of models, separated by commas,
    model.main=v1.1                      … or a version of that alias
    model.main.temperature=0.2           a parameter, on every link of the chain
    policy.limits.cost=$0.20             a key of penstock.yaml

Wherever a version stands, ``@live`` or ``@v7`` means: as in that release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from posixpath import basename, dirname
from typing import Any

import msgspec
import yaml

from penstock.domain.components import ComponentKind
from penstock.domain.errors import Invalid
from penstock.domain.releases import FileEntry, ModelPin
from penstock.rules import projects
from penstock.rules.limits import FIELDS
from penstock.rules.releases import Parts, contents, digest_json, with_contents

SUFFIX = ".prompt"

_LINK_KEYS = {"timeout", "first_token"}
_POLICY_KEYS = ("limits", "isolation", "evaluate", "rollout", "env", "sessions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One change that is asked for."""

    text: str  # as it was written, for errors
    kind: ComponentKind
    name: str  # of a prompt or alias; empty for the whole component
    path: tuple[str, ...]  # below it: a parameter of a model, a key of the policy
    value: str

    @property
    def is_version(self) -> bool:
        """Whether the value names a version that the registry has to find."""
        if self.kind is ComponentKind.POLICY:
            return not self.path
        return not self.path and not (self.kind is ComponentKind.MODEL and "/" in self.value)


def parse(text: str) -> Setting:
    """One setting, as it is written on a command line.

    Raises:
        Invalid: it names no part of a release, or says nothing.
    """
    where, equals, value = text.partition("=")
    first, *rest = (part.strip() for part in where.split("."))
    if not equals or not value.strip() or first not in set(ComponentKind) or "" in rest:
        raise Invalid(
            f"{text!r} is no setting",
            hint="Write COMPONENT[.NAME]=VERSION: prompt.system=v3.3, tools=v1.2,"
            " model.main=openai/gpt-4o-2024-08-06, policy.limits.cost=$0.20",
        )
    kind = ComponentKind(first)
    named = kind in (ComponentKind.PROMPT, ComponentKind.MODEL) and bool(rest)
    if kind is ComponentKind.PROMPT:  # a prompt's name may have dots in it
        rest = [".".join(rest)] if rest else []
    name, path = (rest[0], rest[1:]) if named else ("", rest)
    if path and kind in (ComponentKind.TOOLS, ComponentKind.CODE):
        raise Invalid(
            f"{text!r}: {kind.value} are changed as a whole", hint=f"Write {kind.value}=VERSION."
        )
    return Setting(text=text, kind=kind, name=name, path=tuple(path), value=value.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a setting's version turned out to be."""

    digest: str
    content: Any  # the component's, as JSON; for one prompt its digest says everything


def apply(parts: Parts, setting: Setting, found: Found | None) -> Parts:
    """The parts after one setting; ``found`` is what its version stands for, if it names one.

    Raises:
        Invalid: the release has no such part, or the value cannot be read.
    """
    match setting.kind:
        case ComponentKind.PROMPT if setting.name:
            assert found is not None
            return replace(parts, prompts=_prompts(parts.prompts, setting.name, found.digest))
        case ComponentKind.MODEL if setting.name:
            chain = _chain(parts, setting, found)
            return replace(parts, models={**parts.models, setting.name: chain})
        case ComponentKind.POLICY if setting.path:
            return _with_policy(parts, setting)
        case _:
            assert found is not None
            return with_contents(parts, {setting.kind: found.content})


def of_release(parts: Parts, setting: Setting) -> Found:
    """What a setting's part is in a release.

    Raises:
        KeyError: the release has no such prompt or alias.
    """
    content = contents(parts)[setting.kind]
    if not setting.name:
        return Found(digest=digest_json(content), content=content)
    if setting.kind is ComponentKind.PROMPT:
        digests = {prompt_name(entry.path): entry.digest for entry in parts.prompts}
        return Found(digest=digests[setting.name], content=None)
    return Found(digest=digest_json(content[setting.name]), content=content[setting.name])


def prompt_name(path: str) -> str:
    """The name of the prompt in a file: ``system`` of ``prompts/system.prompt``."""
    return basename(path).removesuffix(SUFFIX)


def _prompts(entries: Sequence[FileEntry], name: str, digest: str) -> tuple[FileEntry, ...]:
    folder = dirname(entries[0].path) if entries else "prompts"
    known = {prompt_name(entry.path): entry for entry in entries}
    old = known.get(name)
    known[name] = FileEntry(path=old.path if old else f"{folder}/{name}{SUFFIX}", digest=digest)
    return tuple(sorted(known.values(), key=lambda entry: entry.path))


def _chain(parts: Parts, setting: Setting, found: Found | None) -> tuple[ModelPin, ...]:
    if found is not None:
        return msgspec.convert(found.content, tuple[ModelPin, ...])
    if not setting.path:
        given: Any = {"models": {setting.name: [link.strip() for link in setting.value.split(",")]}}
        return projects.fragment(given, source=setting.text).models[setting.name]
    if setting.name not in parts.models:
        known = ", ".join(sorted(parts.models)) or "none"
        raise Invalid(
            f"{setting.text}: the release has no alias {setting.name!r}", hint=f"It has: {known}."
        )
    key, *below = [part for part in setting.path if part != "parameters"] or [""]
    if not key or below:
        raise Invalid(f"{setting.text}: a parameter is one word", hint="model.main.temperature=0.2")
    if key in _LINK_KEYS:
        link = {"model": "any/any", key: setting.value}
        read = projects.fragment({"models": {"any": [link]}}, source=setting.text).models["any"][0]
        changed = {f"{key}_seconds": getattr(read, f"{key}_seconds")}
        return tuple(replace(pin, **changed) for pin in parts.models[setting.name])
    value = _scalar(setting)
    return tuple(
        replace(pin, parameters={**pin.parameters, key: value})
        for pin in parts.models[setting.name]
    )


def _with_policy(parts: Parts, setting: Setting) -> Parts:
    """The policy with one key as ``penstock.yaml`` would say it; the others stay."""
    head, *rest = setting.path
    if head not in _POLICY_KEYS:
        raise Invalid(
            f"{setting.text}: the policy has no {head}",
            hint=f"It has: {', '.join(_POLICY_KEYS)}.",
        )
    given: Any = _scalar(setting) if head != "env" else setting.value
    for key in reversed(rest):
        given = {key: given}
    read = projects.fragment({head: given}, source=setting.text).policy
    policy = parts.policy
    match head:
        case "limits":
            field = FIELDS.get(rest[0] if rest else "")
            if field is None:  # fragment() has refused every other key
                raise Invalid(f"{setting.text}: which limit?", hint="policy.limits.cost=$0.20")
            limits = replace(policy.limits, **{field: getattr(read.limits, field)})
            policy = replace(policy, limits=limits)
        case "isolation":
            policy = replace(policy, isolation=read.isolation)
        case "evaluate":
            policy = replace(policy, evaluators={**policy.evaluators, **read.evaluators})
        case "rollout":
            policy = replace(policy, rollout={**policy.rollout, **read.rollout})
        case "sessions":
            policy = replace(policy, session_ttl_seconds=read.session_ttl_seconds)
        case _:
            policy = replace(policy, env={**policy.env, **read.env})
    return replace(parts, policy=policy)


def _scalar(setting: Setting) -> Any:
    """The value as YAML reads it: 0.2 is a number, [a, b] a list, $0.20 a text."""
    try:
        value = yaml.safe_load(setting.value)
        json.dumps(value)
    except (yaml.YAMLError, TypeError, ValueError):
        raise Invalid(f"{setting.text}: the value cannot be read") from None
    return value


def settings_of(overlay: Mapping[str, str]) -> list[Setting]:
    """The settings of an environment's overlay, whole components before their parts."""
    parsed = [parse(f"{where}={value}") for where, value in overlay.items()]
    return sorted(parsed, key=lambda setting: (bool(setting.name or setting.path), setting.text))
