"""What an agent remembers across sessions: ``from penstock import memory``.

::

    memory.put(("facts",), "opening", {"text": "open from 9 to 5"})
    memory.get(("facts",), "opening")                   # the value, or None
    memory.search(("facts",), query="when open?")       # items, the best first
    memory.put(memory.user("taste"), "colour", {"likes": "blue"}, ttl=86400)

Each agent has a memory of its own in each environment. A value is a JSON object; the same key
remembers the last one. ``user(…)`` is the namespace of the session's user; no session of another
user reaches it. ``aput``, ``aget``, ``adelete``, ``asearch`` and ``anamespaces`` are the same for
async code. Outside of Penstock, memory lasts as long as the process.
"""

from __future__ import annotations

from penstock.inside import context

TYPE_CHECKING = False  # see context: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Namespace = Sequence[str]

_local: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}

_COMPARE = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")


class Item:
    """Something that was found: ``namespace``, ``key``, ``value``, and ``score`` if it has one."""

    __slots__ = ("created_us", "key", "namespace", "score", "updated_us", "value")

    def __init__(self, found: Mapping[str, Any]) -> None:
        """As the supervisor says it."""
        self.namespace: tuple[str, ...] = tuple(found["namespace"])
        self.key: str = found["key"]
        self.value: dict[str, Any] = found["value"]
        self.score: float | None = found.get("score")
        self.created_us: int = found.get("created_us", 0)
        self.updated_us: int = found.get("updated_us", 0)

    def __repr__(self) -> str:
        return f"Item({'/'.join(self.namespace)}/{self.key}: {self.value!r})"


def user(*parts: str) -> tuple[str, ...]:
    """The namespace of the session's user, and what is below it.

    Raises:
        LookupError: the session has no user.
    """
    attempt = context.current()
    name = "local" if attempt is None else attempt.user
    if not name:
        raise LookupError("the session of this task has no user; begin it with user_id")
    return ("users", name, *parts)


def put(
    namespace: Namespace, key: str, value: Mapping[str, Any], *, ttl: float | None = None
) -> None:
    """Remember ``value`` under ``key``, for ``ttl`` seconds after it was last written or read.

    Raises:
        penstock.inside.channel.Refused: the namespace is another user's, or the value too large.
    """
    _one(_put(namespace, key, value, ttl))


async def aput(
    namespace: Namespace, key: str, value: Mapping[str, Any], *, ttl: float | None = None
) -> None:
    """See :func:`put`."""
    await _aone(_put(namespace, key, value, ttl))


def get(namespace: Namespace, key: str) -> dict[str, Any] | None:
    """What is remembered under ``key``, or None."""
    return _value(_one(_get(namespace, key)))


async def aget(namespace: Namespace, key: str) -> dict[str, Any] | None:
    """See :func:`get`."""
    return _value(await _aone(_get(namespace, key)))


def delete(namespace: Namespace, key: str) -> None:
    """Forget ``key``; one that is not there is no error."""
    _one(_put(namespace, key, None, None))


async def adelete(namespace: Namespace, key: str) -> None:
    """See :func:`delete`."""
    await _aone(_put(namespace, key, None, None))


def search(
    namespace: Namespace = (),
    *,
    query: str | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - what LangGraph calls it
    limit: int = 10,
    offset: int = 0,
) -> list[Item]:
    """Items below ``namespace``: with words of ``query``, the best first; else the latest first.

    ``filter`` compares members of the value: ``{"kind": "fact", "age": {"$gte": 3}}``.
    """
    return _items(_one(_search(namespace, query, filter, limit, offset)))


async def asearch(
    namespace: Namespace = (),
    *,
    query: str | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as above
    limit: int = 10,
    offset: int = 0,
) -> list[Item]:
    """See :func:`search`."""
    return _items(await _aone(_search(namespace, query, filter, limit, offset)))


def namespaces(
    prefix: Namespace = (), *, limit: int = 100, offset: int = 0
) -> list[tuple[str, ...]]:
    """The namespaces below ``prefix`` in which something is remembered."""
    return [tuple(found) for found in _one(_namespaces(prefix, limit, offset))]


async def anamespaces(
    prefix: Namespace = (), *, limit: int = 100, offset: int = 0
) -> list[tuple[str, ...]]:
    """See :func:`namespaces`."""
    return [tuple(found) for found in await _aone(_namespaces(prefix, limit, offset))]


