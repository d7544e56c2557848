"""A release as OCI content: an artifact manifest, its layers, and what refers to it.

::

    index.json ─▶ artifact manifest ─▶ config    the release's manifest; its digest is the release's
        │              ▲           ─▶ layers    prompt.tar, tools.tar, code.tar, one wheel each
        ├─▶ referrer ──┤ subject   ─▶ layer     DSSE: SLSA provenance of the release
        ├─▶ referrer ──┤           ─▶ layer     DSSE: statement about the artifact manifest
        └─▶ referrer ──┘           ─▶ layer     CycloneDX bill of materials

Everything is written in one way only (canonical JSON, tar headers without times or owners), so that
reading can demand that way: no byte is without meaning, and none can be changed unnoticed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.domain.errors import Damaged
from penstock.domain.releases import FileEntry, Manifest
from penstock.rules.releases import canonical, digest_bytes

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
RELEASE = "application/vnd.penstock.release.v1+json"
CONFIG = "application/vnd.penstock.release.manifest.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
WHEEL = "application/vnd.penstock.wheel.v1"
PROVENANCE = "application/vnd.penstock.provenance.v1+json"
STATEMENT = "application/vnd.penstock.statement.v1+json"
SBOM = "application/vnd.cyclonedx+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_CONTENT = b"{}"
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
REF = "org.opencontainers.image.ref.name"
PLATFORM = "dev.penstock.platform"
LABELS = "dev.penstock.labels"
PUBLIC_KEY = "dev.penstock.public-key"
MESSAGE = "dev.penstock.message"

_BLOCK = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A blob as others refer to it."""

    media_type: str
    digest: str  # sha256 in lower-case hex, without a prefix
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As OCI writes it."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": f"sha256:{self.digest}",
            "size": self.size,
        }
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.artifact_type is not None:
            found["artifactType"] = self.artifact_type
        return found


def describe(content: bytes, media_type: str, **annotations: str) -> Descriptor:
    """The descriptor of a content."""
    return Descriptor(
        media_type=media_type,
        digest=digest_bytes(content),
        size=len(content),
        annotations=annotations,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """An OCI manifest as it was read, whole and in its only form."""

    digest: str
    content: bytes
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: str | None  # digest
    annotations: Mapping[str, str]


# ---------------------------------------------------------------- writing


def artifact(config: Descriptor, layers: Sequence[Descriptor], **annotations: str) -> bytes:
    """The manifest of a release's artifact."""
    return _manifest(RELEASE, config, layers, None, annotations)


def referrer(
    subject: Descriptor, artifact_type: str, layer: Descriptor, **annotations: str
) -> bytes:
    """The manifest of something that refers to an artifact."""
    empty = describe(EMPTY_CONTENT, EMPTY)
    return _manifest(artifact_type, empty, [layer], subject, annotations)


def index(tag: str, documents: Sequence[Document]) -> bytes:
    """``index.json``: the artifact first, then what refers to it in the order of their digests."""
    first, *others = documents
    found = [_entry(first, {REF: tag})]
    found += [_entry(other, {}) for other in sorted(others, key=lambda other: other.digest)]
    return canonical(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [item.to_json() for item in found]}
    )


def tar(entries: Iterable[FileEntry], contents: Mapping[str, bytes]) -> bytes:
    """Files as an uncompressed tar; the same files are the same bytes everywhere."""
    out = io.BytesIO()
    for entry in sorted(entries, key=lambda entry: entry.path):
        content = contents[entry.digest]
        out.write(header(entry.path, len(content), executable=entry.executable))
        out.write(content + bytes(-len(content) % _BLOCK))
    out.write(bytes(2 * _BLOCK))
    return out.getvalue()


def header(path: str, size: int, *, executable: bool = False) -> bytes:
    """The tar header of a file without a time, an owner or a link."""
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = 0o755 if executable else 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT)


# ---------------------------------------------------------------- reading


