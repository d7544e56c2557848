"""DSSE envelopes signed with ed25519.

DSSE v1 (secure-systems-lab/dsse, protocol.md): what is signed is not the JSON around a payload but
its pre-authentication encoding, so that no parser stands between a signature and its meaning.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

IN_TOTO = "application/vnd.in-toto+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"

_MEMBERS = {"payload", "payloadType", "signatures"}
_SIGNATURE_MEMBERS = {"keyid", "sig"}


class SignatureError(ValueError):
    """An envelope that does not prove what it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """What an envelope holds, before anybody has checked it."""

    payload: bytes
    payload_type: str
    key_id: str
    signature: bytes


def seal(payload: bytes, *, key_id: str, sign: Callable[[bytes], bytes]) -> bytes:
    """A payload in an envelope with one signature."""
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": IN_TOTO,
        "signatures": [
            {
                "keyid": key_id,
                "sig": base64.b64encode(sign(encoding(IN_TOTO, payload))).decode(),
            }
        ],
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def open_envelope(content: bytes) -> Envelope:
    """Read an envelope strictly: two different texts are never the same envelope.

    Raises:
        SignatureError: it is none, or holds more than it should.
    """
    try:
        found = json.loads(content)
        (signature,) = found["signatures"]
        if found.keys() != _MEMBERS or signature.keys() != _SIGNATURE_MEMBERS:
            raise SignatureError("the envelope holds members that do not belong there")
        envelope = Envelope(
            payload=_decode(found["payload"]),
            payload_type=str(found["payloadType"]),
            key_id=str(signature["keyid"]),
            signature=_decode(signature["sig"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureError(f"this is no DSSE envelope: {error}") from None
    if envelope.payload_type != IN_TOTO:
        raise SignatureError(f"the payload is a {envelope.payload_type}, not an in-toto statement")
    return envelope


def verify(envelope: Envelope, public_pem: str) -> Mapping[str, Any]:
    """The statement in an envelope, once its signature is proven.

    Raises:
        SignatureError: the signature is not of this key, or the payload is no JSON object.
    """
    try:
        key = public_key(public_pem)
        key.verify(envelope.signature, encoding(envelope.payload_type, envelope.payload))
    except InvalidSignature:
        raise SignatureError("the signature is not valid") from None
    try:
        statement = json.loads(envelope.payload)
    except ValueError:
        raise SignatureError("the payload is no JSON") from None
    if not isinstance(statement, dict):
        raise SignatureError("the payload is no JSON object")
    return statement


def encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: ``DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload``."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def public_key(pem: str) -> Ed25519PublicKey:
    """An ed25519 key from its PEM.

    Raises:
        SignatureError: it is none.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError) as error:
        raise SignatureError(f"this is no public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError("this is no ed25519 key")
    return key


def key_id(pem: str) -> str:
    """A key's name: sha256 of its raw 32 bytes, in lower-case hex.

    Raises:
        SignatureError: it is no ed25519 key.
    """
    raw = public_key(pem).public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _decode(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("a member is no base64") from None
    if base64.b64encode(content).decode() != text:
        raise SignatureError("a member is not written as base64 is written")
    return content
