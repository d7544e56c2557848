"""Registries that speak OCI distribution, version 1.1 or 1.0, over HTTP.

A registry of version 1.0 does not know what refers to a manifest. There the client keeps the list
itself, as an index under the tag ``sha256-<digest of the subject>``, as the specification says.
Nothing guards that index against two writers, so it is read again after it was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2

from penstock.domain.errors import Conflict, Invalid, NotFound, PenstockError
from penstock.drivers.registries import (
    Credentials,
    Manifest,
    Pulled,
    Reference,
    Referrer,
    docker_credentials,
    is_tag,
    read_blobs,
    read_descriptor,
    read_json,
    read_subject,
)
from penstock.drivers.registries.oci_sessions import TRIES, Again, Body, Session, damaged
from penstock.rules.artifacts import INDEX, MANIFEST, Descriptor
from penstock.rules.releases import canonical, digest_bytes

T = TypeVar("T")

_AT_ONCE = 4
_CHUNK = 16 << 20  # a blob that is larger is sent in pieces of this size
_MOST_MANIFEST = 4 << 20  # as registries limit it
_MOST_PAGES = 100
_BYTES = {"content-type": "application/octet-stream"}


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

    def _session(self, reference: Reference, actions: str) -> Session:
        async def credentials() -> Credentials | None:
            registry = reference.registry
            return self._credentials.get(registry) or await docker_credentials(registry)

        return Session(reference, actions, credentials, self._pause)


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
    session: Session, blob: Descriptor, read: Callable[[str], Awaitable[bytes]]
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
            raise damaged(what)
        await _send(session, blob, content)

    await session.retry(once)


async def _send(session: Session, blob: Descriptor, content: bytes) -> None:
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
    session: Session, response: httpx2.Response, doing: str
) -> PenstockError | Again:
    status = response.status_code
    refusal = await session.refusal(response, doing)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return Again(refusal)  # it has lost track of the upload; a new one may go through
    return refusal


async def _put(session: Session, manifest: Manifest) -> bool:
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


async def _list(session: Session, subject: str, referrers: Sequence[Manifest]) -> None:
    """Add manifests to the list of what refers to a subject."""
    url = f"{session.url}/manifests/sha256-{subject}"
    what = f"the list of what refers to sha256:{subject}"
    for _ in range(TRIES):
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


class _Pull:
    """One pull, and how much it may still read."""

    def __init__(self, session: Session, most_bytes: int) -> None:
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
    ) -> Body | None:
        """Something whose size nobody said."""
        most = min(self._left, _MOST_MANIFEST)
        body = await self._session.fetch(url, what=what, most=most, digest=digest, only=only)
        self._left -= 0 if body is None else len(body.content)
        return body

    async def _exactly(self, folder: str, item: Descriptor, what: str) -> Body:
        """Something that a manifest names, already paid for."""
        url = f"{self._session.url}/{folder}/sha256:{item.digest}"
        body = await self._session.fetch(url, what=what, most=item.size, digest=item.digest)
        if body is None:
            raise NotFound(f"{what} is named in {self._session.reference}, but it is not there")
        if len(body.content) != item.size:
            raise damaged(what)
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


def _blobs(body: Body, what: str, *, subject: str | None = None) -> tuple[Descriptor, ...]:
    """The blobs of a manifest that must refer to ``subject``, if one is given."""
    found = _typed(body, MANIFEST, what)
    if subject is not None and read_subject(found, where=what) != subject:
        raise Invalid(f"{what} does not refer to sha256:{subject}, though it is listed there")
    return read_blobs(found, where=what)


def _index(body: Body, what: str) -> dict[str, Any]:
    return _typed(body, INDEX, what)


def _typed(body: Body, kind: str, what: str) -> dict[str, Any]:
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
