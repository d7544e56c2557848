"""Where releases are shared with other installations: registries that speak OCI distribution.

A registry keeps blobs by digest, and manifests by digest and tag. A manifest that names another one
as its ``subject`` refers to it; that is how provenance and a bill of materials travel beside a
release. What a registry says is data from a stranger: it is measured and checked here before
anything is asked for by what it names.

A digest is sha256 in lower-case hex; only in text and on the wire it begins with ``sha256:``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from penstock.domain.errors import Invalid
from penstock.rules.artifacts import INDEX, MANIFEST, Descriptor

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_MOST_NAME = 255  # characters of registry and repository together, as registries limit it
_MOST_PORT = 65535

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::([0-9]{{1,5}}))?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_EXAMPLE = "Write it like registry.example:5000/team/support:v3 or …/support@sha256:…"

_decode = msgspec.json.Decoder().decode


# ---------------------------------------------------------------- references


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A place in a registry; :func:`parse_reference` makes it from text."""

    registry: str  # host, with :port where there is one
    repository: str
    tag: str | None
    digest: str | None  # where both are there, the digest is what counts
    plain: bool  # HTTP without TLS

    @property
    def url(self) -> str:
        """Where the repository is."""
        return f"{'http' if self.plain else 'https'}://{self.registry}/v2/{self.repository}"

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@sha256:{self.digest}"
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str, *, insecure: bool = False) -> Reference:
    """A reference as people write it: ``registry.example:5000/team/support:v3``, ``…@sha256:…``.

    Args:
        text: names the registry, the repository, and a tag or a digest.
        insecure: use plain HTTP; a registry on this machine is always spoken to in plain HTTP.

    Raises:
        Invalid: it is no reference; says which part is wrong.
    """

    def wrong(why: str) -> Invalid:
        return Invalid(f"{text!r:.300} is no reference: {why}", hint=_EXAMPLE)

    if "://" in text:
        raise wrong("it begins with a scheme")
    registry, slash, rest = text.partition("/")
    host = _HOST.fullmatch(registry)
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        raise wrong("it does not begin with a registry's host")
    if host is None or (host[2] and not 0 < int(host[2]) <= _MOST_PORT):
        raise wrong(f"{registry!r} is no host with an optional port")
    rest, at, digest = rest.partition("@")
    named = _DIGEST.fullmatch(digest)
    if at and named is None:
        raise wrong("the digest is not sha256: and 64 hex digits in lower case")
    repository, colon, tag = rest.partition(":")
    if colon and not is_tag(tag):
        raise wrong(f"{tag!r} is no tag")
    if not _REPOSITORY.fullmatch(repository) or len(registry) + len(repository) >= _MOST_NAME:
        raise wrong(f"{repository!r} is no repository's name, which is in lower case")
    if not colon and named is None:
        raise wrong("it has neither a tag nor a digest")
    return Reference(
        registry=registry,
        repository=repository,
        tag=tag if colon else None,
        digest=None if named is None else named[1],
        plain=insecure or is_loopback(host[1]),
    )


def is_tag(text: str) -> bool:
    """Whether a registry takes a text as a tag."""
    return _TAG.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that nobody else hears what is said to it."""
    return host.lower() in _LOOPBACK


# ---------------------------------------------------------------- what is sent and received


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A manifest to be pushed."""

    content: bytes
    media_type: str
    tag: str | None = None
    subject: str | None = None  # digest of the manifest it refers to; ``content`` says the same
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What the registry will know it as."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrer:
    """A manifest that refers to a pulled one."""

    digest: str
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """What a reference names, every byte of it checked."""

    digest: str
    content: bytes  # of the manifest
    referrers: tuple[Referrer, ...]  # in the order of their digests


