"""Who vouches for a release, and with which key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class KeyState(StrEnum):
    """What a public key is good for."""

    ACTIVE = "active"  # this installation signs with it
    RETIRED = "retired"  # it signed here once; what it signed stays valid
    TRUSTED = "trusted"  # another installation's: artifacts it signed may be imported
    REVOKED = "revoked"  # nothing it signed is loaded any more


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKey:
    """An ed25519 key that signs releases."""

    id: str  # sha256 of its raw 32 bytes
    name: str  # for people
    public_pem: str
    state: KeyState
    created_us: int
    changed_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attestation:
    """A statement about a release."""

    release: str  # digest
    kind: str  # provenance: a DSSE envelope | sbom: CycloneDX
    key_id: str  # empty for what is not signed itself
    content: bytes
    created_us: int
