"""Artifacts: releases that travel, whole and proven, to where nobody knows their project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from penstock.actions import received
from penstock.actions.releases import find
from penstock.actions.signing import SigningActions
from penstock.domain.access import Actor
from penstock.domain.attestations import Attestation, PublicKey
from penstock.domain.errors import Damaged
from penstock.domain.releases import Release
from penstock.drivers.builders import Builder, Wheel
from penstock.kit import layouts
from penstock.kit.layouts import Layout, LayoutError
from penstock.rules import artifacts, signatures
from penstock.rules.access import check
from penstock.rules.artifacts import Descriptor, Document
from penstock.rules.releases import (
    canonical,
    digest_bytes,
    files,
    verified,
)
from penstock.store import Store, Transaction, attestations, audit, blobs, components, releases

MOST_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an artifact turned out to be."""

    release: Release
    created: bool  # False: this very release was here already
    key_id: str  # that vouches for the artifact
    wheels: int  # files that came with it


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """An artifact on its way out."""

    name: str  # of a file to keep it in
    size: int  # bytes
    key_id: str  # that vouches for it
    digest: str  # of the artifact's manifest
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """A release as it is stored."""

    release: Release
    raw: bytes
    contents: Mapping[str, bytes]
    statements: Sequence[Attestation]
    keys: Mapping[str, PublicKey]
    labels: Mapping[str, str]  # kind, or kind.name → label


@dataclass(slots=True)
class _Packing:
    """The blobs of an artifact that is being put together."""

    small: dict[str, bytes] = field(default_factory=dict)
    wheels: dict[str, Wheel] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    def add(self, content: bytes, media_type: str, **annotations: str) -> Descriptor:
        """Take a content in."""
        descriptor = artifacts.describe(content, media_type, **annotations)
        self.small[descriptor.digest] = content
        return descriptor

    def document(self, content: bytes) -> Descriptor:
        """Take a manifest in."""
        self.documents.append(artifacts.read_manifest(content))
        return self.add(content, artifacts.MANIFEST)


