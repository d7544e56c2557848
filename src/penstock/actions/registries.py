"""Registries: artifacts that are pushed to others, and pulled from them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.actions.artifacts import MOST_BYTES, ArtifactActions, Imported
from penstock.domain.access import Actor
from penstock.domain.errors import Damaged
from penstock.drivers.registries import Manifest, Registry, parse_reference
from penstock.kit.layouts import Layout, LayoutError, from_folder
from penstock.rules import artifacts
from penstock.rules.access import check


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """Where an artifact is now."""

    reference: str
    digest: str  # of the artifact's manifest
    key_id: str  # that vouches for it


class RegistryActions:
    """Moves artifacts between this installation and registries."""

    def __init__(self, artifacts: ArtifactActions, registry: Registry) -> None:
        self._artifacts = artifacts
        self._registry = registry

    async def push(
        self,
        actor: Actor,
        agent: str,
        ref: str,
        *,
        reference: str,
        insecure: bool = False,
        with_wheels: bool = True,
    ) -> Pushed:
        """Push a release's artifact, with who vouches for it and its bill of materials.

        Args:
            actor: who.
            agent: whose release.
            ref: which.
            reference: where to: ``registry.example/team/support:v3``.
            insecure: plain HTTP, also to other machines.
            with_wheels: also what installs its dependencies on a machine like this one.

        Raises:
            Invalid: it is no reference, or the registry refuses what is sent.
            Unavailable: the registry does not answer, or does not let us in.
        """
        check(actor, "release.push")
        where = parse_reference(reference, insecure=insecure)
        export = await self._artifacts.export(actor, agent, ref, with_wheels=with_wheels)
        with tempfile.TemporaryDirectory(prefix="penstock-push-") as name:
            file = Path(name) / "artifact.tar"
            with file.open("wb") as out:
                async for chunk in export.chunks:
                    await asyncio.to_thread(out.write, chunk)
            layout = await asyncio.to_thread(Layout, file, most_bytes=MOST_BYTES)
            digests = artifacts.index_digests(layout.plain["index.json"])
            documents = [artifacts.read_manifest(layout.read(digest)) for digest in digests]
            manifests = [
                Manifest(
                    content=document.content,
                    media_type=artifacts.MANIFEST,
                    tag=where.tag if document.subject is None else None,
                    subject=document.subject,
                    artifact_type=document.artifact_type,
                    annotations=document.annotations,
                )
                for document in documents
            ]

            async def read(digest: str) -> bytes:
                return await asyncio.to_thread(layout.read, digest)

            digest = await self._registry.push(where, manifests=manifests, read=read)
        return Pushed(reference=reference, digest=digest, key_id=export.key_id)

    async def pull(
        self, actor: Actor, *, reference: str, insecure: bool = False, trust: Sequence[str] = ()
    ) -> Imported:
        """Pull an artifact and publish its release, once all of it is proven.

        Raises:
            Damaged: a byte is not as it was signed; names the blob.
            NotFound: there is nothing at the reference.
            Unavailable: the registry does not answer, or does not let us in.
        """
        check(actor, "release.import")
        where = parse_reference(reference, insecure=insecure)
        with tempfile.TemporaryDirectory(prefix="penstock-pull-") as name:
            folder = Path(name) / "layout"
            blobs = folder / "blobs" / "sha256"
            blobs.mkdir(parents=True)

            async def keep(digest: str, content: bytes) -> None:
                await asyncio.to_thread((blobs / digest).write_bytes, content)

            pulled = await self._registry.pull(where, keep=keep, most_bytes=MOST_BYTES)
            contents = [pulled.content, *(referrer.content for referrer in pulled.referrers)]
            documents = [artifacts.read_manifest(content) for content in contents]
            for document in documents:
                await keep(document.digest, document.content)
            tag = documents[0].annotations.get(artifacts.VERSION, "")
            (folder / "oci-layout").write_bytes(artifacts.LAYOUT)
            (folder / "index.json").write_bytes(artifacts.index(tag, documents))
            file = Path(name) / "artifact.tar"
            try:
                await asyncio.to_thread(_write, folder, file)
            except LayoutError as error:
                raise Damaged(str(error)) from None
            return await self._artifacts.import_file(actor, file, trust=trust)


def _write(folder: Path, file: Path) -> None:
    with file.open("wb") as out:
        for chunk in from_folder(folder):
            out.write(chunk)
