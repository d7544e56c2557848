"""An artifact that has arrived: every blob accounted for, and who vouches for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from penstock.domain.attestations import Attestation, KeyState, PublicKey
from penstock.domain.components import NewComponent
from penstock.domain.errors import Damaged, Invalid
from penstock.domain.releases import Manifest
from penstock.kit.layouts import Layout
from penstock.rules import artifacts, prompts, provenance, signatures, versions
from penstock.rules.artifacts import Descriptor, Document
from penstock.rules.releases import (
    canonical,
    contents,
    digest_bytes,
    digest_json,
    parts_of,
    verified,
)

_LEAST_TRUST = 16  # letters of a key's id


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """An artifact whose bytes are whole; who vouches for it is still to be proven."""

    artifact: Document
    pinned: Manifest
    contents: Mapping[str, bytes]
    parts: tuple[NewComponent, ...]
    wheels: tuple[Descriptor, ...]
    statement: bytes  # about the artifact
    statements: tuple[Attestation, ...]  # about the release
    public_keys: Mapping[str, str]  # id → PEM, as the artifact brings them
    message: str

    def prove(self, keys: Mapping[str, PublicKey]) -> str:
        """Check who vouches for it; the id of the key that does for the artifact.

        Raises:
            Damaged: nobody who is trusted here.
        """
        release = self.artifact.config.digest
        what = f"the artifact's statement (blob {digest_bytes(self.statement)})"
        provenance.verify(self.statement, keys, subject=self.artifact.digest, what=what)
        named = set()
        for item in self.statements:
            if item.kind == "provenance":
                what = f"the provenance (blob {digest_bytes(item.content)})"
                found = provenance.verify(item.content, keys, subject=release, what=what)
                named.add(provenance.byproduct(found, "sbom"))
        if not named:
            raise Damaged("the artifact has no provenance of its release")
        for item in self.statements:
            if item.kind == "sbom" and digest_bytes(item.content) not in named:
                raise Damaged(f"blob {digest_bytes(item.content)} is not the release's own SBOM")
        return signatures.open_envelope(self.statement).key_id


def believed(
    received: Received, keys: Mapping[str, PublicKey], trust: Sequence[str]
) -> dict[str, PublicKey]:
    """The keys that come with an artifact and that the caller has named."""
    found = {}
    for given in trust:
        wanted = given.lower().removeprefix("sha256:")
        if len(wanted) < _LEAST_TRUST:
            raise Invalid(f"{given!r} is too short to name a key", hint="Give 16 letters or more.")
        matching = {*received.public_keys, *keys}
        matching = {key_id for key_id in matching if key_id.startswith(wanted)}
        if len(matching) != 1:
            brought = ", ".join(sorted(received.public_keys))
            raise Invalid(
                f"no one key of this artifact begins with {given!r}", hint=f"It brings: {brought}"
            )
        key_id = matching.pop()
        if key_id not in keys:
            found[key_id] = PublicKey(
                id=key_id,
                name=f"came with {received.pinned.agent}",
                public_pem=received.public_keys[key_id],
                state=KeyState.TRUSTED,
                created_us=0,
                changed_us=0,
            )
    return found


def read(layout: Layout) -> Received:
    """Everything in a layout, each blob accounted for.

    Raises:
        Damaged: something is missing, does not fit, or belongs to nothing.
        LayoutError: a blob is missing.
    """
    if layout.plain["oci-layout"] != artifacts.LAYOUT:
        raise Damaged("oci-layout is not what it should be")
    index = artifacts.index_digests(layout.plain["index.json"])
    documents = [_manifest(layout, digest) for digest in index]
    mains = [one for one in documents if one.artifact_type == artifacts.RELEASE]
    if len(mains) != 1:
        raise Invalid(
            "this is no artifact of one release", hint="Write it: penstock release export"
        )
    main = mains[0]
    others = [one for one in documents if one is not main]
    artifacts.check_index(
        layout.plain["index.json"], main.annotations.get(artifacts.VERSION, ""), [main, *others]
    )
    used = {main.digest, main.config.digest, *(layer.digest for layer in main.layers)}
    for other in others:
        if other.subject != main.digest or len(other.layers) != 1:
            raise Damaged(f"blob {other.digest} refers to something else than this artifact")
        used |= {other.digest, other.config.digest, other.layers[0].digest}
    for digest in sorted(layout.digests - used):
        raise Damaged(f"blob {digest} belongs to nothing in the artifact")
    for document in documents:
        for descriptor in (document.config, *document.layers):
            if layout.size(descriptor.digest) != descriptor.size:
                raise Damaged(f"blob {descriptor.digest} is not as long as {document.digest} says")
    return _open(layout, main, others)


def _manifest(layout: Layout, digest: str) -> Document:
    if digest not in layout.digests:
        raise Damaged(f"index.json names blob {digest}, which is not in the artifact")
    return artifacts.read_manifest(layout.read(digest))


def _open(layout: Layout, main: Document, others: Sequence[Document]) -> Received:
    raw = layout.read(main.config.digest)
    pinned = verified(raw, main.config.digest)
    if canonical(msgspec.json.decode(raw)) != raw:
        raise Damaged(f"blob {main.config.digest} is not written as manifests are")
    _check_components(pinned)
    files: dict[str, bytes] = {}
    titles = {layer.annotations.get(artifacts.TITLE, ""): layer for layer in main.layers}
    for name, entries in artifacts.sides(pinned).items():
        if not entries:
            continue
        if name not in titles:
            raise Damaged(f"the artifact has no {name}")
        layer = titles.pop(name)
        title = f"{name} (blob {layer.digest})"
        files |= artifacts.read_tar(layout.read(layer.digest), entries, name=title)
    for layer in titles.values():
        if layer.media_type != artifacts.WHEEL or artifacts.PLATFORM not in layer.annotations:
            raise Damaged(f"blob {layer.digest} is no layer of a release")
    kept, statement, pems = _statements(layout, main, others)
    return Received(
        artifact=main,
        pinned=pinned,
        contents=files,
        parts=_parts(pinned, files, main.annotations.get(artifacts.LABELS, "{}")),
        wheels=tuple(titles.values()),
        statement=statement,
        statements=kept,
        public_keys=pems,
        message=main.annotations.get(artifacts.MESSAGE, ""),
    )


def _statements(
    layout: Layout, main: Document, others: Sequence[Document]
) -> tuple[tuple[Attestation, ...], bytes, dict[str, str]]:
    """What is said about the release, what about the artifact, and the keys that come with it."""
    found: list[Attestation] = []
    about: list[bytes] = []
    pems: dict[str, str] = {}
    for other in others:
        content = layout.read(other.layers[0].digest)
        pem = other.annotations.get(artifacts.PUBLIC_KEY)
        try:
            if pem is not None:
                pems[signatures.key_id(pem)] = pem
            signed = other.artifact_type != artifacts.SBOM
            key_id = signatures.open_envelope(content).key_id if signed else ""
        except signatures.SignatureError as error:
            raise Damaged(f"blob {other.digest}: {error}") from None
        if other.artifact_type == artifacts.STATEMENT:
            about.append(content)
        elif other.artifact_type in (artifacts.PROVENANCE, artifacts.SBOM):
            kind = "provenance" if signed else "sbom"
            found.append(
                Attestation(
                    release=main.config.digest,
                    kind=kind,
                    key_id=key_id,
                    content=content,
                    created_us=0,
                )
            )
        else:
            raise Damaged(f"blob {other.digest} is a {other.artifact_type}, which is not known")
    if len(about) != 1:
        raise Damaged("nobody vouches for the artifact")
    return tuple(found), about[0], pems


def _check_components(pinned: Manifest) -> None:
    """The digests of the components must be those of their contents."""
    for kind, content in contents(parts_of(pinned)).items():
        if pinned.components.get(kind) != digest_json(content):
            raise Damaged(f"the {kind.value} component is not what its digest says")


def _parts(pinned: Manifest, files: Mapping[str, bytes], labels: str) -> tuple[NewComponent, ...]:
    """The component versions, called as they were where they come from, if the names are free."""
    known = msgspec.json.decode(labels.encode(), type=dict[str, str])
    read = {
        entry.path: prompts.parse(files[entry.digest].decode(), file=entry.path)
        for entry in pinned.prompts
    }
    return tuple(
        versions.with_hint(part, known.get(f"{part.kind.value}.{part.name}".rstrip(".")))
        for part in versions.of_parts(parts_of(pinned), read)
    )
