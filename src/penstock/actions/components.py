"""The registry of component versions: published, listed, compared, deleted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from penstock.actions.labels import note, point
from penstock.actions.publications import published
from penstock.actions.releases import unified
from penstock.domain.access import Actor
from penstock.domain.components import Component, ComponentKind
from penstock.domain.errors import Conflict
from penstock.rules import labels as label_rules
from penstock.rules import prompts, versions
from penstock.rules.access import check
from penstock.rules.compositions import SUFFIX
from penstock.rules.differences import Changed, changes
from penstock.rules.releases import digest_bytes
from penstock.store import Store, Transaction, agents, blobs, components, labels

_MOST = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What became of a version that was sent."""

    component: Component
    created: bool  # False: this very content was there already
    moved: tuple[str, ...]  # labels that point at it now


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One version, whole."""

    component: Component
    content: Any  # JSON; of a prompt its front matter
    text: str | None  # of a prompt's file
    users: tuple[int, ...]  # numbers of the releases that are made of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What differs between two versions."""

    before: Component
    after: Component
    text: str | None  # unified diff of two prompts
    changes: tuple[Changed, ...]  # of everything else, value by value


class ComponentActions:
    """What may be done with component versions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def push_prompt(
        self,
        actor: Actor,
        agent: str,
        name: str,
        text: str,
        *,
        message: str = "",
        tags: tuple[str, ...] = (),
        move: tuple[str, ...] = (),
        expect: str | None = None,
    ) -> Published:
        """Publish a prompt without touching code; the same text is the same version again.

        Args:
            actor: who.
            agent: whose prompt.
            name: of the prompt.
            text: the whole file.
            message: what changed.
            tags: beside those in the front matter.
            move: labels to point at it, in the same transaction.
            expect: the version that the author began from; another latest is a conflict.

        Raises:
            ProjectInvalid: the text is wrong; names the line.
            Conflict: somebody else has published since ``expect``, or the author's version label
                belongs to other content.
        """
        check(actor, "component.write")
        label_rules.check_name(name)
        for label in move:
            label_rules.check_label(label)
        prompt = prompts.parse(text, file=f"{name}{SUFFIX}")
        content = text.encode()
        part = versions.of_prompt(name, digest_bytes(content), prompt)
        part = versions.with_tags(part, tags)

        async def work(tx: Transaction) -> Published:
            await agents.ensure(tx, agent)
            await _expect(tx, agent, ComponentKind.PROMPT, name, expect)
            await blobs.put(tx, {part.digest: content})
            component, created = await components.publish(
                tx, agent, part, message=message, created_by=actor.name
            )
            if created:
                await note(tx, actor, "component.publish", component, {"message": message})
            for label in move:
                await point(tx, actor, component, label, message=message)
            return Published(component=component, created=created, moved=move)

        return await published(self._store, work)

    async def listing(
        self,
        actor: Actor,
        agent: str,
        *,
        kind: str | None = None,
        name: str | None = None,
        before: int | None = None,
        limit: int = 200,
    ) -> list[Component]:
        """Component versions from the newest to the oldest.

        Raises:
            NotFound: there is no such agent.
            Invalid: there is no such kind.
        """
        check(actor, "release.read")
        wanted = None if kind is None else versions.kind_of(kind)

        async def work(tx: Transaction) -> list[Component]:
            await agents.get(tx, agent)
            return await components.listing(
                tx, agent, kind=wanted, name=name, before=before, limit=min(limit, _MOST)
            )

        return await self._store.read(work)

    async def newest(self, actor: Actor, agent: str, kind: str) -> list[Component]:
        """The newest version of each prompt, or of each alias.

        Raises:
            NotFound: there is no such agent.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> list[Component]:
            await agents.get(tx, agent)
            return await components.newest(tx, agent, versions.kind_of(kind))

        return await self._store.read(work)

    async def show(
        self, actor: Actor, agent: str, kind: str, name: str, ref: str = "latest"
    ) -> Shown:
        """One version, whole.

        Raises:
            NotFound: there is none.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> Shown:
            component = await components.find(tx, agent, versions.kind_of(kind), name, ref)
            content = json.loads(await components.content(tx, component))
            return Shown(
                component=component,
                content=content.get("front") if _is_prompt(component) else content,
                text=await _text(tx, component),
                users=tuple(await components.users(tx, component)),
            )

        return await self._store.read(work)

    async def diff(
        self, actor: Actor, agent: str, kind: str, name: str, before: str, after: str
    ) -> Comparison:
        """What differs between two versions of a component.

        Raises:
            NotFound: there is no such version.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> Comparison:
            old = await components.find(tx, agent, versions.kind_of(kind), name, before)
            new = await components.find(tx, agent, versions.kind_of(kind), name, after)
            texts = [await _text(tx, item) for item in (old, new)]
            contents = [json.loads(await components.content(tx, item)) for item in (old, new)]
            text = None
            if texts[0] is not None and texts[1] is not None:
                text = unified(texts[0], texts[1], f"{name}{SUFFIX}")
            return Comparison(
                before=old,
                after=new,
                text=text,
                changes=() if text is not None else tuple(changes(*contents)),
            )

        return await self._store.read(work)

    async def delete(self, actor: Actor, agent: str, kind: str, name: str, ref: str) -> Component:
        """Take a version out of the registry.

        Raises:
            Conflict: a release is made of it, or a label points at it; says which.
        """
        check(actor, "component.write")

        async def work(tx: Transaction) -> Component:
            component = await components.find(tx, agent, versions.kind_of(kind), name, ref)
            used = await components.users(tx, component)
            if used:
                shown = ", ".join(f"v{number}" for number in used[:10])
                raise Conflict(
                    f"{component.title} of {agent} is part of {shown}",
                    hint="A release keeps what it is made of; delete nothing it needs.",
                )
            pointing = [
                label.label
                for label in await labels.listing(tx, agent, component.kind, name)
                if label.digest == component.digest
            ]
            if pointing:
                raise Conflict(
                    f"{component.title} of {agent} has the label {', '.join(pointing)}",
                    hint="Move the label to another version first.",
                )
            await components.delete(tx, component, deleted_by=actor.name)
            await note(tx, actor, "component.delete", component, {})
            return component

        return await self._store.transact(work)


async def _expect(
    tx: Transaction, agent: str, kind: ComponentKind, name: str, expect: str | None
) -> None:
    if expect is None:
        return
    latest = await components.latest(tx, agent, kind, name)
    if expect == "none" and latest is None:
        return
    begun = None if expect == "none" else await components.find(tx, agent, kind, name, expect)
    if latest is None or begun is None or latest.digest != begun.digest:
        now = "nothing" if latest is None else f"{latest.label} by {latest.created_by}"
        raise Conflict(
            f"{kind.value} {name} has moved on: the latest is {now}, not {expect}",
            hint=f"Look at what changed (penstock prompt diff {agent} {name} {expect} latest), put"
            " your change on top of it, and push with --expect of what you saw.",
        )


async def _text(tx: Transaction, component: Component) -> str | None:
    if not _is_prompt(component):
        return None
    return (await blobs.get(tx, component.digest)).decode()


def _is_prompt(component: Component) -> bool:
    return component.kind is ComponentKind.PROMPT and bool(component.name)
