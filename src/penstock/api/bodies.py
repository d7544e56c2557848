"""Bodies in and out: JSON by msgspec, with limits and errors in words."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from penstock.domain.errors import Exhausted, Invalid

T = TypeVar("T")

MOST_JSON_BYTES = 32 << 20
MOST_ARCHIVE_BYTES = 256 << 20

_encode = msgspec.json.Encoder().encode
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


class TooLarge(Exhausted):
    """A body is larger than the limit."""

    code = "too_large"


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A request's JSON object; an unknown member is an error."""


def accepts(kind: type[Body]) -> dict[str, Any]:
    """What the OpenAPI document says of a route's body."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def schemas() -> dict[str, Any]:
    """Every body's JSON Schema by name."""
    kinds = Body.__subclasses__()
    _, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    return dict(components)


async def read(request: Request, kind: type[T]) -> T:
    """The request's body as ``kind``; an empty one is an empty object.

    Raises:
        Invalid: it is no JSON, or not such an object; names the member.
        TooLarge: it is larger than 32 MiB.
    """
    raw = await read_bytes(request, most=MOST_JSON_BYTES)
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        value: T = decoder.decode(raw or b"{}")
    except msgspec.ValidationError as error:
        raise Invalid(
            f"the body is not what this route takes: {error}",
            hint="What each route takes stands in /api/v1/openapi.json.",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is no JSON: {error}") from None
    return value


async def read_bytes(request: Request, *, most: int) -> bytes:
    """The request's body.

    Raises:
        TooLarge: it is larger than ``most`` bytes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > most:
            raise _too_large(most)
    return bytes(chunks)


@contextlib.asynccontextmanager
async def spooled(request: Request, *, most: int) -> AsyncIterator[Path]:
    """The request's body as a file that is gone afterwards.

    Raises:
        TooLarge: it is larger than ``most`` bytes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    with tempfile.NamedTemporaryFile(prefix="penstock-upload-") as file:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            file.write(chunk)
        file.flush()
        yield Path(file.name)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A record, or anything made of records, as a JSON response."""
    return Response(
        _encode(value), status_code=status, media_type="application/json", headers=headers
    )


def items(values: Any) -> Response:
    """A list."""
    return answer({"items": values})


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most >> 20} MiB", hint="Send less, or a reference to the data."
    )
