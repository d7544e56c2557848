"""The bill of materials of a release: CycloneDX 1.6, from what it pins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from penstock.domain.releases import Manifest

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(;[^\\]*)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package of a lock."""

    name: str
    version: str
    marker: str | None  # the machines it is for; None: all
    digests: tuple[str, ...]  # sha256 of each file it is published as

    @property
    def url(self) -> str:
        """Its package URL."""
        return PackageURL("pypi", None, self.name, self.version).to_string()


def packages(lock: str) -> list[Package]:
    """What a lock installs, in its order."""
    found: list[Package] = []
    for line in lock.splitlines():
        match = _PIN.match(line)
        if match:
            marker = (match[3] or "").strip("; ").strip() or None
            name = match[1].lower().replace("_", "-")
            found.append(Package(name=name, version=match[2], marker=marker, digests=()))
        if found and (digests := _HASH.findall(line)):
            last = found[-1]
            found[-1] = Package(
                name=last.name,
                version=last.version,
                marker=last.marker,
                digests=(*last.digests, *digests),
            )
    return found


def bill(pinned: Manifest, digest: str, lock: str, *, serial: UUID, made: datetime) -> bytes:
    """A release's bill of materials as JSON.

    Args:
        pinned: the release's manifest.
        digest: of the release.
        lock: the text of penstock.lock.
        serial: of this document.
        made: when, in UTC.
    """
    bom = Bom(serial_number=serial)
    bom.metadata.timestamp = made
    root = Component(
        name=pinned.agent,
        version=digest,
        type=ComponentType.APPLICATION,
        bom_ref=f"release:{digest}",
        hashes=[_sha256(digest)],
    )
    bom.metadata.component = root
    libraries = []
    for package in packages(lock):
        properties = [Property(name="penstock:sha256", value=found) for found in package.digests]
        if package.marker:
            properties.append(Property(name="penstock:marker", value=package.marker))
        libraries.append(
            Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                purl=PackageURL.from_string(package.url),
                bom_ref=package.url,
                properties=properties,
            )
        )
    models = {
        (pin.provider, pin.model): Component(
            name=pin.model,
            group=pin.provider,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{pin.provider}/{pin.model}",
        )
        for chain in pinned.models.values()
        for pin in chain
    }
    files = [
        Component(
            name=entry.path,
            type=ComponentType.FILE,
            bom_ref=f"file:{entry.path}",
            hashes=[_sha256(entry.digest)],
        )
        for entry in (*pinned.code, *pinned.prompts, *pinned.tool_files, pinned.lock)
    ]
    parts = [*libraries, *models.values(), *files]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(root, parts)
    return JsonV1Dot6(bom).output_as_string().encode()


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
