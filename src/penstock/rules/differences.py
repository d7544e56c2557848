"""What differs between two JSON values, said place by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """One place that is not the same."""

    path: str  # JSON pointer (RFC 6901)
    before: Any  # None where it does not exist
    after: Any


def changes(before: Any, after: Any, path: str = "") -> Iterator[Changed]:
    """Every place that differs, in the order of the pointers; lists are compared by position."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            below = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key not in before or key not in after:
                yield Changed(path=below, before=before.get(key), after=after.get(key))
            else:
                yield from changes(before[key], after[key], below)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from changes(old, new, f"{path}/{number}")
    elif before != after or type(before) is not type(after):
        yield Changed(path=path or "/", before=before, after=after)
