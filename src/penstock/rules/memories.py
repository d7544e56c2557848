"""Whose memories may be touched, and which fit a search.

A namespace that begins with ``users`` belongs to the user its second part names. A task whose
session has a user reads and writes only this user's; one whose session has none is the agent's own
business, and the agent decides.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from typing import Any

from penstock.domain.errors import Forbidden, Invalid
from penstock.domain.memories import USERS, Namespace

SEPARATOR = "\x1f"

MOST_VALUE_BYTES = 1 << 20
MOST_KEY_LENGTH = 512
MOST_PARTS = 16
_MOST_WORDS_LENGTH = 64 << 10
_MOST_QUERY_WORDS = 32
_LONGEST_WORD = 64

_WORD = re.compile(r"[^\W_]+")


def checked(namespace: Iterable[Any], *, prefix: bool = False) -> Namespace:
    """A namespace, or (``prefix``) the beginning of some.

    Raises:
        Invalid: it is none.
    """
    parts = tuple(namespace)
    if not parts and not prefix:
        raise Invalid("a namespace has one part at least")
    for part in parts:
        if not isinstance(part, str) or not part or SEPARATOR in part or "\x00" in part:
            raise Invalid(f"{part!r} is no part of a namespace: a text that is not empty")
    if len(parts) > MOST_PARTS or sum(map(len, parts)) > MOST_KEY_LENGTH:
        raise Invalid(
            f"a namespace has at most {MOST_PARTS} parts and {MOST_KEY_LENGTH} characters"
        )
    return parts


def checked_key(key: Any) -> str:
    """A key.

    Raises:
        Invalid: it is none.
    """
    if not isinstance(key, str) or not key or "\x00" in key or len(key) > MOST_KEY_LENGTH:
        raise Invalid(f"a key is a text of 1 to {MOST_KEY_LENGTH} characters")
    return key


def may_touch(namespace: Namespace, user_id: str | None) -> None:
    """Let a task of a user's session reach a namespace, or say why not.

    Raises:
        Forbidden: it is another user's.
    """
    if user_id is None or not namespace or namespace[0] != USERS:
        return
    if len(namespace) > 1 and namespace[1] != user_id:
        raise Forbidden(
            f"the memories of {namespace[1]} are not for a session of {user_id}",
            hint="A session reaches what is below ('users', its own user).",
        )


def stored(namespace: Namespace) -> str:
    """A namespace as one text; those below it begin with it."""
    return "".join(part + SEPARATOR for part in namespace)


def parts(text: str) -> Namespace:
    """The namespace that was stored as a text."""
    return tuple(text.split(SEPARATOR)[:-1])


def after_all(prefix: str) -> str:
    """The least text above all that begin with a stored namespace."""
    return prefix[:-1] + " " if prefix else "\U0010ffff"


def words_of(value: Any) -> str:
    """The words in a value, as they are searched: `` one two ``."""
    found: list[str] = []
    _gather(value, found)
    text = " ".join(dict.fromkeys(word for part in found for word in words(part)))
    if len(text) > _MOST_WORDS_LENGTH:
        text = text[:_MOST_WORDS_LENGTH].rpartition(" ")[0]
    return f" {text} " if text else ""


def words(query: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word[:_LONGEST_WORD].lower() for word in _WORD.findall(query)]


def query_words(query: str) -> list[str]:
    """The words that a search looks for."""
    return list(dict.fromkeys(words(query)))[:_MOST_QUERY_WORDS]


def fits(namespace: Namespace, conditions: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Whether a namespace fulfils conditions of (prefix | suffix, path); ``*`` is any part.

    Raises:
        Invalid: there is no such condition.
    """
    for kind, path in conditions:
        if kind not in ("prefix", "suffix"):
            raise Invalid(f"{kind!r} is no condition; they are prefix and suffix")
        if len(path) > len(namespace):
            return False
        end = (
            namespace[: len(path)] if kind == "prefix" else namespace[len(namespace) - len(path) :]
        )
        if any(want not in ("*", have) for want, have in zip(path, end, strict=True)):
            return False
    return True


def checked_vector(vector: bytes) -> bytes:
    """A vector that may be kept or looked for.

    Raises:
        Invalid: the bytes are none, or not all of its numbers are finite.
    """
    if not math.isfinite(sum(floats(vector))):
        raise Invalid("a vector has finite numbers only")
    return vector


def floats(vector: bytes) -> array[float]:
    """A stored vector as numbers.

    Raises:
        Invalid: the bytes are none.
    """
    if not vector or len(vector) % 4:
        raise Invalid("a vector is bytes of float32")
    found = array("f")
    found.frombytes(vector)
    return found


def ranked(query: bytes, candidates: Iterable[tuple[Any, bytes]]) -> list[tuple[Any, float]]:
    """Each candidate once, with the best cosine of its vectors, the nearest first.

    Raises:
        Invalid: a vector has another dimension than the query.
    """
    wanted = floats(query)
    length = math.sqrt(sum(map(mul, wanted, wanted)))
    best: dict[Any, float] = {}
    for name, vector in candidates:
        if len(vector) != len(query):
            raise other_dimension(query, len(vector))
        found = floats(vector)
        product = length * math.sqrt(sum(map(mul, found, found)))
        score = sum(map(mul, wanted, found)) / product if product else 0.0
        if score > best.get(name, -math.inf):
            best[name] = score
    return sorted(best.items(), key=lambda pair: -pair[1])


def other_dimension(query: bytes, size_bytes: int) -> Invalid:
    """What is said when a memory has a vector of ``size_bytes``, which the query has not."""
    return Invalid(
        f"the query has {len(query) // 4} dimensions and a memory {size_bytes // 4}",
        hint="Was the embedding model changed? Write the memories again.",
    )


def _gather(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, Mapping):
        for member in value.values():
            _gather(member, found)
    elif isinstance(value, list | tuple):
        for member in value:
            _gather(member, found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found.append(str(value))
