"""Labels that move from version to version, with everywhere they have been."""

from __future__ import annotations

from penstock.domain.components import Component, ComponentKind, Label, LabelMove
from penstock.domain.errors import Conflict
from penstock.store.transaction import Row, Transaction


async def get(
    tx: Transaction, agent: str, kind: ComponentKind, name: str, label: str
) -> Label | None:
    """Where a label points, if it is set."""
    row = await tx.fetch_one("labels.get", agent=agent, kind=kind.value, name=name, label=label)
    return None if row is None else _record(row)


async def listing(tx: Transaction, agent: str, kind: ComponentKind, name: str) -> list[Label]:
    """The labels of a component."""
    rows = await tx.fetch_all("labels.listing", agent=agent, kind=kind.value, name=name)
    return [_record(row) for row in rows]


async def move(
    tx: Transaction,
    target: Component,
    label: str,
    *,
    seen: Label | None,
    message: str,
    moved_by: str,
) -> Label:
    """Point a label at a version; ``seen`` is where it was when the caller looked.

    Raises:
        Conflict: somebody has moved it meanwhile.
    """
    address = {
        "agent": target.agent,
        "kind": target.kind.value,
        "name": target.name,
        "label": label,
    }
    if seen is None:
        last = await tx.fetch_one("labels.last_revision", **address)
        assert last is not None
        row = await tx.fetch_one(
            "labels.add",
            **address,
            digest=target.digest,
            revision=last["revision"] + 1,
            moved_by=moved_by,
        )
    else:
        row = await tx.fetch_one(
            "labels.move",
            **address,
            digest=target.digest,
            revision=seen.revision,
            moved_by=moved_by,
        )
    if row is None:
        raise _moved(label)
    moved = _record(row)
    await tx.execute(
        "labels.note",
        **address,
        revision=moved.revision,
        before=None if seen is None else seen.digest,
        after=moved.digest,
        message=message,
        moved_by=moved_by,
    )
    return moved


async def remove(tx: Transaction, seen: Label, *, message: str, moved_by: str) -> None:
    """Take a label away.

    Raises:
        Conflict: somebody has moved it meanwhile.
    """
    address = {
        "agent": seen.agent,
        "kind": seen.kind.value,
        "name": seen.name,
        "label": seen.label,
    }
    if not await tx.execute("labels.remove", **address, revision=seen.revision):
        raise _moved(seen.label)
    await tx.execute(
        "labels.note",
        **address,
        revision=seen.revision + 1,
        before=seen.digest,
        after=None,
        message=message,
        moved_by=moved_by,
    )


async def moves(
    tx: Transaction,
    agent: str,
    kind: ComponentKind,
    name: str,
    *,
    label: str | None = None,
    limit: int = 100,
) -> list[LabelMove]:
    """Everywhere a component's labels have been, from the newest move to the oldest."""
    rows = await tx.fetch_all(
        "labels.moves", agent=agent, kind=kind.value, name=name, label=label, limit=limit
    )
    return [
        LabelMove(
            label=row["label"],
            revision=row["revision"],
            before=row["before"],
            after=row["after"],
            message=row["message"],
            moved_by=row["moved_by"],
            moved_us=row["moved_us"],
        )
        for row in rows
    ]


async def is_protected(tx: Transaction, agent: str, label: str) -> bool:
    """Whether it takes an administrator to move a label."""
    return await tx.fetch_one("labels.is_protected", agent=agent, label=label) is not None


async def protect(tx: Transaction, agent: str, label: str, *, protected: bool) -> None:
    """Let only administrators move a label, or every operator again."""
    await tx.execute(
        "labels.protect" if protected else "labels.unprotect", agent=agent, label=label
    )


async def protected(tx: Transaction, agent: str) -> list[str]:
    """The labels that take an administrator to move."""
    return [row["label"] for row in await tx.fetch_all("labels.protected", agent=agent)]


def _moved(label: str) -> Conflict:
    return Conflict(
        f"the label {label} has just been moved by somebody else",
        hint="Look where it points now, and move it again if you still want to.",
    )


def _record(row: Row) -> Label:
    return Label(
        agent=row["agent"],
        kind=ComponentKind(row["kind"]),
        name=row["name"],
        label=row["label"],
        digest=row["digest"],
        revision=row["revision"],
        moved_by=row["moved_by"],
        moved_us=row["moved_us"],
    )
