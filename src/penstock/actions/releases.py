"""Releases: cut from a project, derived from another release, looked up, compared."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.actions.publications import published
from penstock.actions.signing import SigningActions, Vouched
from penstock.domain.access import Actor
from penstock.domain.components import ComponentKind, NewComponent
from penstock.domain.errors import Invalid, NotFound
from penstock.domain.releases import Manifest, Release
from penstock.drivers.builders import Builder
from penstock.kit.clock import BootClock
from penstock.rules import compositions, prompts, versions
from penstock.rules.access import check
from penstock.rules.compositions import Found, Setting
from penstock.rules.releases import (
    Difference,
    Parts,
    diff,
    files,
    manifest,
    parts_of,
    release_digest,
)
from penstock.store import (
    Store,
    Transaction,
    agents,
    audit,
    blobs,
    components,
    deployments,
    releases,
)

_MOST = 200
_SHOWN_BYTES = 200_000
_FILES = {ComponentKind.PROMPT, ComponentKind.TOOLS, ComponentKind.CODE}
_IMPORTED = {ComponentKind.TOOLS, ComponentKind.CODE}  # what a change of must be tried


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A release that was asked for."""

    release: Release
    created: bool  # False: this very release was there already


@dataclass(frozen=True, kw_only=True, slots=True)
class CutResult:
    """What became of a project that was sent."""

    cuts: tuple[Cut, ...]  # one; with a langgraph.json one for each graph
    lock: str | None  # a newly compiled penstock.lock, to be committed
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A difference, with the text that changed when there is one."""

    difference: Difference
    text: str | None  # unified diff


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A release that is ready to be published."""

    pinned: Manifest
    parts: Sequence[NewComponent]
    contents: Mapping[str, bytes]  # by digest; those that are not stored yet
    source: Mapping[str, Any]  # what it was made from, for its provenance


