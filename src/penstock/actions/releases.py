"""Releases: cut, look up, compare."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.domain.releases import Component, ComponentKind, Release
from penstock.drivers.builders import Builder, Built
from penstock.rules.access import check
from penstock.rules.releases import Difference, diff
from penstock.store import Store, Transaction, agents, audit, blobs, deployments, releases
from penstock.store.releases import NewComponent

_MOST = 200
_TRIES = 5
_SHOWN_BYTES = 200_000
_FILES = {ComponentKind.PROMPT, ComponentKind.TOOLS, ComponentKind.CODE}


@dataclass(frozen=True, kw_only=True, slots=True)
class CutResult:
    """What became of a project that was sent."""

    release: Release
    created: bool  # False: this very release was there already
    lock: str | None  # a newly compiled penstock.lock, to be committed
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A difference, with the text that changed when there is one."""

    difference: Difference
    text: str | None  # unified diff


class ReleaseActions:
    """What may be done with releases."""

    def __init__(self, store: Store, builder: Builder) -> None:
        self._store = store
        self._builder = builder

    async def cut(
        self, actor: Actor, archive: bytes, *, message: str = "", ci: bool = False
    ) -> CutResult:
        """Build a project's archive and publish what comes of it.

        Raises:
            Invalid, ProjectInvalid, BuildFailed: nothing was published; says what to change.
        """
        check(actor, "release.cut")
        built = await self._builder.build(archive, ci=ci)
        for left in range(_TRIES, 0, -1):
            try:
                release, created = await self._publish(actor, built, message)
                break
            except Conflict:
                # Somebody published at the same moment and took the number.
                if left == 1:
                    raise
        return CutResult(release=release, created=created, lock=built.lock, warnings=built.warnings)

    async def get(self, actor: Actor, agent: str, ref: str) -> Release:
        """The release a person means; ``live`` is what is stable in production.

        Raises:
            NotFound: there is none.
        """
        check(actor, "release.read")

        async def work(tx: Transaction) -> Release:
            return await _find(tx, agent, ref)

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
            old, new = await _find(tx, agent, before), await _find(tx, agent, after)
            return [
                Change(difference=item, text=await _text(tx, item))
                for item in diff(old.manifest, new.manifest)
            ]

        return await self._store.read(work)

    async def components(
        self, actor: Actor, agent: str, *, kind: str | None = None
    ) -> list[Component]:
        """An agent's component versions.

        Raises:
            NotFound: there is no such agent.
            Invalid: there is no such kind.
        """
        check(actor, "release.read")
        if kind is not None and kind not in set(ComponentKind):
            raise Invalid(
                f"{kind!r} is no kind of component", hint=f"One of: {', '.join(ComponentKind)}."
            )

        async def work(tx: Transaction) -> list[Component]:
            await agents.get(tx, agent)
            return await releases.components(tx, agent, kind)

        return await self._store.read(work)

    async def _publish(self, actor: Actor, built: Built, message: str) -> tuple[Release, bool]:
        parts = [
            NewComponent(
                kind=part.kind,
                digest=part.digest,
                content=part.content,
                label_hint=part.label_hint,
            )
            for part in built.components
        ]

        async def work(tx: Transaction) -> tuple[Release, bool]:
            release, created = await releases.add(
                tx,
                built.manifest,
                parts=parts,
                contents=built.blobs,
                message=message,
                created_by=actor.name,
            )
            if created:
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
                    },
                )
            return release, created

        return await self._store.transact(work)


async def _find(tx: Transaction, agent: str, ref: str) -> Release:
    if ref != "live":
        return await releases.find(tx, agent, ref)
    deployment = await deployments.get(tx, agent, "production")
    if deployment is None:
        raise NotFound(
            f"agent {agent!r} is not deployed in production", hint=f"penstock deploy {agent}"
        )
    return await releases.get(tx, deployment.stable)


async def _text(tx: Transaction, item: Difference) -> str | None:
    """A unified diff of a text file; nothing for what is no text."""
    sides = (item.before, item.after)
    if item.component not in _FILES or not all(side is None or _is_digest(side) for side in sides):
        return None
    texts = []
    for side in sides:
        content = b"" if side is None else await blobs.get(tx, side)
        try:
            texts.append(content[:_SHOWN_BYTES].decode().splitlines(keepends=True))
        except UnicodeDecodeError:
            return None
    old, new = texts
    return "".join(difflib.unified_diff(old, new, f"a/{item.name}", f"b/{item.name}"))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and value.isalnum()  # noqa: PLR2004 - sha256
