"""A session with one OCI repository: requests that are tried again, and the right to make them."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Self, TypeVar

import httpx2
import msgspec

from penstock.domain.errors import Invalid, NotFound, PenstockError, Unavailable
from penstock.drivers.registries import (
    Credentials,
    Reference,
    is_loopback,
)
from penstock.rules.artifacts import INDEX, MANIFEST
from penstock.rules.releases import digest_bytes

T = TypeVar("T")

_SECONDS = 60.0  # for a connection, and between two pieces of an answer
TRIES = 4
_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 30.0
_MOST_ANSWER = 64 << 10  # of a token or of an error's text
_MOST_HOPS = 5
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a registry sent."""

    content: bytes
    digest: str
    kind: str
    following: str | None  # URL of the next page


def damaged(what: str) -> PenstockError:
    """What is said of content that is not what was asked for."""
    return Invalid(f"{what} is damaged: its content is not what its digest and size say")


class Again(Exception):
    """A try has failed in a way in which the next one may not."""

    def __init__(self, error: PenstockError, *, after: str | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after  # what the registry asks for


class Session:
    """One repository for one push or pull; use it as an async context manager.

    What the ``Authorization`` header says goes to the registry itself and to nobody a redirect
    names. A password goes beyond it only to where tokens are given, over TLS.
    """

    def __init__(
        self,
        reference: Reference,
        actions: str,
        credentials: Callable[[], Awaitable[Credentials | None]],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.reference = reference
        self.url = reference.url
        self._scope = f"repository:{reference.repository}:{actions}"
        self._credentials = credentials
        self._pause = pause
        self._origin = httpx2.URL(reference.url)
        self._authorization: str | None = None
        self._secrets: set[str] = set()
        self._authorizing = asyncio.Lock()
        self._http = httpx2.AsyncClient(timeout=_SECONDS, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def retry(self, once: Callable[[], Awaitable[T]]) -> T:
        """Do something until it does not fail in passing, a few times at most."""
        for tried in range(1, TRIES + 1):
            try:
                return await once()
            except Again as again:
                if tried == TRIES:
                    raise again.error from None
                await self._pause(_wait_seconds(again.after, tried))
        raise AssertionError("unreachable")

    async def fetch(
        self,
        url: str,
        *,
        what: str,
        most: int,
        digest: str | None = None,
        only: str | None = None,
    ) -> Body | None:
        """Read something; None when it is not there.

        Args:
            url: where it is.
            what: names it in errors.
            most: bytes that are read at most.
            digest: what it must have.
            only: the media type that it must have to be there at all.
        """

        async def once() -> Body | None:
            headers = {"accept": f"{MANIFEST}, {INDEX}, */*;q=0.1"}
            async with self.ask("GET", url, headers=headers) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if response.status_code == HTTPStatus.NOT_FOUND:
                    return None
                if response.status_code != HTTPStatus.OK:
                    raise await self.refusal(response, f"give {what}")
                if only is not None and kind != only:
                    return None
                content, found = await _receive(response, what=what, most=most)
                algorithm, _, said = response.headers.get("docker-content-digest", "").partition(
                    ":"
                )
                if found != (digest or found) or (algorithm == "sha256" and said != found):
                    raise damaged(what)
                following = response.links.get("next", {}).get("url")
                return Body(
                    content=content,
                    digest=found,
                    kind=kind,
                    following=following and self._join(response.url, following),
                )

        try:
            return await self.retry(once)
        except Unavailable as error:
            raise Unavailable(f"{what}: {error.message}", hint=error.hint) from None

    async def knows_referrers(self, subject: str) -> bool:
        """Whether the registry itself lists what refers to a manifest."""

        async def once() -> bool:
            async with self.ask("GET", f"{self.url}/referrers/sha256:{subject}") as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                return response.status_code == HTTPStatus.OK and kind == INDEX

        return await self.retry(once)

    async def put_manifest(self, url: str, content: bytes, kind: str) -> Mapping[str, str]:
        """Send a manifest; the headers of the answer."""
        digest = f"sha256:{digest_bytes(content)}"

        async def once() -> Mapping[str, str]:
            headers = {"content-type": kind}
            async with self.ask("PUT", url, headers=headers, content=content) as response:
                if response.status_code != HTTPStatus.CREATED:
                    raise await self.refusal(response, f"take manifest {digest}")
                if response.headers.get("docker-content-digest", digest) != digest:
                    raise damaged(f"manifest {digest}, as the registry received it,")
                return response.headers

        return await self.retry(once)

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request and wait for the head of the answer, which is any but "try later"."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                yield await self._answer(stack, method, url, headers or {}, content)
        except httpx2.ConnectError as error:
            raise Again(
                Unavailable(
                    f"{_host(error.request)} cannot be reached: {error}", hint="Is it running?"
                )
            ) from None
        except httpx2.TransportError as error:
            # Its text is left out: it may quote a header.
            raise Again(
                Unavailable(
                    f"{_host(error.request)} gave no complete answer ({type(error).__name__})",
                    hint="Does it speak HTTP at this port, with TLS unless it is on this machine?",
                )
            ) from None

    def target(self, response: httpx2.Response) -> str:
        """Where an answer sends us.

        Raises:
            Invalid: nowhere, or out of TLS.
        """
        location = response.headers.get("location")
        if not location:
            raise Invalid(f"{self.reference.registry} sends us on, but does not say where")
        return self._join(response.url, location)

    async def refusal(self, response: httpx2.Response, doing: str) -> PenstockError:
        """The error for an answer that nobody hoped for."""
        status = response.status_code
        said = await self._said(response)
        message = f"{self.reference.registry} does not {doing} (HTTP {status}{said})"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            hint = f"Check the credentials, or log in: docker login {self.reference.registry}"
            return Unavailable(message, hint=hint)
        if status == HTTPStatus.NOT_FOUND:
            return NotFound(message, hint=f"Is there a repository {self.reference.repository}?")
        return Invalid(message)

    # ------------------------------------------------------------ one request

    async def _answer(
        self,
        stack: contextlib.AsyncExitStack,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes,
    ) -> httpx2.Response:
        """Follow redirects and show who we are when it is asked for."""
        renewed = False
        for _ in range(_MOST_HOPS):
            used = self._authorization if self._is_ours(url) else None
            shown = {**headers, **({} if used is None else {"authorization": used})}
            response = await self._start(stack, method, url, shown, content)
            if response.status_code == HTTPStatus.UNAUTHORIZED and self._is_ours(url):
                if renewed or not await self._authorize(response, used):
                    return response
                renewed = True
            elif response.has_redirect_location and method in ("GET", "HEAD"):
                url = self.target(response)
            else:
                return response
            await response.aclose()
        raise Invalid(f"{self.reference.registry} sends us on more than {_MOST_HOPS - 1} times")

    async def _start(
        self,
        stack: contextlib.AsyncExitStack,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes = b"",
    ) -> httpx2.Response:
        plain = {**headers, "accept-encoding": "identity"}  # digests are of what is not compressed
        request = self._http.build_request(method, url, headers=plain, content=content)
        response = await self._http.send(request, stream=True)
        stack.push_async_callback(response.aclose)
        status = response.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            said = await self._said(response)
            raise Again(
                Unavailable(
                    f"{_host(request)} cannot answer now (HTTP {status}{said})", hint="Try later."
                ),
                after=response.headers.get("retry-after"),
            )
        return response

    async def _authorize(self, response: httpx2.Response, used: str | None) -> bool:
        """Find out who to be from now on; whether that is somebody else than before."""
        async with self._authorizing:
            if self._authorization != used:
                return True  # another request has found out in the meantime
            offered = _challenges(response.headers.get_list("www-authenticate"))
            known = await self._credentials()
            if known is not None:
                self._secrets |= {known.password, known.basic.partition(" ")[2]}
            if "bearer" in offered:
                self._authorization = f"Bearer {await self._token(offered['bearer'], known)}"
            elif "basic" in offered and known is not None:
                self._authorization = known.basic
            return self._authorization != used

    async def _token(self, offered: Mapping[str, str], known: Credentials | None) -> str:
        """Fetch a token for this repository; what a registry asks for beyond that is ignored."""
        realm = self._join(self._origin, offered.get("realm", ""))
        if not self._may_know_passwords(realm):
            raise Invalid(
                f"{self.reference.registry} wants our password to go to {realm:.200}",
                hint="Tokens are asked for over https only.",
            )
        parameters = {"scope": self._scope}
        if service := offered.get("service"):
            parameters["service"] = service
        url = str(httpx2.URL(realm).copy_merge_params(parameters))
        headers = {} if known is None else {"authorization": known.basic}
        async with contextlib.AsyncExitStack() as stack:
            response = await self._start(stack, "GET", url, headers)
            if response.status_code != HTTPStatus.OK:
                raise await self.refusal(response, "give a token")
            what = f"the token for {self.reference.registry}"
            content, _ = await _receive(response, what=what, most=_MOST_ANSWER)
        with contextlib.suppress(msgspec.DecodeError, RecursionError, AttributeError):
            found = _decode(content)
            token = found.get("token") or found.get("access_token")
            if isinstance(token, str) and _TOKEN.fullmatch(token):
                self._secrets.add(token)
                return token
        raise Invalid(f"{what} is no token")

    async def _said(self, response: httpx2.Response) -> str:
        """What a registry says about its refusal: short, on one line, quoting no secret of ours."""
        content = b""
        async for part in response.aiter_raw():
            content += part
            if len(content) > _MOST_ANSWER:
                return ""
        try:
            errors = _decode(content)["errors"]
            texts = [str(item.get("message") or item["code"]) for item in errors]
        except (msgspec.DecodeError, RecursionError, AttributeError, KeyError, TypeError):
            return ""
        text = " ".join("; ".join(texts).split())[:300]
        if not text.isprintable() or any(secret in text for secret in self._secrets):
            return ""
        return f": {text}" if text else ""

    def _join(self, base: httpx2.URL, location: str) -> str:
        try:
            url = base.join(location)
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        if url.scheme != "https" and not (url.scheme == "http" and self.reference.plain):
            raise Invalid(f"{self.reference.registry} sends us to {location!r:.200}, without TLS")
        return str(url)

    def _is_ours(self, url: str) -> bool:
        other, ours = httpx2.URL(url), self._origin
        return (other.scheme, other.netloc) == (ours.scheme, ours.netloc)

    def _may_know_passwords(self, url: str) -> bool:
        realm, ours = httpx2.URL(url), self._origin
        near = is_loopback(_bracketed(realm.host)) and is_loopback(_bracketed(ours.host))
        return realm.scheme == "https" or realm.host == ours.host or near


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host(request: httpx2.Request) -> str:
    """Whom a request was for: the registry, or where it sent us."""
    return request.url.netloc.decode("ascii")


async def _receive(response: httpx2.Response, *, what: str, most: int) -> tuple[bytes, str]:
    """A body and its digest."""
    parts: list[bytes] = []
    found, size = hashlib.sha256(), 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > most:
            raise Invalid(f"{what} is larger than the {most} bytes that may be read of it")
        found.update(part)
        parts.append(part)
    return b"".join(parts), found.hexdigest()


def _challenges(headers: Iterable[str]) -> dict[str, dict[str, str]]:
    """The ways in which a registry wants to know who we are, by scheme."""
    found: dict[str, dict[str, str]] = {}
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {
            name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)
        }
        found.setdefault(scheme.lower(), parameters)
    return found


def _wait_seconds(after: str | None, tried: int) -> float:
    """How long to wait: as long as the registry asks for, within reason."""
    pause: float = _PAUSE_SECONDS * 2**tried * random.uniform(0.5, 1)  # noqa: S311 - not a secret
    asked = 0.0
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if after is not None and after.isdecimal():
            asked = float(after)
        elif after is not None:
            asked = (email.utils.parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds()
    return min(max(pause, asked), _MOST_PAUSE_SECONDS)