class ReleaseActions:
    """What may be done with releases."""

    def __init__(self, store: Store, builder: Builder, signing: SigningActions) -> None:
        self._store = store
        self._builder = builder
        self._signing = signing
        self._clock = BootClock()

    async def cut(
        self,
        actor: Actor,
        archive: bytes,
        *,
        message: str = "",
        ci: bool = False,
        strict: bool = False,
    ) -> CutResult:
        """Build a project's archive and publish what comes of it.

        Raises:
            Invalid, ProjectInvalid, BuildFailed: nothing was published; says what to change.
            Conflict: an author's version of a prompt has other content already.
        """
        check(actor, "release.cut")
        started_us = self._clock.now_us()
        built = await self._builder.build(archive, ci=ci, strict=strict)
        drafts = [
            Draft(
                pinned=one.manifest,
                parts=one.components,
                contents=one.blobs,
                source={"project": one.manifest.agent, "message": message},
            )
            for one in built
        ]
        cuts = await self.publish(actor, drafts, message=message, started_us=started_us)
        return CutResult(
            cuts=tuple(cuts),
            lock=built[0].lock,
            warnings=tuple(dict.fromkeys(said for one in built for said in one.warnings)),
        )

    async def derive(
        self,
        actor: Actor,
        agent: str,
        *,
        base: str,
        settings: Sequence[str],
        message: str = "",
    ) -> CutResult:
        """A release made of another, with some parts replaced by versions of the registry.

        Raises:
            NotFound: there is no such release or version.
            Invalid: a setting cannot be read or applied.
            BuildFailed: tools and code do not fit together.
        """
        check(actor, "release.cut")
        if not settings:
            raise Invalid("nothing is set", hint="Say what changes: --set prompt.system=v3.3")
        draft, warnings = await self.compose(agent, base, [compositions.parse(s) for s in settings])
        cuts = await self.publish(actor, [draft], message=message)
        return CutResult(cuts=tuple(cuts), lock=None, warnings=warnings)

    async def compose(
        self, agent: str, base: str, settings: Sequence[Setting]
    ) -> tuple[Draft, tuple[str, ...]]:
        """A draft of a derived release, tried out if its code or tools are new together."""

        async def work(tx: Transaction) -> tuple[Release, Draft]:
            old = await find(tx, agent, base)
            parts = parts_of(old.manifest)
            for setting in settings:
                found = await _version(tx, agent, setting) if setting.is_version else None
                parts = compositions.apply(parts, setting, found)
            return old, await _draft(tx, old, parts, settings)

        old, draft = await self._store.read(work)
        before, after = old.manifest.components, draft.pinned.components
        changed = {kind for kind in after if before[kind] != after[kind]}
        warnings: tuple[str, ...] = ()
        if changed & _IMPORTED:
            warnings = await self._builder.examine(draft.pinned, self._fetch)
        return draft, warnings

    async def publish(
        self,
        actor: Actor,
        drafts: Sequence[Draft],
        *,
        message: str,
        started_us: int | None = None,
    ) -> list[Cut]:
        """Publish drafts, all or none, each vouched for in the same transaction.

        Raises:
            Conflict: others keep publishing at the same moment.
        """
        vouched = [
            await self._signing.vouch(
                release_digest(draft.pinned),
                draft.pinned,
                lock=(await self._content(draft, draft.pinned.lock.digest)).decode(),
                by=actor.name,
                source=draft.source,
                started_us=started_us,
            )
            for draft in drafts
        ]

        async def work(tx: Transaction) -> list[Cut]:
            return [
                await _add(tx, actor, draft, message=message, vouched=beside)
                for draft, beside in zip(drafts, vouched, strict=True)
            ]

        return await published(self._store, work)

    async def get(self, actor: Actor, agent: str, ref: str) -> Release:
        """The release a person means; ``live`` is what is stable in production.

        Raises:
            NotFound: there is none.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> Release:
            return await find(tx, agent, ref)

        return await self._store.read(work)

    async def listing(self, actor: Actor, agent: str, *, limit: int = 50) -> list[Release]:
        """An agent's releases from the newest to the oldest.

        Raises:
            NotFound: there is no such agent.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> list[Release]:
            await agents.get(tx, agent)
            return await releases.listing(tx, agent, limit=min(limit, _MOST))

        return await self._store.read(work)

    async def diff(self, actor: Actor, agent: str, before: str, after: str) -> list[Change]:
        """What changed from one release to another.

        Raises:
            NotFound: one of them does not exist.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> list[Change]:
            old, new = await find(tx, agent, before), await find(tx, agent, after)
            return [
                Change(difference=item, text=await _text(tx, item))
                for item in diff(old.manifest, new.manifest)
            ]

        return await self._store.read(work)

    async def _fetch(self, digest: str) -> bytes:
        async def work(tx: Transaction) -> bytes:
            return await blobs.get(tx, digest)

        return await self._store.read(work)

    async def _content(self, draft: Draft, digest: str) -> bytes:
        known = draft.contents.get(digest)
        return await self._fetch(digest) if known is None else known


async def find(tx: Transaction, agent: str, ref: str) -> Release:
    """The release a person means; ``live`` is what is stable in production.

    Raises:
        NotFound: there is none.
    """
    environment = {"live": "production"}.get(ref) or ref.removeprefix("live@")
    if ref != "live" and not ref.startswith("live@"):
        return await releases.find(tx, agent, ref)
    deployment = await deployments.get(tx, agent, environment)
    if deployment is None:
        raise NotFound(
            f"agent {agent!r} is not deployed in {environment}", hint=f"penstock deploy {agent}"
        )
    return await releases.get(tx, deployment.stable)


async def _add(
    tx: Transaction, actor: Actor, draft: Draft, *, message: str, vouched: Vouched
) -> Cut:
    release, created = await releases.add(
        tx,
        draft.pinned,
        parts=draft.parts,
        contents=draft.contents,
        message=message,
        created_by=actor.name,
    )
    if created:
        await vouched.keep(tx, release.digest)
        await audit.add(
            tx,
            actor,
            "release.cut",
            object_kind="release",
            object_id=release.digest,
            detail={
                "agent": release.agent,
                "number": release.number,
                "composite": release.composite,
                "message": message,
                "source": draft.source,
            },
        )
    return Cut(release=release, created=created)


async def _version(tx: Transaction, agent: str, setting: Setting) -> Found:
    """What a setting's version stands for."""
    if setting.value.startswith("@"):
        return _of_release(await find(tx, agent, setting.value[1:]), setting)
    component = await components.find(tx, agent, setting.kind, setting.name, setting.value)
    return Found(
        digest=component.digest, content=json.loads(await components.content(tx, component))
    )


def _of_release(release: Release, setting: Setting) -> Found:
    try:
        return compositions.of_release(parts_of(release.manifest), setting)
    except KeyError:
        raise NotFound(
            f"v{release.number} of {release.agent} has no {setting.kind.value} {setting.name!r}"
        ) from None


async def _draft(tx: Transaction, old: Release, parts: Parts, settings: Sequence[Setting]) -> Draft:
    pinned = manifest(parts)
    missing = await blobs.missing(tx, sorted(files(pinned)))
    if missing:
        raise NotFound(f"the content {missing[0]} is not stored any more")
    read = {
        entry.path: prompts.parse(
            (await blobs.get(tx, entry.digest)).decode(errors="replace"), file=entry.path
        )
        for entry in pinned.prompts
    }
    return Draft(
        pinned=pinned,
        parts=versions.of_parts(parts, read),
        contents={},
        source={"release": old.digest, "set": [setting.text for setting in settings]},
    )


async def _text(tx: Transaction, item: Difference) -> str | None:
    """A unified diff of a text file; nothing for what is no text."""
    sides = (item.before, item.after)
    if item.component not in _FILES or not all(side is None or _is_digest(side) for side in sides):
        return None
    texts = []
    for side in sides:
        content = b"" if side is None else await blobs.get(tx, side)
        try:
            texts.append(content[:_SHOWN_BYTES].decode())
        except UnicodeDecodeError:
            return None
    return unified(texts[0], texts[1], item.name)


def unified(before: str, after: str, name: str) -> str:
    """A unified diff of two texts."""
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and value.isalnum()  # noqa: PLR2004 - sha256
