"""Attachments: files of a session, their contents kept once."""

from __future__ import annotations

from penstock.domain.attachments import Attachment
from penstock.domain.errors import NotFound
from penstock.store import blobs
from penstock.store.transaction import Row, Transaction


async def add(
    tx: Transaction,
    *,
    attachment_id: str,
    session_id: str,
    digest: str,
    content: bytes,
    content_type: str,
    filename: str,
) -> Attachment:
    """Give a session a file; ``digest`` is its content's."""
    await blobs.put(tx, {digest: content})
    row = await tx.fetch_one(
        "attachments.add",
        id=attachment_id,
        session_id=session_id,
        digest=digest,
        size=len(content),
        content_type=content_type,
        filename=filename,
    )
    assert row is not None
    return _record(row)


async def get(tx: Transaction, *, session_id: str, attachment_id: str) -> Attachment:
    """One file of a session.

    Raises:
        NotFound: the session has none of this id.
    """
    row = await tx.fetch_one("attachments.get", session_id=session_id, id=attachment_id)
    if row is None:
        raise NotFound(f"session {session_id} has no attachment {attachment_id}")
    return _record(row)


async def content(
    tx: Transaction, *, session_id: str, attachment_id: str
) -> tuple[Attachment, bytes]:
    """One file of a session, with its content.

    Raises:
        NotFound: the session has none of this id.
    """
    found = await get(tx, session_id=session_id, attachment_id=attachment_id)
    return found, await blobs.get(tx, found.digest)


async def of_session(tx: Transaction, session_id: str) -> list[Attachment]:
    """The files of a session, the oldest first."""
    return [
        _record(row) for row in await tx.fetch_all("attachments.of_session", session_id=session_id)
    ]


async def copy(tx: Transaction, *, session_id: str, to_session_id: str) -> None:
    """Give another session the files of this one, under the same ids."""
    await tx.execute("attachments.copy", session_id=session_id, to_session_id=to_session_id)


def _record(row: Row) -> Attachment:
    return Attachment(
        id=row["id"],
        session_id=row["session_id"],
        digest=row["digest"],
        size=row["size"],
        content_type=row["content_type"],
        filename=row["filename"],
        created_us=row["created_us"],
    )
