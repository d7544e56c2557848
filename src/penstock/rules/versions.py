"""A release's parts as component versions: what the registry is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock.domain.components import WHOLE, ComponentKind, NewComponent
from penstock.domain.errors import Invalid
from penstock.rules.compositions import prompt_name
from penstock.rules.prompts import Prompt
from penstock.rules.releases import Parts, canonical, contents, digest_json


def kind_of(name: str) -> ComponentKind:
    """A kind of component by its name.

    Raises:
        Invalid: there is no such kind.
    """
    if name not in set(ComponentKind):
        raise Invalid(
            f"{name!r} is no kind of component", hint=f"One of: {', '.join(ComponentKind)}."
        )
    return ComponentKind(name)


def of_parts(parts: Parts, prompts: Mapping[str, Prompt]) -> tuple[NewComponent, ...]:
    """Every component version of a release, each prompt and alias before the whole.

    Args:
        parts: of the release.
        prompts: path → prompt.
    """
    found = contents(parts)
    by_path = {entry.path: entry.digest for entry in parts.prompts}
    named = [
        of_prompt(prompt_name(path), by_path[path], prompt)
        for path, prompt in sorted(prompts.items())
    ]
    named += [
        NewComponent(
            kind=ComponentKind.MODEL,
            name=alias,
            digest=digest_json(content),
            content=canonical(content).decode(),
            hint=content[0]["model"] if content else "none",
        )
        for alias, content in found[ComponentKind.MODEL].items()
    ]
    first = next((chain[0].model for chain in parts.models.values() if chain), "none")
    wholes = [
        NewComponent(
            kind=kind,
            name=WHOLE,
            digest=digest_json(content),
            content=canonical(content).decode(),
            hint=first if kind is ComponentKind.MODEL else None,
        )
        for kind, content in found.items()
    ]
    return (*named, *wholes)


def of_prompt(name: str, digest: str, prompt: Prompt) -> NewComponent:
    """A prompt as a component version; its digest is that of its file."""
    return NewComponent(
        kind=ComponentKind.PROMPT,
        name=name,
        digest=digest,
        content=canonical({"blob": digest, "front": prompt.front}).decode(),
        label=prompt.version,
        tags=prompt.tags,
    )


def with_tags(part: NewComponent, tags: Sequence[str]) -> NewComponent:
    """A version with more tags than its front matter has."""
    return replace(part, tags=tuple(dict.fromkeys((*part.tags, *tags))))


def with_hint(part: NewComponent, label: str | None) -> NewComponent:
    """A version that is called like this if the name is free, and never fails if it is not."""
    return part if label is None else replace(part, label=None, hint=label)
