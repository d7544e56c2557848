"""The registry: every version of every part, addressed by content."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import replace

from penstock.domain.components import WHOLE, Component, ComponentKind, NewComponent
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.rules.releases import label
from penstock.store.transaction import Row, Transaction

_LEAST_PREFIX = 6
_KINDS = {kind.value: kind for kind in ComponentKind}  # a list may be of ten thousand
_FLUENT = {ComponentKind.CODE, ComponentKind.POLICY}  # their labels are beginnings of digests


async def publish(
    tx: Transaction, agent: str, part: NewComponent, *, message: str, created_by: str
) -> tuple[Component, bool]:
    """Publish a version, or find the one of the same content; whether it is new.

    Raises:
        Conflict: the author's label belongs to other content, or another version is being
            published at the same moment.
    """
    address = {"agent": agent, "kind": part.kind.value, "name": part.name}
    known = await tx.fetch_one("components.get", **address, digest=part.digest)
    if known is not None:
        return _record(known), False
    number = await tx.fetch_one("components.next_number", **address)
    assert number is not None
    row = await tx.fetch_one(
        "components.add",
        **address,
        digest=part.digest,
        number=number["number"],
        label=await _label(tx, agent, part),
        content=part.content,
        message=message,
        tags=json.dumps(list(part.tags)),
        created_by=created_by,
    )
    assert row is not None
    return _record(row), True


async def find(tx: Transaction, agent: str, kind: ComponentKind, name: str, ref: str) -> Component:
    """The version a person means: its label, a moving label, a digest's beginning, ``latest``.

    Raises:
        NotFound: there is none.
        Invalid: the beginning of a digest fits several.
    """
    ref = ref.strip()
    address = {"agent": agent, "kind": kind.value, "name": name}
    row = await _look_up(tx, address, ref)
    if row is None:
        what = f"{kind.value} {name}" if name else kind.value
        raise NotFound(
            f"{what} of {agent} has no version {ref!r}",
            hint=f"List them: penstock components {agent} {kind.value}"
            + (f" --name {name}." if name else "."),
        )
    return _record(row)


async def content(tx: Transaction, component: Component) -> str:
    """A version's content: canonical JSON."""
    row = await tx.fetch_one(
        "components.get",
        agent=component.agent,
        kind=component.kind.value,
        name=component.name,
        digest=component.digest,
    )
    if row is None:
        raise NotFound(f"{component.title} of {component.agent} has been deleted")
    text: str = row["content"]
    return text


async def latest(tx: Transaction, agent: str, kind: ComponentKind, name: str) -> Component | None:
    """The newest version, if there is one."""
    row = await tx.fetch_one("components.latest", agent=agent, kind=kind.value, name=name)
    return None if row is None else _record(row)


async def by_digest(
    tx: Transaction, agent: str, kind: ComponentKind, name: str, digest: str
) -> Component | None:
    """The version of this content, if it is in the registry."""
    row = await tx.fetch_one(
        "components.get", agent=agent, kind=kind.value, name=name, digest=digest
    )
    return None if row is None else _record(row)


async def listing(
    tx: Transaction,
    agent: str,
    *,
    kind: ComponentKind | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: int,
) -> list[Component]:
    """Versions from the newest to the oldest, with the labels that point at them."""
    rows = await tx.fetch_all(
        "components.listing",
        agent=agent,
        kind=None if kind is None else kind.value,
        name=name,
        before=before,
        limit=limit,
    )
    return await _labelled(tx, agent, kind, [_record(row) for row in rows])


async def newest(tx: Transaction, agent: str, kind: ComponentKind) -> list[Component]:
    """The newest version of each prompt, or of each alias."""
    rows = await tx.fetch_all("components.newest", agent=agent, kind=kind.value)
    return await _labelled(tx, agent, kind, [_record(row) for row in rows])


async def users(tx: Transaction, component: Component) -> list[int]:
    """The numbers of the agent's releases that are made of a version."""
    rows = await tx.fetch_all(
        "components.users",
        agent=component.agent,
        kind=component.kind.value,
        name=component.name,
        digest=component.digest,
    )
    return [row["number"] for row in rows]


