"""LangGraph's store over the agent's memory: what ``InjectedStore`` and ``runtime.store`` give."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    PutOp,
    SearchItem,
    SearchOp,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from penstock.inside.channel import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.inside.attempts import Attempt

_MINUTE_SECONDS = 60.0
_MICROSECONDS = 1_000_000


class PenstockStore(BaseStore):
    """The memory of the attempt's agent.

    With an ``index`` (as ``InMemoryStore`` takes it) texts are embedded here, in the agent's own
    process, and their vectors are kept beside them; a query is then compared by meaning. Without
    one it is compared by its words.
    """

    supports_ttl = True

    def __init__(self, attempt: Attempt, *, index: Any = None, ttl: Any = None) -> None:
        """Use the memory of ``attempt``."""
        self._attempt = attempt
        self.index_config = index
        self.ttl_config = ttl
        self._embeddings: Any = None
        self._paths: list[tuple[str, Any]] = []
        if index:
            self._embeddings = ensure_embeddings(index.get("embed"))
            self._paths = _tokenized(index.get("fields") or ["$"])

    @classmethod
    def instead_of(cls, given: Any, attempt: Attempt) -> Any:
        """What a graph gets for the store it was compiled with.

        One that lasts as long as its process is replaced, its index and TTL are taken over; one
        that an author has chosen otherwise stays.
        """
        if given is not None and type(given).__name__ not in ("InMemoryStore", "PenstockStore"):
            return given
        index = getattr(given, "index_config", None)
        return cls(attempt, index=index, ttl=getattr(given, "ttl_config", None))

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        """Do operations at once: reads see what was there before the writes."""
        given = _last_puts(ops)
        texts = self._texts(given)
        queries = self._queries(given)
        vectors = self._embeddings.embed_documents(texts) if texts else []
        asked = [self._embeddings.embed_query(query) for query in queries]
        header, blobs = self._frame(given, texts, vectors, queries, asked)
        try:
            results = self._attempt.remember(header, blobs)
        except Refused as error:
            raise ValueError(str(error)) from None
        return [_result(op, one) for op, one in zip(given, results, strict=True)]

    async def abatch(self, ops: Iterable[Any]) -> list[Any]:
        """See :meth:`batch`."""
        given = _last_puts(ops)
        texts = self._texts(given)
        queries = self._queries(given)
        vectors = await self._embeddings.aembed_documents(texts) if texts else []
        asked = [await self._embeddings.aembed_query(query) for query in queries]
        header, blobs = self._frame(given, texts, vectors, queries, asked)
        try:
            results = await self._attempt.aremember(header, blobs)
        except Refused as error:
            raise ValueError(str(error)) from None
        return [_result(op, one) for op, one in zip(given, results, strict=True)]

    # ------------------------------------------------------------ out

    def _frame(
        self,
        ops: Sequence[Any],
        texts: list[str],
        vectors: Sequence[Any],
        queries: list[str],
        asked: Sequence[Any],
    ) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The operations as the supervisor takes them, and the vectors in their order."""
        of_text = dict(zip(texts, vectors, strict=True))
        of_query = dict(zip(queries, asked, strict=True))
        blobs: list[bytes] = []
        header = []
        for op in ops:
            if isinstance(op, PutOp):
                mine = [_packed(of_text[text]) for text in self._texts_of(op)]
                blobs += mine
                header.append(_put(op, len(mine)))
            elif isinstance(op, SearchOp):
                near = of_query.get(op.query or "")
                blobs += [] if near is None else [_packed(near)]
                header.append(_search(op, near=near is not None))
            elif isinstance(op, GetOp):
                header.append(
                    {
                        "op": "get",
                        "namespace": list(op.namespace),
                        "key": op.key,
                        "refresh": op.refresh_ttl,
                    }
                )
            elif isinstance(op, ListNamespacesOp):
                header.append(_namespaces(op))
            else:
                raise ValueError(f"Unknown operation type: {type(op)}")  # noqa: TRY004 - as InMemoryStore does
        return header, blobs

    def _texts(self, ops: Sequence[Any]) -> list[str]:
        """What is to be embedded, each text once."""
        found = [text for op in ops if isinstance(op, PutOp) for text in self._texts_of(op)]
        return list(dict.fromkeys(found))

    def _texts_of(self, op: PutOp) -> list[str]:
        if self._embeddings is None or op.value is None or op.index is False:
            return []
        paths = self._paths if op.index is None else _tokenized(op.index)
        return [text for _, path in paths for text in get_text_at_path(op.value, path)]

    def _queries(self, ops: Sequence[Any]) -> list[str]:
        if self._embeddings is None:
            return []
        found = [op.query for op in ops if isinstance(op, SearchOp) and op.query]
        return list(dict.fromkeys(found))


def _last_puts(ops: Iterable[Any]) -> list[Any]:
    """The operations; of several writes to one key only the last is embedded, and counts."""
    given = list(ops)
    last = {(op.namespace, op.key): at for at, op in enumerate(given) if isinstance(op, PutOp)}
    return [
        op
        if not isinstance(op, PutOp) or last[op.namespace, op.key] == at
        else op._replace(index=False)
        for at, op in enumerate(given)
    ]


def _tokenized(fields: Sequence[str]) -> list[tuple[str, Any]]:
    return [(field, field if field == "$" else tokenize_path(field)) for field in fields]


def _packed(vector: Any) -> bytes:
    found = array("f", (float(number) for number in vector))
    return found.tobytes()


def _put(op: PutOp, vectors: int) -> dict[str, Any]:
    return {
        "op": "put",
        "namespace": list(op.namespace),
        "key": op.key,
        "value": None if op.value is None else dict(op.value),
        "ttl": None if op.ttl is None else op.ttl * _MINUTE_SECONDS,
        "searchable": op.index is not False,
        "vectors": vectors,
    }


def _search(op: SearchOp, *, near: bool) -> dict[str, Any]:
    return {
        "op": "search",
        "namespace": list(op.namespace_prefix),
        "query": op.query,
        "filter": op.filter,
        "limit": op.limit,
        "offset": op.offset,
        "refresh": op.refresh_ttl,
        "vector": near,
    }


def _namespaces(op: ListNamespacesOp) -> dict[str, Any]:
    return {
        "op": "namespaces",
        "conditions": [
            [condition.match_type, list(condition.path)] for condition in op.match_conditions or ()
        ],
        "depth": op.max_depth,
        "limit": op.limit,
        "offset": op.offset,
    }


# ---------------------------------------------------------------- back


def _result(op: Any, result: Any) -> Any:
    if isinstance(op, GetOp):
        return None if result is None else Item(**_fields(result))
    if isinstance(op, SearchOp):
        return [SearchItem(**_fields(one), score=one["score"]) for one in result]
    if isinstance(op, ListNamespacesOp):
        return [tuple(one) for one in result]
    return None


def _fields(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "namespace": tuple(found["namespace"]),
        "key": found["key"],
        "value": found["value"],
        "created_at": _when(found["created_us"]),
        "updated_at": _when(found["updated_us"]),
    }


def _when(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / _MICROSECONDS, UTC)
