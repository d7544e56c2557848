"""Checkpoints as differences: what a table holds, how a chain of them becomes one, its seal.

A table is MessagePack, written by an agent's process and read here without ever reading a value:
``[slots, dropped]``. A slot's value is an atom, or a list: ``[keep, atoms]``, the first ``keep``
atoms of the same slot one table below and then more. An atom is the bytes of a value as its
framework packed it, or the key of a content that holds them (extension type 1); with a tag of the
framework's in front, ``[tag, atom]``, where it needs one.

A snapshot stands alone. A difference stands on its parent; ``depth`` counts those down to the
snapshot.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.domain.errors import Damaged

WHOLE = 0  # a checkpoint as older releases of Penstock kept it: whole, as the framework packed it
TABLE = 1
DEEPEST = 31  # so that of 32 checkpoints in a row one is a snapshot
KEY_BYTES = 16

_KEY = 1  # the extension type of a content's key
_SEAL_BYTES = 16

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

Slots = dict[str, Any]


def key_of(stored: bytes) -> bytes:
    """The key of a content, as it is stored."""
    return hashlib.blake2b(stored, digest_size=KEY_BYTES).digest()


def folded(below: Mapping[str, Any], table: bytes) -> Slots:
    """The slots after a table, given those of the table it stands on (none, for a snapshot).

    Raises:
        Damaged: it is no table, or does not fit what is below.
    """
    slots = dict(below)
    try:
        changed, dropped = _unpack(table)
        for name in dropped:
            slots.pop(name, None)
        for name, value in changed.items():
            slots[name] = _placed(slots.get(name), value) if _is_list(value) else value
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError) as error:
        raise Damaged(f"a checkpoint's table cannot be read: {error}") from error
    return slots


def snapshot(slots: Mapping[str, Any]) -> bytes:
    """The table that holds these slots and stands on nothing."""
    return _pack([slots, []])


def keys(slots: Mapping[str, Any]) -> list[bytes]:
    """The contents that slots refer to, each once."""
    return list(dict.fromkeys(_keys(slots.values())))


def keys_of_value(value: bytes) -> list[bytes]:
    """The contents that one packed value refers to, such as what a node wrote.

    Raises:
        Damaged: it is no value.
    """
    try:
        return list(dict.fromkeys(_keys([_unpack(value)])))
    except msgspec.DecodeError as error:
        raise Damaged(f"what a node wrote cannot be read: {error}") from error


class Sealer:
    """Signs checkpoints under a secret of the installation, which no agent's process knows."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"penstock checkpoints", "sha256")

    def seal(self, *fields: str | bytes | int | None) -> bytes:
        """What proves that these fields, in this order, were written together."""
        return hmac.digest(self._secret, _pack(fields), "sha256")[:_SEAL_BYTES]

    def holds(self, seal: bytes | None, *fields: str | bytes | int | None) -> bool:
        """Whether a seal is the one of these fields."""
        return seal is not None and hmac.compare_digest(bytes(seal), self.seal(*fields))


def _is_list(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and type(value[0]) is int  # noqa: PLR2004 - a pair


def _placed(before: Any, value: list[Any]) -> list[Any]:
    keep, atoms = value
    if not keep:
        return value
    if not _is_list(before) or keep > len(before[1]) or keep < 0:
        raise ValueError("a list goes on from one that is not there")
    return [0, before[1][:keep] + atoms]


def _keys(values: Iterable[Any]) -> Iterable[bytes]:
    for value in values:
        if isinstance(value, msgspec.msgpack.Ext):
            if value.code == _KEY:
                yield bytes(value.data)
        elif _is_list(value):
            yield from _keys(value[1])
        elif type(value) is list:
            yield from _keys(value[1:])


def joined(found: Sequence[bytes]) -> bytes:
    """Keys one behind the other, as queries and frames take them."""
    return b"".join(found)


def split(packed: bytes) -> list[bytes]:
    """Keys that were joined."""
    return [packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES)]