def matches(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the members of a value are as a filter wants them.

    Raises:
        ValueError: the filter has an operator that there is not, or compares what is no number.
    """
    return all(_compare(value.get(name), want) for name, want in wanted.items())


# ---------------------------------------------------------------- operations


def _put(namespace: Namespace, key: str, value: Any, ttl: float | None) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        value = dict(value)
    return {"op": "put", "namespace": _path(namespace), "key": key, "value": value, "ttl": ttl}


def _get(namespace: Namespace, key: str) -> dict[str, Any]:
    return {"op": "get", "namespace": _path(namespace), "key": key}


def _search(
    namespace: Namespace, query: str | None, wanted: Any, limit: int, offset: int
) -> dict[str, Any]:
    return {
        "op": "search", "namespace": _path(namespace), "query": query, "filter": wanted,
        "limit": limit, "offset": offset,
    }  # fmt: skip


def _namespaces(prefix: Namespace, limit: int, offset: int) -> dict[str, Any]:
    conditions = [["prefix", _path(prefix)]] if prefix else []
    return {"op": "namespaces", "conditions": conditions, "limit": limit, "offset": offset}


def _path(namespace: Namespace) -> list[str]:
    return [namespace] if isinstance(namespace, str) else list(namespace)


def _one(op: dict[str, Any]) -> Any:
    attempt = context.current()
    if attempt is None:
        return _locally(op)
    return attempt.remember([op])[0]


async def _aone(op: dict[str, Any]) -> Any:
    attempt = context.current()
    if attempt is None:
        return _locally(op)
    return (await attempt.aremember([op]))[0]


def _value(found: Any) -> dict[str, Any] | None:
    return None if found is None else found["value"]


def _items(found: Any) -> list[Item]:
    return [Item(one) for one in found]


# ---------------------------------------------------------------- filters


def _compare(have: Any, want: Any) -> bool:
    if isinstance(want, dict):
        if any(name.startswith("$") for name in want):
            return all(_operate(have, name, operand) for name, operand in want.items())
        return isinstance(have, dict) and all(_compare(have.get(k), v) for k, v in want.items())
    if isinstance(want, list | tuple):
        return (
            isinstance(have, list | tuple)
            and len(have) == len(want)
            and all(_compare(one, other) for one, other in zip(have, want, strict=True))
        )
    return bool(have == want)


def _operate(have: Any, name: str, operand: Any) -> bool:
    if name not in _COMPARE:
        raise ValueError(f"a filter knows no {name}; it knows {', '.join(_COMPARE)}")
    if name in ("$eq", "$ne"):
        return bool(have == operand) == (name == "$eq")
    try:
        left, right = float(have), float(operand)
    except (TypeError, ValueError):
        return False  # what is no number is neither more nor less
    if name.startswith("$gt"):
        return left > right or (name == "$gte" and left == right)
    return left < right or (name == "$lte" and left == right)


# ---------------------------------------------------------------- outside of Penstock


def _locally(op: dict[str, Any]) -> Any:
    """The same in this process, for ``python agent.py``."""
    kind = op["op"]
    if kind == "namespaces":
        prefix = tuple(op["conditions"][0][1]) if op["conditions"] else ()
        found = sorted({ns for ns, _ in _local if ns[: len(prefix)] == prefix})
        return found[op["offset"] : op["offset"] + op["limit"]]
    namespace = tuple(op["namespace"])
    if kind == "put":
        if op["value"] is None:
            _local.pop((namespace, op["key"]), None)
        else:
            _local[namespace, op["key"]] = op["value"]
        return None
    if kind == "get":
        value = _local.get((namespace, op["key"]))
        return None if value is None else {"value": value}
    items: list[dict[str, Any]] = []
    words = (op["query"] or "").lower().split()
    for (place, key), value in reversed(_local.items()):
        if place[: len(namespace)] == namespace and matches(value, op["filter"] or {}):
            text = str(value).lower()
            score = sum(word in text for word in words) / len(words) if words else None
            if score != 0:
                items.append({"namespace": place, "key": key, "value": value, "score": score})
    items.sort(key=lambda one: -(one["score"] or 0))
    return items[op["offset"] : op["offset"] + op["limit"]]
