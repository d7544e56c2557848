"""Registries that speak OCI distribution, version 1.1 or 1.0, over HTTP.

A registry of version 1.0 does not know what refers to a manifest. There the client keeps the list
itself, as an index under the tag ``sha256-<digest of the subject>``, as the specification says.
Nothing guards that index against two writers, so it is read again after it was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Self, TypeVar

import httpx2
import msgspec

from penstock.domain.errors import Conflict, Invalid, NotFound, PenstockError, Unavailable
from penstock.drivers.registries import (
    Credentials,
    Manifest,
    Pulled,
    Reference,
    Referrer,
    docker_credentials,
    is_loopback,
    is_tag,
    read_blobs,
    read_descriptor,
    read_json,
    read_subject,
)
from penstock.rules.artifacts import INDEX, MANIFEST, Descriptor
from penstock.rules.releases import canonical, digest_bytes

T = TypeVar("T")

_SECONDS = 60.0  # for a connection, and between two pieces of an answer
_TRIES = 4
_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 30.0
_AT_ONCE = 4
_CHUNK = 16 << 20  # a blob that is larger is sent in pieces of this size
_MOST_MANIFEST = 4 << 20  # as registries limit it
_MOST_ANSWER = 64 << 10  # of a token or of an error's text
_MOST_HOPS = 5
_MOST_PAGES = 100
_BYTES = {"content-type": "application/octet-stream"}
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")

_decode = msgspec.json.Decoder().decode


class OciRegistry:
    """Implements ``drivers.registries.Registry`` for every registry a reference may name."""

    def __init__(
        self,
        *,
        credentials: Mapping[str, Credentials] | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is opened yet.

        Args:
            credentials: by registry (host, with :port where there is one); for others, what
                ``docker login`` noted is used.
            pause: waits for so many seconds, between two tries.
        """
        self._credentials = dict(credentials or {})
        self._pause = pause

    async def push(
        self,
        reference: Reference,
        *,
        manifests: Sequence[Manifest],
        read: Callable[[str], Awaitable[bytes]],
    ) -> str:
        """See :class:`penstock.drivers.registries.Registry`."""
        blobs = _examine(reference, manifests)
        tagged = [manifest for manifest in manifests if manifest.tag is not None]
        untagged = [manifest for manifest in manifests if manifest.tag is None]
        async with self._session(reference, "pull,push") as session:
            await _side_by_side(blobs, lambda blob: _upload(session, blob, read))
            for group in (untagged, tagged):
                unlisted: dict[str, list[Manifest]] = {}
                for manifest in group:
                    if not await _put(session, manifest) and manifest.subject is not None:
                        unlisted.setdefault(manifest.subject, []).append(manifest)
                for subject, referrers in unlisted.items():
                    await _list(session, subject, referrers)
        return (tagged or untagged)[0].digest

    async def pull(
        self,
        reference: Reference,
        *,
        keep: Callable[[str, bytes], Awaitable[None]],
        most_bytes: int,
    ) -> Pulled:
        """See :class:`penstock.drivers.registries.Registry`."""
        async with self._session(reference, "pull") as session:
            return await _Pull(session, most_bytes).run(reference, keep)

    def _session(self, reference: Reference, actions: str) -> _Session:
        async def credentials() -> Credentials | None:
            registry = reference.registry
            return self._credentials.get(registry) or await docker_credentials(registry)

        return _Session(reference, actions, credentials, self._pause)


# ---------------------------------------------------------------- sending