class ArtifactActions:
    """Exports and imports releases."""

    def __init__(self, store: Store, builder: Builder, signing: SigningActions) -> None:
        self._store = store
        self._builder = builder
        self._signing = signing

    async def export(
        self, actor: Actor, agent: str, ref: str, *, with_wheels: bool = True
    ) -> Export:
        """A release as the file of an OCI image layout, everything in it checked on the way out.

        Args:
            actor: who.
            agent: whose release.
            ref: which.
            with_wheels: also what installs its dependencies on a machine like this one.

        Raises:
            NotFound: there is no such release.
            Damaged: a stored content is not what its digest says.
            BuildFailed: a wheel cannot be had.
        """
        check(actor, "release.read")
        stored = await self._load(agent, ref)
        lock = stored.contents[stored.release.manifest.lock.digest].decode()
        wheels = await self._builder.wheels(lock) if with_wheels else ()
        packing = _Packing()
        subject = packing.document(self._artifact(packing, stored, wheels))
        signer = await self._signing.signer()
        statement = await self._signing.vouch_for_artifact(
            subject.digest, stored.release.digest, by=actor.name
        )
        _refer(packing, subject, artifacts.STATEMENT, statement, signer.public_pem)
        for item in stored.statements:
            signed = item.kind == "provenance"
            kind = artifacts.PROVENANCE if signed else artifacts.SBOM
            pem = stored.keys[item.key_id].public_pem if signed else None
            _refer(packing, subject, kind, item.content, pem)
        index = artifacts.index(f"v{stored.release.number}", packing.documents)
        plain = {"oci-layout": artifacts.LAYOUT, "index.json": index}
        return Export(
            name=f"{agent}-v{stored.release.number}.tar",
            size=_size(plain, packing),
            key_id=signer.key_id,
            digest=subject.digest,
            chunks=self._chunks(plain, packing),
        )

    async def import_file(
        self, actor: Actor, path: Path, *, trust: Sequence[str] = (), message: str = ""
    ) -> Imported:
        """Publish the release in an artifact's file, once all of it is proven.

        Args:
            actor: who.
            path: of the file.
            trust: ids (or their beginnings, of 16 letters and more) of keys to believe from now on.
            message: kept with the release; its own if it is empty.

        Raises:
            Damaged: a byte is not as it was signed; names the blob. Nothing was published.
            Invalid: it is no artifact of a release.
        """
        check(actor, "release.import")
        try:
            layout = await asyncio.to_thread(Layout, path, most_bytes=MOST_BYTES)
            return await self._import(actor, layout, trust=trust, message=message)
        except LayoutError as error:
            raise Damaged(str(error), hint="Get the artifact again.") from None

    # ------------------------------------------------------------ out

    async def _load(self, agent: str, ref: str) -> _Stored:
        async def work(tx: Transaction) -> _Stored:
            release = await find(tx, agent, ref)
            raw = await releases.raw(tx, release.digest)
            found = {}
            for digest, entry in sorted(files(verified(raw, release.digest)).items()):
                found[digest] = await blobs.get(tx, digest)
                if digest_bytes(found[digest]) != digest:
                    raise Damaged(f"the content of {entry.path} (blob {digest}) is damaged")
            labels = {}
            for row in await releases.made_of(tx, release.digest):
                component = await components.by_digest(tx, agent, row.kind, row.name, row.digest)
                if component is not None:
                    labels[f"{row.kind.value}.{row.name}".rstrip(".")] = component.label
            return _Stored(
                release=release,
                raw=raw,
                contents=found,
                statements=await attestations.of_release(tx, release.digest),
                keys=await attestations.keys(tx),
                labels=labels,
            )

        return await self._store.read(work)

    def _artifact(self, packing: _Packing, stored: _Stored, wheels: Sequence[Wheel]) -> bytes:
        release = stored.release
        config = packing.add(canonical(msgspec.json.decode(stored.raw)), artifacts.CONFIG)
        layers = [
            packing.add(
                artifacts.tar(entries, stored.contents),
                artifacts.TAR,
                **{artifacts.TITLE: name},
            )
            for name, entries in artifacts.sides(release.manifest).items()
            if entries
        ]
        for wheel in wheels:
            packing.wheels[wheel.digest] = wheel
            layers.append(
                Descriptor(
                    media_type=artifacts.WHEEL,
                    digest=wheel.digest,
                    size=wheel.size,
                    annotations={artifacts.TITLE: wheel.file, artifacts.PLATFORM: wheel.platform},
                )
            )
        return artifacts.artifact(
            config,
            layers,
            **{
                artifacts.TITLE: release.agent,
                artifacts.VERSION: f"v{release.number}",
                artifacts.LABELS: canonical(dict(stored.labels)).decode(),
                artifacts.MESSAGE: release.message,
            },
        )

    async def _chunks(self, plain: Mapping[str, bytes], packing: _Packing) -> AsyncIterator[bytes]:
        for name, content in plain.items():
            yield layouts.member(name, len(content)) + content + layouts.padding(len(content))
        for digest in sorted({*packing.small, *packing.wheels}):
            if digest in packing.small:
                content = packing.small[digest]
            else:
                content = await self._builder.read_wheel(packing.wheels[digest])
            yield layouts.member(f"blobs/sha256/{digest}", len(content))
            yield content
            yield layouts.padding(len(content))
        yield layouts.end()

    # ------------------------------------------------------------ in

    async def _import(
        self, actor: Actor, layout: Layout, *, trust: Sequence[str], message: str
    ) -> Imported:
        arrived = await asyncio.to_thread(received.read, layout)
        keys = await self._store.read(attestations.keys)
        believed = received.believed(arrived, keys, trust)
        key_id = arrived.prove({**keys, **believed})
        lock = arrived.contents[arrived.pinned.lock.digest].decode()
        wheels = [
            Wheel(
                file=layer.annotations[artifacts.TITLE],
                platform=layer.annotations[artifacts.PLATFORM],
                digest=layer.digest,
                size=layer.size,
            )
            for layer in arrived.wheels
        ]
        for platform in sorted({wheel.platform for wheel in wheels}):
            some = {
                wheel: await asyncio.to_thread(layout.read, wheel.digest)
                for wheel in wheels
                if wheel.platform == platform
            }
            await self._builder.keep_wheels(lock, platform, some)

        async def work(tx: Transaction) -> Imported:
            for key in believed.values():
                await attestations.add_key(
                    tx, key.id, name=key.name, public_pem=key.public_pem, state=key.state
                )
            release, created = await releases.add(
                tx,
                arrived.pinned,
                parts=arrived.parts,
                contents=arrived.contents,
                message=message or arrived.message,
                created_by=actor.name,
            )
            for item in arrived.statements:
                await attestations.add(tx, release.digest, item.kind, item.key_id, item.content)
            if created:
                await audit.add(
                    tx,
                    actor,
                    "release.import",
                    object_kind="release",
                    object_id=release.digest,
                    detail={
                        "agent": release.agent,
                        "number": release.number,
                        "composite": release.composite,
                        "key": key_id,
                        "trusted": sorted(believed),
                        "artifact": arrived.artifact.digest,
                    },
                )
            return Imported(release=release, created=created, key_id=key_id, wheels=len(wheels))

        return await self._store.transact(work)


def _refer(
    packing: _Packing, subject: Descriptor, kind: str, content: bytes, pem: str | None
) -> None:
    media_type = artifacts.SBOM if kind == artifacts.SBOM else signatures.ENVELOPE
    layer = packing.add(content, media_type)
    packing.add(artifacts.EMPTY_CONTENT, artifacts.EMPTY)
    extra = {} if pem is None else {artifacts.PUBLIC_KEY: pem}
    packing.document(artifacts.referrer(subject, kind, layer, **extra))


def _size(plain: Mapping[str, bytes], packing: _Packing) -> int:
    sizes = [len(content) for content in plain.values()]
    sizes += [len(content) for content in packing.small.values()]
    sizes += [wheel.size for digest, wheel in packing.wheels.items() if digest not in packing.small]
    heads = len(layouts.member("x", 0))
    return sum(heads + size + len(layouts.padding(size)) for size in sizes) + len(layouts.end())
