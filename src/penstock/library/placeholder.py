"""The release under which workflows are on record: their code is not pinned."""

from __future__ import annotations

from penstock.domain.components import ComponentKind, NewComponent
from penstock.domain.releases import FileEntry, Manifest, Policy
from penstock.rules.releases import digest_bytes
from penstock.store import Transaction, releases

_NAME = "library"
_LOCK = b"# what a program runs in its own process is not pinned\n"


async def release(tx: Transaction) -> str:
    """The digest of that release, which is made if it is not there."""
    file = FileEntry(path="penstock.lock", digest=digest_bytes(_LOCK))
    manifest = Manifest(
        agent=_NAME,
        entrypoint="penstock.library:Workflows",
        python="3.11",
        code=(),
        prompts=(),
        tool_files=(),
        tools=(),
        models={},
        lock=file,
        graph={},
        state_schema="0" * 64,
        policy=Policy(),
        components={},
    )
    parts = [
        NewComponent(kind=kind, name="", digest=f"{_NAME}-{kind.value}", content="{}")
        for kind in ComponentKind
    ]
    made, _ = await releases.add(
        tx,
        manifest,
        parts=parts,
        contents={file.digest: _LOCK},
        message="workflows of programs",
        created_by=_NAME,
    )
    return made.digest