def _examine(reference: Reference, manifests: Sequence[Manifest]) -> list[Descriptor]:
    """The blobs that manifests name, each once; nothing is sent if they contradict themselves."""
    blobs: list[Descriptor] = []
    for manifest in manifests:
        what = f"manifest sha256:{manifest.digest}"
        found = read_json(manifest.content, where=what)
        blobs += read_blobs(found, where=what)
        if found["mediaType"] != manifest.media_type:
            raise Invalid(f"{what} does not say that it is a {manifest.media_type}")
        subject = read_subject(found, where=what)
        if subject != manifest.subject:
            raise Invalid(f"{what} refers to {subject}, not to {manifest.subject}")
        if manifest.tag is not None and not is_tag(manifest.tag):
            raise Invalid(f"{manifest.tag!r} is no tag for {what}")
        if len(manifest.content) > _MOST_MANIFEST:
            raise Invalid(f"{what} is larger than {_MOST_MANIFEST >> 20} MiB")
    if not manifests:
        raise Invalid(f"nothing is to be pushed to {reference}", hint="Give a manifest.")
    if reference.digest and reference.digest not in {item.digest for item in manifests}:
        raise Invalid(f"no manifest is the one that {reference} names")
    if reference.tag and reference.tag not in {item.tag for item in manifests}:
        raise Invalid(f"no manifest would get the tag of {reference}")
    return _distinct(blobs)


async def _upload(
    session: _Session, blob: Descriptor, read: Callable[[str], Awaitable[bytes]]
) -> None:
    what = f"blob sha256:{blob.digest}"

    async def once() -> None:
        # Asked before every try: the one before may have arrived although its answer did not.
        async with session.ask("HEAD", f"{session.url}/blobs/sha256:{blob.digest}") as response:
            if response.status_code == HTTPStatus.OK:
                return
            if response.status_code != HTTPStatus.NOT_FOUND:
                raise await session.refusal(response, f"say whether it has {what}")
        content = await read(blob.digest)
        if len(content) != blob.size or digest_bytes(content) != blob.digest:
            raise _damaged(what)
        await _send(session, blob, content)

    await session.retry(once)


async def _send(session: _Session, blob: Descriptor, content: bytes) -> None:
    doing = f"take blob sha256:{blob.digest}"
    async with session.ask("POST", f"{session.url}/blobs/uploads/") as response:
        if response.status_code != HTTPStatus.ACCEPTED:
            raise await session.refusal(response, doing)
        location = session.target(response)
        least = response.headers.get("oci-chunk-min-length", "")
    if len(content) > _CHUNK:
        step = max(_CHUNK, int(least) if least.isdecimal() else 0)
        for start in range(0, len(content), step):
            part = content[start : start + step]
            headers = {**_BYTES, "content-range": f"{start}-{start + len(part) - 1}"}
            async with session.ask("PATCH", location, headers=headers, content=part) as response:
                if response.status_code != HTTPStatus.ACCEPTED:
                    raise await _upload_refusal(session, response, doing)
                location = session.target(response)
        content = b""
    url = f"{location}{'&' if '?' in location else '?'}digest=sha256:{blob.digest}"
    async with session.ask("PUT", url, headers=_BYTES, content=content) as response:
        if response.status_code != HTTPStatus.CREATED:
            raise await _upload_refusal(session, response, doing)


async def _upload_refusal(
    session: _Session, response: httpx2.Response, doing: str
) -> PenstockError | _Again:
    status = response.status_code
    refusal = await session.refusal(response, doing)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return _Again(refusal)  # it has lost track of the upload; a new one may go through
    return refusal


async def _put(session: _Session, manifest: Manifest) -> bool:
    """Send a manifest that is not there; whether the registry knows by itself what it refers to."""
    digest = f"sha256:{manifest.digest}"
    url = f"{session.url}/manifests/{manifest.tag or digest}"
    kind = {"accept": manifest.media_type}

    async def present() -> bool:
        async with session.ask("HEAD", url, headers=kind) as response:
            if response.status_code not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                raise await session.refusal(response, f"say whether it has manifest {digest}")
            found = response.headers.get("docker-content-digest", manifest.tag or digest)
            return response.status_code == HTTPStatus.OK and found == digest

    if await session.retry(present):
        return manifest.subject is None or await session.knows_referrers(manifest.subject)
    headers = await session.put_manifest(url, manifest.content, manifest.media_type)
    return "oci-subject" in headers


