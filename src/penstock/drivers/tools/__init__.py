"""Where a project's tools come from when it does not bring them itself.

A source has one verb: say which tools there are. What it says is data from a stranger, so it is
measured, checked and made plain here before anything is derived from it. ``Remote`` is the only
place where a URL that a project names is opened.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import httpx2

from penstock.domain.errors import Invalid, PenstockError, Unavailable
from penstock.domain.tools import SourceFacts, SourceTool

__all__ = [
    "MOST_BYTES",
    "MOST_TOOLS",
    "SECONDS",
    "Answer",
    "Remote",
    "SourceFacts",
    "SourceTool",
    "ToolSource",
    "check_count",
    "deadline",
    "plain",
]

SECONDS = 10.0  # for everything that one read does
MOST_BYTES = 8 << 20  # of everything that one read is sent
MOST_TOOLS = 1000

_MOST_DEPTH = 100
_EXACT = (1 << 53) - 1  # beyond it, JSON numbers are rounded
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_REFUSED = (401, 403)
_LATER = (408, 425, 429)
_LEAST_SECRET = 4  # characters; shorter parts of a header say nothing
_SHOWN = 200  # characters of a source's own text


class ToolSource(Protocol):
    """Offers tools."""

    async def read(self) -> SourceFacts:
        """What it offers now; the same facts for as long as it offers the same.

        Raises:
            Unavailable: it does not answer.
            Invalid: it answers something else than what it should be.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer whose head has arrived."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    chunks: AsyncIterator[bytes]  # of the body, counted

    @property
    def kind(self) -> str:
        """Its media type, in lower case and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Invalid: everything that was read from the source is too large.
            Unavailable: it ended before the body did.
        """
        return b"".join([chunk async for chunk in self.chunks])

    async def events(self) -> AsyncGenerator[str, None]:
        """The data of each server-sent event in the body.

        Raises:
            Invalid: everything that was read from the source is too large.
            Unavailable: it ended before the body did.
        """
        decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        lines = io.IncrementalNewlineDecoder(decoder, translate=True)
        begun: list[str] = []  # pieces of a line that has not ended
        data: list[str] = []
        async for chunk in self.chunks:
            first, *others = lines.decode(chunk).split("\n")
            begun.append(first)
            for piece in others:
                line = "".join(begun)
                begun = [piece]
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line:
                    if any(data):  # one without data only names a place to resume from
                        yield "\n".join(data)
                    data = []


