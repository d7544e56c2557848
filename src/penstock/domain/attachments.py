"""Attachments: files of a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file that was given to a session; a task's input names it by its id."""

    id: str
    session_id: str
    digest: str  # sha256 of its content
    size: int  # bytes
    content_type: str
    filename: str
    created_us: int