async def _list(session: _Session, subject: str, referrers: Sequence[Manifest]) -> None:
    """Add manifests to the list of what refers to a subject."""
    url = f"{session.url}/manifests/sha256-{subject}"
    what = f"the list of what refers to sha256:{subject}"
    for _ in range(_TRIES):
        body = await session.fetch(url, what=what, most=_MOST_MANIFEST)
        index: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        if body is not None:
            index = _index(body, what)
        listed = {item.digest for item in _entries(index, what)}
        missing = [item for item in referrers if item.digest not in listed]
        if not missing:
            return
        index["manifests"] += [_entry(item).to_json() for item in missing]
        await session.put_manifest(url, canonical(index), INDEX)
    raise Conflict(
        f"others change {what} in {session.reference.registry} all the time",
        hint="Push again when nobody else does.",
    )


def _entry(manifest: Manifest) -> Descriptor:
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=len(manifest.content),
        annotations=manifest.annotations,
        artifact_type=manifest.artifact_type,
    )


# ---------------------------------------------------------------- receiving


class _Pull:
    """One pull, and how much it may still read."""

    def __init__(self, session: _Session, most_bytes: int) -> None:
        self._session = session
        self._most = self._left = most_bytes

    async def run(
        self, reference: Reference, keep: Callable[[str, bytes], Awaitable[None]]
    ) -> Pulled:
        name = reference.tag if reference.digest is None else f"sha256:{reference.digest}"
        what = f"manifest {name}"
        url = f"{reference.url}/manifests/{name}"
        body = await self._read(url, what, digest=reference.digest)
        if body is None:
            raise NotFound(f"there is no {reference}", hint="Has it been pushed?")
        manifests = {body.digest: body.content}
        blobs = list(_blobs(body, what))

        async def refer(entry: Descriptor) -> None:
            which = f"manifest sha256:{entry.digest}"
            if entry.size > _MOST_MANIFEST:
                raise Invalid(f"{which} is larger than {_MOST_MANIFEST >> 20} MiB")
            found = await self._exactly("manifests", entry, which)
            manifests[entry.digest] = found.content
            blobs.extend(_blobs(found, which, subject=body.digest))

        async def take(blob: Descriptor) -> None:
            which = f"blob sha256:{blob.digest}"
            await keep(blob.digest, (await self._exactly("blobs", blob, which)).content)

        entries = _distinct(await self._referrers(body.digest))
        self._spend(entries)
        await _side_by_side(entries, refer)
        wanted = _distinct(blobs)
        self._spend(wanted)
        await _side_by_side(wanted, take)
        others = sorted(manifests.keys() - {body.digest})
        return Pulled(
            digest=body.digest,
            content=body.content,
            referrers=tuple(
                Referrer(digest=digest, content=manifests[digest]) for digest in others
            ),
        )

    async def _referrers(self, subject: str) -> list[Descriptor]:
        what = f"the list of what refers to sha256:{subject}"
        found: list[Descriptor] = []
        base = self._session.url
        url = f"{base}/referrers/sha256:{subject}"
        for page in range(_MOST_PAGES):
            body = await self._read(url, what, only=INDEX)
            if body is None and page == 0:
                body = await self._read(f"{base}/manifests/sha256-{subject}", what)
                return [] if body is None else _entries(_index(body, what), what)
            if body is None:
                raise Invalid(f"{what} breaks off at page {page + 1}")
            found += _entries(_index(body, what), what)
            if body.following is None:
                return found
            url = body.following
        raise Invalid(f"{what} has more than {_MOST_PAGES} pages")

    async def _read(
        self, url: str, what: str, *, digest: str | None = None, only: str | None = None
    ) -> _Body | None:
        """Something whose size nobody said."""
        most = min(self._left, _MOST_MANIFEST)
        body = await self._session.fetch(url, what=what, most=most, digest=digest, only=only)
        self._left -= 0 if body is None else len(body.content)
        return body

    async def _exactly(self, folder: str, item: Descriptor, what: str) -> _Body:
        """Something that a manifest names, already paid for."""
        url = f"{self._session.url}/{folder}/sha256:{item.digest}"
        body = await self._session.fetch(url, what=what, most=item.size, digest=item.digest)
        if body is None:
            raise NotFound(f"{what} is named in {self._session.reference}, but it is not there")
        if len(body.content) != item.size:
            raise _damaged(what)
        return body

    def _spend(self, items: Iterable[Descriptor]) -> None:
        """Refuse before anything is asked for what would be too much in the end."""
        for item in items:
            self._left -= item.size
            if self._left < 0:
                raise Invalid(
                    f"{self._session.reference} with sha256:{item.digest} ({item.size} bytes) is "
                    f"larger than the {self._most} bytes that may be read"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Body:
    """What a registry sent."""

    content: bytes
    digest: str
    kind: str
    following: str | None  # URL of the next page


def _blobs(body: _Body, what: str, *, subject: str | None = None) -> tuple[Descriptor, ...]:
    """The blobs of a manifest that must refer to ``subject``, if one is given."""
    found = _typed(body, MANIFEST, what)
    if subject is not None and read_subject(found, where=what) != subject:
        raise Invalid(f"{what} does not refer to sha256:{subject}, though it is listed there")
    return read_blobs(found, where=what)


def _index(body: _Body, what: str) -> dict[str, Any]:
    return _typed(body, INDEX, what)


def _typed(body: _Body, kind: str, what: str) -> dict[str, Any]:
    """A document that must be of one kind, by its own word and by the registry's."""
    found = read_json(body.content, where=what)
    found.setdefault("mediaType", body.kind)
    for said in (body.kind, found["mediaType"]):
        if said != kind:
            raise Invalid(f"{what} is a {said!r:.100}, not a {kind}")
    return found


def _entries(index: Mapping[str, Any], what: str) -> list[Descriptor]:
    manifests = index.get("manifests")
    if not isinstance(manifests, list):
        raise Invalid(f"{what} has no list of manifests")
    return [read_descriptor(item, where=what) for item in manifests]


def _distinct(items: Iterable[Descriptor]) -> list[Descriptor]:
    found: dict[str, Descriptor] = {}
    for item in items:
        if found.setdefault(item.digest, item).size != item.size:
            raise Invalid(f"sha256:{item.digest} is named with two sizes")
    return list(found.values())


def _damaged(what: str) -> PenstockError:
    return Invalid(f"{what} is damaged: its content is not what its digest and size say")


# ---------------------------------------------------------------- HTTP


class _Again(Exception):
    """A try has failed in a way in which the next one may not."""

    def __init__(self, error: PenstockError, *, after: str | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after  # what the registry asks for


class _Session:
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
        for tried in range(1, _TRIES + 1):
            try:
                return await once()
            except _Again as again:
                if tried == _TRIES:
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
    ) -> _Body | None:
        """Read something; None when it is not there.

        Args:
            url: where it is.
            what: names it in errors.
            most: bytes that are read at most.
            digest: what it must have.
            only: the media type that it must have to be there at all.
        """

        async def once() -> _Body | None:
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
                    raise _damaged(what)
                following = response.links.get("next", {}).get("url")
                return _Body(
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
                    raise _damaged(f"manifest {digest}, as the registry received it,")
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
            raise _Again(
                Unavailable(
                    f"{_host(error.request)} cannot be reached: {error}", hint="Is it running?"
                )
            ) from None
        except httpx2.TransportError as error:
            # Its text is left out: it may quote a header.
            raise _Again(
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
            raise _Again(
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


async def _side_by_side(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do something with each, a few at a time; the first error ends the others."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    tasks = [asyncio.create_task(work()) for _ in range(_AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
