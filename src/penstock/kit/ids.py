"""Sortable identifiers with a type prefix: ``task_01jd…``, ``ses_01jd…``.

The form is that of a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32) in lower
case: https://github.com/ulid/spec. Time and randomness come in as arguments of :func:`make_id`;
:func:`new_id` takes both from the machine.
"""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BYTES = 10
_CHARACTERS = 26


def make_id(prefix: str, *, milliseconds: int, randomness: bytes) -> str:
    """The identifier for a moment and ten random bytes.

    Raises:
        ValueError: ``randomness`` is not ten bytes long.
    """
    if len(randomness) != _RANDOM_BYTES:
        raise ValueError(f"an identifier takes {_RANDOM_BYTES} random bytes, got {len(randomness)}")
    value = (milliseconds << 80) | int.from_bytes(randomness, "big")
    text = "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
    return f"{prefix}_{text[-_CHARACTERS:]}"


def new_id(prefix: str) -> str:
    """A fresh identifier of this machine's time and randomness."""
    return make_id(
        prefix, milliseconds=time.time_ns() // 1_000_000, randomness=os.urandom(_RANDOM_BYTES)
    )