def read_manifest(content: bytes) -> Document:
    """A manifest, which must be written as :func:`artifact` and :func:`referrer` write it.

    Raises:
        Damaged: it is not.
    """
    digest = digest_bytes(content)
    try:
        found = json.loads(content)
        if found["schemaVersion"] != 2 or found["mediaType"] != MANIFEST:  # noqa: PLR2004 - OCI's
            raise ValueError("it is no OCI image manifest")  # noqa: TRY301 - one way out
        subject = found.get("subject")
        document = Document(
            digest=digest,
            content=content,
            artifact_type=found["artifactType"],
            config=_descriptor(found["config"]),
            layers=tuple(_descriptor(layer) for layer in found["layers"]),
            subject=None if subject is None else _descriptor(subject).digest,
            annotations=found.get("annotations", {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"blob {digest} is no manifest of an artifact: {error}") from None
    return document


def check_index(content: bytes, tag: str, documents: Sequence[Document]) -> None:
    """``index.json`` must say what the manifests say, byte for byte.

    Raises:
        Damaged: it does not.
    """
    if content != index(tag, documents):
        raise Damaged(
            "index.json does not say what the manifests say",
            hint="It has been changed since the artifact was written. Get the artifact again.",
        )


def index_digests(content: bytes) -> list[str]:
    """The digests of the manifests that an ``index.json`` names.

    Raises:
        Damaged: it is no index.
    """
    try:
        found = [str(item["digest"]) for item in json.loads(content)["manifests"]]
    except (ValueError, KeyError, TypeError):
        raise Damaged("index.json is no index of an OCI image layout") from None
    return list(dict.fromkeys(digest.removeprefix("sha256:") for digest in found))


def read_tar(content: bytes, entries: Iterable[FileEntry], *, name: str) -> dict[str, bytes]:
    """The contents in a layer, which must be exactly the files that the release pins.

    Nothing is taken from the tar but bytes: paths and modes come from the release's manifest, so a
    layer can neither lead out of a directory nor hold a link, a device or a bomb.

    Raises:
        Damaged: it holds something else; names the file.
    """
    found: dict[str, bytes] = {}
    offset = 0
    ordered = sorted(entries, key=lambda entry: entry.path)
    for entry in ordered:
        size = _size(content, offset, entry, name)
        start = offset + len(header(entry.path, size, executable=entry.executable))
        body = content[start : start + size]
        if len(body) != size or digest_bytes(body) != entry.digest:
            raise Damaged(f"{entry.path} in {name} is not what the release pins ({entry.digest})")
        found[entry.digest] = body
        offset = start + size + (-size % _BLOCK)
    if tar(ordered, found) != content:
        raise Damaged(f"{name} holds more than the release pins")
    return found


def sides(release: Manifest) -> dict[str, tuple[FileEntry, ...]]:
    """Which files go into which layer."""
    return {
        "code.tar": (*release.code, release.lock),
        "prompt.tar": release.prompts,
        "tools.tar": release.tool_files,
    }


def _size(content: bytes, offset: int, entry: FileEntry, name: str) -> int:
    """The size of the file whose header stands at ``offset``, if it is that file's."""
    probe = header(entry.path, 0, executable=entry.executable)
    last = content[offset + len(probe) - _BLOCK : offset + len(probe)]
    try:
        size = tarfile.TarInfo.frombuf(last, "utf-8", "strict").size
    except (tarfile.TarError, UnicodeDecodeError, ValueError):
        size = -1
    if size >= 0:
        expected = header(entry.path, size, executable=entry.executable)
        if content[offset : offset + len(expected)] == expected:
            return size
    raise Damaged(f"{name} does not hold {entry.path} where it should be")


def _manifest(
    artifact_type: str,
    config: Descriptor,
    layers: Sequence[Descriptor],
    subject: Descriptor | None,
    annotations: Mapping[str, str],
) -> bytes:
    found: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if subject is not None:
        found["subject"] = subject.to_json()
    if annotations:
        found["annotations"] = dict(annotations)
    return canonical(found)


def _entry(document: Document, annotations: Mapping[str, str]) -> Descriptor:
    return Descriptor(
        media_type=MANIFEST,
        digest=document.digest,
        size=len(document.content),
        annotations=annotations,
        artifact_type=document.artifact_type,
    )


def _descriptor(found: Mapping[str, Any]) -> Descriptor:
    algorithm, _, digest = str(found["digest"]).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or not isinstance(found["size"], int):  # noqa: PLR2004 - sha256 in hex
        raise ValueError(f"{found['digest']!r} is no sha256 digest")
    return Descriptor(
        media_type=found["mediaType"],
        digest=digest,
        size=found["size"],
        annotations=found.get("annotations", {}),
        artifact_type=found.get("artifactType"),
    )