class Registry(Protocol):
    """Takes and gives releases."""

    async def push(
        self,
        reference: Reference,
        *,
        manifests: Sequence[Manifest],
        read: Callable[[str], Awaitable[bytes]],
    ) -> str:
        """Send manifests and the blobs they name; what is there already is not sent again.

        The manifests go in their order, those with a tag after the others: nobody finds by its tag
        what is not there yet.

        Args:
            reference: names the repository; its tag and its digest must be those of a manifest.
            manifests: what to send.
            read: the content of a blob by its digest.

        Returns:
            The digest of the manifest with a tag; where none has one, of the first.

        Raises:
            Invalid: what is sent contradicts itself, or the registry refuses it.
            NotFound: there is no such repository.
            Conflict: others change the list of what refers to a manifest all the time.
            Unavailable: the registry does not answer, or does not let us in.
        """
        ...

    async def pull(
        self,
        reference: Reference,
        *,
        keep: Callable[[str, bytes], Awaitable[None]],
        most_bytes: int,
    ) -> Pulled:
        """Fetch a manifest, what refers to it, and every blob that they name.

        Args:
            reference: names the manifest.
            keep: takes a blob by its digest; called once for each, when it has been checked. A
                few calls may run at the same time.
            most_bytes: of manifests, lists and blobs together.

        Raises:
            Invalid: something is not what its digest or size says, is of an unknown kind, or is
                too large; names the blob.
            NotFound: there is no such thing.
            Unavailable: the registry does not answer, or does not let us in.
        """
        ...


# ---------------------------------------------------------------- reading


def read_json(content: bytes, *, where: str) -> dict[str, Any]:
    """A JSON document of OCI's.

    Args:
        content: the document.
        where: names it in errors.

    Raises:
        Invalid: it is none.
    """
    try:
        found = _decode(content)
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schemaVersion") != 2:  # noqa: PLR2004 - OCI's
        raise Invalid(f"{where} is no OCI manifest")
    return found


def read_blobs(found: Mapping[str, Any], *, where: str) -> tuple[Descriptor, ...]:
    """The blobs that a manifest names, its config first; none for an index.

    Raises:
        Invalid: it is of an unknown kind, or names one in a way that cannot be used.
    """
    kind = found.get("mediaType")
    if kind == INDEX:
        return ()
    if kind != MANIFEST:
        raise Invalid(
            f"{where} is a {kind!r:.100}, which is not known", hint=f"It should be {MANIFEST}."
        )
    layers = found.get("layers")
    if not isinstance(layers, list):
        raise Invalid(f"{where} has no list of layers")
    return tuple(read_descriptor(item, where=where) for item in (found.get("config"), *layers))


def read_descriptor(found: Any, *, where: str) -> Descriptor:
    """How a document names a blob or a manifest.

    Raises:
        Invalid: it is no descriptor, or its digest is not sha256.
    """
    if isinstance(found, dict):
        kind, size = found.get("mediaType"), found.get("size")
        digest = _DIGEST.fullmatch(str(found.get("digest")))
        if isinstance(kind, str) and type(size) is int and size >= 0 and digest is not None:
            return Descriptor(media_type=kind, digest=digest[1], size=size)
    raise Invalid(f"{where} names something without a kind, a size and a sha256: {found!r:.200}")


def read_subject(found: Mapping[str, Any], *, where: str) -> str | None:
    """The digest of what a manifest refers to.

    Raises:
        Invalid: it names it in a way that cannot be used.
    """
    subject = found.get("subject")
    return None if subject is None else read_descriptor(subject, where=where).digest


# ---------------------------------------------------------------- credentials


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Who we are to one registry."""

    user: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """As the ``Authorization`` header says it."""
        text = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(text).decode('ascii')}"


async def docker_credentials(registry: str, *, folder: Path | None = None) -> Credentials | None:
    """What ``docker login`` noted for a registry in ``config.json``, if anything.

    Args:
        registry: host, with :port where there is one.
        folder: where the file is; by default ``DOCKER_CONFIG``, or ``~/.docker``.

    Raises:
        Invalid: the file is there and cannot be used.
    """
    named = os.environ.get("DOCKER_CONFIG")
    folder = folder or (Path(named) if named else Path.home() / ".docker")
    file = folder / "config.json"
    try:
        found = _decode(await asyncio.to_thread(file.read_bytes))
        auths = found.get("auths") or {}
        for key, entry in auths.items():
            host, _, path = key.removeprefix("https://").removeprefix("http://").partition("/")
            if host == registry and path.strip("/") in ("", "v1", "v2"):
                return _entry(entry)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError):
        # What is wrong is left out: it may quote a password.
        raise Invalid(
            f"{file} is not what docker writes, as far as {registry} is concerned",
            hint=f"Log in again: docker login {registry}",
        ) from None
    return None


def _entry(entry: Mapping[str, Any]) -> Credentials | None:
    user, password = entry.get("username"), entry.get("password")
    if auth := entry.get("auth"):
        user, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
    if not user or not password:
        return None  # a program keeps them, which only docker can ask
    return Credentials(user=str(user), password=str(password).strip("\0"))