class Remote:
    """One URL of a project; use it as an async context manager.

    It follows no redirect, because headers with secrets were meant for this host, and asks for
    bodies that are not compressed, because a small one may unfold to any size.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Check the URL and the headers; nothing is opened yet.

        Args:
            url: http or https.
            headers: sent with every request; they appear in no error.

        Raises:
            Invalid: the URL or a header cannot be used.
        """
        self.shown = shown(url)
        self._url = url
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        for name, value in self._headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise Invalid(
                    f"a header for {self.shown} cannot be sent: {name!r}",
                    hint="Names and values are printable ASCII without spaces at either end.",
                )
        self._left = MOST_BYTES
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    @contextlib.asynccontextmanager
    async def ask(
        self, method: str, *, headers: Mapping[str, str], content: bytes = b""
    ) -> AsyncIterator[Answer]:
        """Send a request and wait for the head of its answer.

        Raises:
            Unavailable: it does not answer, does not let us in, or says that it cannot now.
            Invalid: it is somewhere else, or sends compressed bodies that nobody asked for.
        """
        assert self._client is not None
        sent = {**self._headers, **headers, "accept-encoding": "identity"}
        try:
            async with self._client.stream(
                method, self._url, headers=sent, content=content
            ) as response:
                self._check(response)
                yield Answer(
                    status=response.status_code,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    chunks=self._counted(response),
                )
        except httpx2.ConnectError as error:
            raise Unavailable(
                f"{self.shown} cannot be reached: {error}",
                hint="Is it running, and may this server connect to it?",
            ) from None
        except httpx2.TimeoutException:
            raise _late(self.shown) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Its text is left out: it may quote a header.
            raise Unavailable(
                f"{self.shown} gave no complete answer ({type(error).__name__})",
                hint="Does it speak HTTP at this port?",
            ) from None

    def safe(self, text: str) -> str:
        """A text of the source that may be shown: short, on one line, quoting no header of ours."""
        secrets = (part for value in self._headers.values() for part in value.split())
        if any(part in text for part in secrets if len(part) >= _LEAST_SECRET):
            return "(its text quotes a header of the request)"
        return " ".join(text.split())[:_SHOWN]

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status in _REFUSED:
            raise Unavailable(
                f"{self.shown} does not let us in (HTTP {status})",
                hint="Check the credentials that are configured for it.",
            )
        if status in _LATER or status >= 500:  # noqa: PLR2004 - the server's own fault
            raise Unavailable(f"{self.shown} cannot answer now (HTTP {status})", hint="Try later.")
        if response.is_redirect:
            target = shown(str(response.url.join(response.headers.get("location", ""))))
            raise Invalid(f"{self.shown} has moved to {target}", hint="Name that URL instead.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Invalid(f"{self.shown} sends compressed bodies, though it was asked not to")

    async def _counted(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        async for chunk in response.aiter_raw():
            self._left -= len(chunk)
            if self._left < 0:
                raise too_large(self.shown)
            yield chunk


@contextlib.asynccontextmanager
async def deadline(where: str) -> AsyncIterator[None]:
    """Give up after ``SECONDS``.

    Raises:
        Unavailable: time is up.
    """
    try:
        async with asyncio.timeout(SECONDS):
            yield
    except TimeoutError:
        raise _late(where) from None


def plain(value: Any, *, where: str) -> Any:
    """A value as JSON that has a canonical form; whole numbers beyond 2**53 become floats.

    Args:
        value: what a parser made of a document.
        where: names the document in errors.

    Raises:
        Invalid: something in it is no JSON, or it is nested too deeply.
    """
    return _plain(value, where, 0)


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        raise Invalid(f"{where} is nested more than {_MOST_DEPTH} deep")
    if isinstance(value, dict):
        return {
            _plain(_key(key, where), where, depth): _plain(item, where, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_plain(item, where, depth + 1) for item in value]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{where} holds half a character: {value!r:.80}") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT:
        with contextlib.suppress(OverflowError):
            return float(value)
    elif value is None or isinstance(value, bool | int) or _finite(value):
        return value
    raise Invalid(f"{where} holds something that is no JSON: {type(value).__name__}")


def _key(key: Any, where: str) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # YAML reads the key 200 as a number
    raise Invalid(f"{where} has a key that is no text: {key!r:.80}", hint="Put it in quotes.")


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def check_count(count: int, *, where: str) -> None:
    """Refuse a source that offers too many tools.

    Raises:
        Invalid: it does.
    """
    if count > MOST_TOOLS:
        raise Invalid(f"{where} offers more than {MOST_TOOLS} tools")


def shown(url: str) -> str:
    """A URL as errors name it: without a user, a password or a query, which may be secrets.

    Raises:
        Invalid: it is no URL of a server.
    """
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError:
        host = None
    if not host or split.scheme not in ("http", "https"):
        raise Invalid(
            "the URL of a tool source is not that of a web server",
            hint="Write it as https://host/path.",
        )
    address = f"[{host}]" if ":" in host else host
    return f"{split.scheme}://{address}{f':{port}' if port else ''}{split.path}"


def too_large(where: str) -> PenstockError:
    """The error for a source that sends too much."""
    return Invalid(f"{where} sends more than {MOST_BYTES >> 20} MiB")


def _late(where: str) -> PenstockError:
    return Unavailable(
        f"{where} did not answer in {SECONDS:.0f} s", hint="Is it running, and is it overloaded?"
    )
