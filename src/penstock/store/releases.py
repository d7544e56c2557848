"""Releases: immutable sets of component versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from penstock.domain.components import WHOLE, Component, ComponentKind, NewComponent
from penstock.domain.errors import Invalid, NotFound
from penstock.domain.releases import Manifest, Release
from penstock.rules.releases import composite, files, plain, release_digest
from penstock.store import agents, blobs, components
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_manifest = msgspec.json.Decoder(Manifest).decode

_LEAST_PREFIX = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A component version as a release refers to it."""

    kind: ComponentKind
    name: str
    digest: str


async def add(
    tx: Transaction,
    pinned: Manifest,
    *,
    parts: Sequence[NewComponent],
    contents: Mapping[str, bytes],
    message: str,
    created_by: str,
) -> tuple[Release, bool]:
    """Publish a release, or find the one of the same digest; whether it is new.

    Raises:
        Conflict: another release of this agent is being published at the same moment.
    """
    digest = release_digest(pinned)
    row = await tx.fetch_one("releases.get", digest=digest)
    if row is not None:
        return _record(row), False
    await agents.ensure(tx, pinned.agent)
    await blobs.put(tx, contents)
    published = await _publish(tx, pinned.agent, parts, message=message, created_by=created_by)
    number = await tx.fetch_one("releases.next_number", agent=pinned.agent)
    assert number is not None
    row = await tx.fetch_one(
        "releases.add",
        digest=digest,
        agent=pinned.agent,
        number=number["number"],
        composite=composite(components.whole(published)),
        manifest=_encode(plain(pinned)).decode(),
        message=message,
        created_by=created_by,
    )
    assert row is not None
    for blob in sorted({*contents, *files(pinned)}):
        await tx.execute("releases.add_blob", release_digest=digest, blob_digest=blob)
    for component in published:
        await tx.execute(
            "releases.add_component",
            release_digest=digest,
            kind=component.kind.value,
            name=component.name,
            digest=component.digest,
        )
    return _record(row), True


async def get(tx: Transaction, digest: str) -> Release:
    """A release by its digest.

    Raises:
        NotFound: there is none.
    """
    row = await tx.fetch_one("releases.get", digest=digest)
    if row is None:
        raise NotFound(f"there is no release {digest}")
    return _record(row)


async def find(tx: Transaction, agent: str, ref: str) -> Release:
    """The release a person means: ``latest``, ``7`` or ``v7``, a digest's beginning, a name.

    Raises:
        NotFound: there is none.
        Invalid: the beginning of a digest fits several.
    """
    row = await _look_up(tx, agent, ref.strip())
    if row is None:
        raise NotFound(
            f"agent {agent} has no release {ref!r}",
            hint=f"List them: penstock releases {agent}. A release is named by its number"
            " (v7), the beginning of its digest, latest, or its composite name.",
        )
    return _record(row)


async def listing(tx: Transaction, agent: str, *, limit: int = 50) -> list[Release]:
    """An agent's releases from the newest to the oldest."""
    return [
        _record(row) for row in await tx.fetch_all("releases.listing", agent=agent, limit=limit)
    ]


async def raw(tx: Transaction, digest: str) -> bytes:
    """A release's manifest as it was stored, whose digest is to be checked before it is used.

    Raises:
        NotFound: there is no such release.
    """
    row = await tx.fetch_one("releases.raw", digest=digest)
    if row is None:
        raise NotFound(f"there is no release {digest}")
    text: str = row["manifest"]
    return text.encode()


async def made_of(tx: Transaction, digest: str) -> list[Member]:
    """The component versions that a release is made of."""
    return [
        Member(kind=ComponentKind(row["kind"]), name=row["name"], digest=row["digest"])
        for row in await tx.fetch_all("releases.made_of", digest=digest)
    ]


async def blob_digests(tx: Transaction, digest: str) -> list[str]:
    """The contents that a release needs."""
    rows = await tx.fetch_all("releases.blob_digests", digest=digest)
    return [row["blob_digest"] for row in rows]


async def _publish(
    tx: Transaction,
    agent: str,
    parts: Sequence[NewComponent],
    *,
    message: str,
    created_by: str,
) -> list[Component]:
    """Publish the parts in order; all prompts together are called as the only one is."""
    published: list[Component] = []
    for part in parts:
        prompts = [p for p in published if p.kind is ComponentKind.PROMPT and p.name != WHOLE]
        alone = part.kind is ComponentKind.PROMPT and part.name == WHOLE and len(prompts) == 1
        known, _ = await components.publish(
            tx,
            agent,
            replace(part, hint=prompts[0].label) if alone else part,
            message=message,
            created_by=created_by,
        )
        published.append(known)
    return published


async def _look_up(tx: Transaction, agent: str, ref: str) -> Row | None:
    if ref == "latest":
        return await tx.fetch_one("releases.latest", agent=agent)
    number = ref.removeprefix("v")
    if number.isdigit() and len(number) < _LEAST_PREFIX:
        return await tx.fetch_one("releases.by_number", agent=agent, number=int(number))
    digest = ref.removeprefix("sha256:").lower()
    if len(digest) >= _LEAST_PREFIX and all(letter in "0123456789abcdef" for letter in digest):
        rows = await tx.fetch_all("releases.by_prefix", agent=agent, prefix=f"{digest}%")
        if len(rows) > 1:
            raise Invalid(f"several releases of {agent} begin with {digest}", hint="Write more.")
        return rows[0] if rows else None
    return await tx.fetch_one("releases.by_composite", agent=agent, composite=ref)


def _record(row: Mapping[str, Any]) -> Release:
    return Release(
        digest=row["digest"],
        agent=row["agent"],
        number=row["number"],
        composite=row["composite"],
        manifest=_manifest(row["manifest"]),
        message=row["message"],
        created_by=row["created_by"],
        created_us=row["created_us"],
    )
