"""Releases and the components they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import Invalid, NotFound
from penstock.domain.releases import Component, ComponentKind, Manifest, Release
from penstock.rules.releases import composite, label, release_digest
from penstock.store import agents, blobs
from penstock.store.transaction import Row, Transaction

_encode = msgspec.json.Encoder().encode
_manifest = msgspec.json.Decoder(Manifest).decode

_LEAST_PREFIX = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class NewComponent:
    """A component version that may not be published yet."""

    kind: ComponentKind
    digest: str
    content: str
    label_hint: str | None


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
    published = [await _publish(tx, pinned.agent, part) for part in parts]
    number = await tx.fetch_one("releases.next_number", agent=pinned.agent)
    assert number is not None
    row = await tx.fetch_one(
        "releases.add",
        digest=digest,
        agent=pinned.agent,
        number=number["number"],
        composite=composite(published),
        manifest=_encode(pinned).decode(),
        message=message,
        created_by=created_by,
    )
    assert row is not None
    for blob in sorted(contents):
        await tx.execute("releases.add_blob", release_digest=digest, blob_digest=blob)
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


async def components(tx: Transaction, agent: str, kind: str | None = None) -> list[Component]:
    """An agent's component versions, of one kind or of all."""
    rows = await tx.fetch_all("releases.components", agent=agent, kind=kind)
    return [_component(row) for row in rows]


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


async def _publish(tx: Transaction, agent: str, part: NewComponent) -> Component:
    known = await tx.fetch_one(
        "releases.component", agent=agent, kind=part.kind.value, digest=part.digest
    )
    if known is not None:
        return _component(known)
    found = await tx.fetch_one("releases.next_component", agent=agent, kind=part.kind.value)
    assert found is not None
    row = await tx.fetch_one(
        "releases.add_component",
        agent=agent,
        kind=part.kind.value,
        digest=part.digest,
        number=found["number"],
        label=label(part.kind, digest=part.digest, number=found["number"], hint=part.label_hint),
        content=part.content,
    )
    assert row is not None
    return _component(row)


def _component(row: Row) -> Component:
    return Component(
        agent=row["agent"],
        kind=ComponentKind(row["kind"]),
        digest=row["digest"],
        number=row["number"],
        label=row["label"],
        content=row["content"],
    )


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