async def delete(tx: Transaction, component: Component, *, deleted_by: str) -> None:
    """Take a version out of the registry; its number and label are not given again."""
    address = {
        "agent": component.agent,
        "kind": component.kind.value,
        "name": component.name,
        "digest": component.digest,
    }
    if not await tx.execute("components.delete", **address):
        raise Conflict(f"{component.title} of {component.agent} has just been deleted")
    await tx.execute(
        "components.note_deletion",
        **address,
        number=component.number,
        label=component.label,
        deleted_by=deleted_by,
    )


async def _label(tx: Transaction, agent: str, part: NewComponent) -> str:
    address = {"agent": agent, "kind": part.kind.value, "name": part.name}
    if part.label is not None:
        other = await tx.fetch_one("components.taken", **address, prefix=part.label)
        if other is not None:
            what = " ".join(word for word in (part.kind.value, part.name) if word)
            raise Conflict(
                f"{part.label} of {what} has other content: a version never changes",
                hint="Raise `version` in the front matter, or leave it out to have it counted.",
            )
        return part.label
    previous = await latest(tx, agent, part.kind, part.name)
    if part.hint is None and part.kind not in _FLUENT:
        counted = _next(part, previous, ())
        if await tx.fetch_one("components.taken", **address, prefix=counted) is None:
            return counted  # as nearly always: an author's own label is seldom in the way
    prefix = part.digest[:_LEAST_PREFIX] if part.kind in _FLUENT else _beginning(part.hint)
    rows = await tx.fetch_all("components.taken", **address, prefix=f"{prefix}%")
    return _next(part, previous, {row["label"] for row in rows})


def _next(part: NewComponent, previous: Component | None, taken: Container[str]) -> str:
    return label(
        part.kind,
        digest=part.digest,
        hint=part.hint,
        latest=None if previous is None else previous.label,
        taken=taken,
    )


def _beginning(hint: str | None) -> str:
    """What the labels begin with that may be in the way; ``%`` and ``_`` match more, not less."""
    return "v" if hint is None else hint[:2]


async def _look_up(tx: Transaction, address: dict[str, str], ref: str) -> Row | None:
    if ref == "latest":
        return await tx.fetch_one("components.latest", **address)
    row = await tx.fetch_one("components.by_label", **address, label=ref)
    if row is not None:
        return row
    pointed = await tx.fetch_one("labels.get", **address, label=ref)
    if pointed is not None:
        return await tx.fetch_one("components.get", **address, digest=pointed["digest"])
    if ref.startswith("#") and ref[1:].isdigit():
        return await tx.fetch_one("components.by_number", **address, number=int(ref[1:]))
    digest = ref.removeprefix("sha256:").lower()
    if len(digest) < _LEAST_PREFIX or not set(digest) <= set("0123456789abcdef"):
        return None
    rows = await tx.fetch_all("components.by_prefix", **address, prefix=f"{digest}%")
    if len(rows) > 1:
        raise Invalid(f"several versions begin with {digest}", hint="Write more of it.")
    return rows[0] if rows else None


async def _labelled(
    tx: Transaction, agent: str, kind: ComponentKind | None, found: list[Component]
) -> list[Component]:
    pointing: dict[tuple[str, str, str], list[str]] = {}
    for one in [kind] if kind else list(ComponentKind):
        for row in await tx.fetch_all("labels.listing", agent=agent, kind=one.value, name=None):
            key = (row["kind"], row["name"], row["digest"])
            pointing.setdefault(key, []).append(row["label"])
    if not pointing:
        return found
    return [
        replace(item, labels=tuple(pointing[key])) if key in pointing else item
        for item in found
        for key in [(item.kind.value, item.name, item.digest)]
    ]


def _record(row: Row) -> Component:
    return Component(
        agent=row["agent"],
        kind=_KINDS[row["kind"]],
        name=row["name"],
        digest=row["digest"],
        number=row["number"],
        label=row["label"],
        message=row["message"],
        tags=() if row["tags"] == "[]" else tuple(json.loads(row["tags"])),
        created_by=row["created_by"],
        created_us=row["created_us"],
    )


def whole(parts: Sequence[Component]) -> dict[ComponentKind, str]:
    """The labels that a release's composite name is made of."""
    return {part.kind: part.label for part in parts if part.name == WHOLE}
