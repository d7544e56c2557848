"""Where a release comes from, as a signed statement: in-toto v1 with a SLSA v1 predicate.

Two statements are signed. One about the release, when it is published: its digest, those of its
components, and what it was built from. One about an exported artifact: the digest of its OCI
manifest, which holds the digests of everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.attestations import KeyState, PublicKey
from penstock.domain.errors import Damaged
from penstock.domain.releases import Manifest
from penstock.rules import signatures
from penstock.rules.releases import canonical
from penstock.rules.signatures import SignatureError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:penstock:build:release:v1"
EXPORT = "urn:penstock:build:artifact:v1"

_GOOD = {KeyState.ACTIVE, KeyState.RETIRED, KeyState.TRUSTED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """The circumstances of a build; every text is in the statement as it is given here."""

    key_id: str
    penstock: str  # version
    by: str  # who asked for it
    source: Mapping[str, Any]  # what it was made from: a project, or a release with settings
    invocation: str
    started: str  # RFC 3339, UTC
    finished: str


def of_release(
    digest: str, pinned: Manifest, built: Built, *, packages: Iterable[str], sbom_digest: str
) -> bytes:
    """The statement about a release, to be signed.

    Args:
        digest: of the release.
        pinned: its manifest.
        built: how it came to be.
        packages: package URLs of what its lock installs.
        sbom_digest: sha256 of its bill of materials.
    """
    subjects = [_subject(f"release {pinned.agent}", digest)]
    subjects += [
        _subject(f"{kind.value} {pinned.agent}", found)
        for kind, found in sorted(pinned.components.items())
    ]
    dependencies: list[dict[str, Any]] = [
        {"uri": "urn:penstock:lock", "digest": {"sha256": pinned.lock.digest}}
    ]
    dependencies += [{"uri": package} for package in packages]
    statement = _statement(subjects, built, BUILD, dependencies)
    statement["predicate"]["runDetails"]["byproducts"] = [
        {"name": "sbom", "digest": {"sha256": sbom_digest}}
    ]
    return canonical(statement)


def of_artifact(manifest_digest: str, release: str, built: Built) -> bytes:
    """The statement about an exported artifact, to be signed."""
    subjects = [_subject("artifact", manifest_digest), _subject("release", release)]
    return canonical(_statement(subjects, built, EXPORT, []))


def verify(
    content: bytes, keys: Mapping[str, PublicKey], *, subject: str, what: str
) -> Mapping[str, Any]:
    """A statement about ``subject``, proven to be of a key that is good.

    Args:
        content: the envelope.
        keys: the public keys that are known, by id.
        subject: digest of what it must be about.
        what: how an error names the envelope.

    Raises:
        Damaged: the signature is not valid, of no known key, or about something else.
    """
    try:
        envelope = signatures.open_envelope(content)
        key = keys.get(envelope.key_id)
        if key is None:
            raise Damaged(
                f"{what} is signed with the key {envelope.key_id}, which is not trusted here",
                hint=f"Ask its owner for the key's id; then: --trust {envelope.key_id[:16]}…,"
                " or penstock signing trust FILE.",
            )
        if key.state not in _GOOD:
            raise Damaged(f"{what} is signed with the key {key.id}, which has been revoked")
        statement = signatures.verify(envelope, key.public_pem)
    except SignatureError as error:
        raise Damaged(
            f"{what} does not prove anything: {error}",
            hint="It has been changed since it was signed. Get the artifact again.",
        ) from None
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
        raise Damaged(f"{what} is no SLSA provenance")
    about = [item.get("digest", {}).get("sha256") for item in statement.get("subject", [])]
    if subject not in about:
        raise Damaged(f"{what} is about something else, not about {subject}")
    return statement


def byproduct(statement: Mapping[str, Any], name: str) -> str | None:
    """The digest of what a build has left beside the release: ``sbom``."""
    details = statement.get("predicate", {}).get("runDetails", {})
    for item in details.get("byproducts", []):
        if item.get("name") == name:
            digest: str = item["digest"]["sha256"]
            return digest
    return None


def _statement(
    subjects: list[dict[str, Any]], built: Built, kind: str, dependencies: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": kind,
                "externalParameters": {"by": built.by, **json.loads(json.dumps(built.source))},
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {
                    "id": f"urn:penstock:installation:{built.key_id}",
                    "version": {"penstock": built.penstock},
                },
                "metadata": {
                    "invocationId": built.invocation,
                    "startedOn": built.started,
                    "finishedOn": built.finished,
                },
            },
        },
    }


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}
