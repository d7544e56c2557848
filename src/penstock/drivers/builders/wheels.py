"""The wheels that install a lock on this platform, kept so that no package index is needed again.

uv resolves where the files are; they are fetched once, checked against the hashes in the lock, and
kept below one directory by content::

    wheels/<sha256>/<name>-<version>-<tags>.whl
    wheels/<lock>-<platform>.json              which of them a lock needs
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import msgspec
from packaging.markers import Marker
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from penstock.domain.errors import BuildFailed
from penstock.drivers.builders import Wheel, locks
from penstock.rules.releases import digest_bytes

_AT_ONCE = 8
_SECONDS = 120.0
_TRIES = 3
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Wheel, ...]).decode


class Wheels:
    """The wheels below one directory; several processes may add to it at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, wheel: Wheel) -> Path:
        """Where a wheel is, or would be."""
        return self._folder / wheel.digest / wheel.file

    def known(self, lock: str, platform: str) -> tuple[Wheel, ...] | None:
        """The wheels of a lock on a platform, if all of them are here."""
        try:
            wheels = _decode(self._index(lock, platform).read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return wheels if all(self.path(wheel).is_file() for wheel in wheels) else None

    def add(self, wheel: Wheel, content: bytes) -> None:
        """Keep a wheel.

        Raises:
            BuildFailed: it is not what its digest says, or not named as a wheel.
        """
        if digest_bytes(content) != wheel.digest:
            raise BuildFailed(f"{wheel.file} is not what its digest says ({wheel.digest})")
        _check_name(wheel.file)
        self._keep(wheel, content)

    def settle(self, lock: str, platform: str, wheels: Sequence[Wheel]) -> None:
        """Note which wheels a lock needs on a platform; they are all here."""
        ordered = sorted(wheels, key=lambda wheel: wheel.file)
        _write(self._index(lock, platform), _encode(ordered))

    async def gather(self, lock: str, platform: str) -> tuple[Wheel, ...]:
        """The wheels of a lock, fetched from the package index if they are not here.

        Raises:
            BuildFailed: one cannot be had, or is not what the lock says.
        """
        known = self.known(lock, platform)
        if known is not None:
            return known
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".gathering-") as name:
            packages = await _resolve(lock, Path(name))
            allowed = set(_HASH.findall(lock))
            gate = asyncio.Semaphore(_AT_ONCE)
            async with httpx2.AsyncClient(timeout=_SECONDS, follow_redirects=True) as client:

                async def one(package: Mapping[str, Any]) -> Wheel:
                    async with gate:
                        return await self._obtain(client, package, allowed, Path(name), platform)

                wheels = await asyncio.gather(*(one(package) for package in packages))
        self.settle(lock, platform, wheels)
        return tuple(sorted(wheels, key=lambda wheel: wheel.file))

    def verify(self, wheels: Sequence[Wheel]) -> None:
        """Check the wheels before they are installed.

        Raises:
            BuildFailed: one is damaged; it is removed, so that it is fetched again.
        """
        for wheel in wheels:
            path = self.path(wheel)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wheel.digest:
                shutil.rmtree(path.parent, ignore_errors=True)
                raise BuildFailed(
                    f"the wheel {wheel.file} (blob {wheel.digest}) is damaged",
                    hint="It has been removed; the next try fetches it again.",
                )

    # ------------------------------------------------------------ one package

    async def _obtain(
        self,
        client: httpx2.AsyncClient,
        package: Mapping[str, Any],
        allowed: set[str],
        folder: Path,
        platform: str,
    ) -> Wheel:
        chosen = _choose(package)
        if chosen is None:
            return await self._build(client, package, allowed, folder, platform)
        name, url, digest = chosen
        _expect(digest in allowed, name, "its hash is not in penstock.lock")
        wheel = Wheel(file=name, platform=platform, digest=digest, size=0)
        if not self.path(wheel).is_file():
            content = await _fetch(client, url, folder)
            self.add(wheel, content)
        return replace(wheel, size=self.path(wheel).stat().st_size)

    async def _build(
        self,
        client: httpx2.AsyncClient,
        package: Mapping[str, Any],
        allowed: set[str],
        folder: Path,
        platform: str,
    ) -> Wheel:
        """A wheel of a package that is published as source only."""
        name = f"{package['name']} {package.get('version', '')}".strip()
        source = package.get("sdist") or package.get("archive")
        _expect(source is not None, name, "it has no wheel for this platform and no source")
        assert source is not None
        digest = source["hashes"]["sha256"]
        _expect(digest in allowed, name, "its hash is not in penstock.lock")
        content = await _fetch(client, _location(source), folder)
        _expect(digest_bytes(content) == digest, name, "its source is not what the lock says")
        work = Path(tempfile.mkdtemp(dir=folder))
        file = work / _file_name(_location(source))
        file.write_bytes(content)
        await locks.run_uv(
            ["build", "--quiet", "--wheel", "--out-dir", str(work / "out"), str(file)],
            doing=f"{name} is published as source only and cannot be built",
            cwd=work,
        )
        (built,) = (work / "out").glob("*.whl")
        made = built.read_bytes()
        wheel = Wheel(file=built.name, platform=platform, digest=digest_bytes(made), size=len(made))
        self._keep(wheel, made)
        return wheel

    def _keep(self, wheel: Wheel, content: bytes) -> None:
        path = self.path(wheel)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)

    def _index(self, lock: str, platform: str) -> Path:
        return self._folder / f"{digest_bytes(lock.encode())[:24]}-{platform}.json"


async def _resolve(lock: str, folder: Path) -> list[Mapping[str, Any]]:
    """Every package of a lock that this platform needs, with where its files are."""
    file, found = folder / locks.NAME, folder / "pylock.toml"
    file.write_text(lock, encoding="utf-8")
    await locks.run_uv(
        [
            "pip", "compile", str(file), "--format", "pylock.toml", "--no-deps", "--universal",
            "--no-header", "--no-annotate", "--quiet", "--output-file", str(found),
        ],
        doing="the packages of penstock.lock cannot be found",
        cwd=folder,
    )  # fmt: skip
    packages: list[Mapping[str, Any]] = tomllib.loads(found.read_text()).get("packages", [])
    return [
        package
        for package in packages
        if "marker" not in package or Marker(package["marker"]).evaluate()
    ]


def _choose(package: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """File name, location and digest of the wheel that suits this interpreter best."""
    order = {tag: rank for rank, tag in enumerate(sys_tags())}
    best: tuple[int, str, str, str] | None = None
    for wheel in package.get("wheels", ()):
        name = wheel.get("name") or _file_name(_location(wheel))
        try:
            tags = parse_wheel_filename(name)[3]
        except InvalidWheelFilename:
            continue
        rank = min((order[tag] for tag in tags if tag in order), default=None)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, name, _location(wheel), wheel["hashes"]["sha256"])
    return None if best is None else best[1:]


async def _fetch(client: httpx2.AsyncClient, location: str, folder: Path) -> bytes:
    split = urlsplit(location)
    if split.scheme not in ("http", "https"):
        path = Path(unquote(split.path) if split.scheme == "file" else location)
        return await asyncio.to_thread((folder / path).read_bytes)
    for left in range(_TRIES, 0, -1):
        try:
            response = await client.get(location)
            response.raise_for_status()
            content: bytes = response.content
        except httpx2.HTTPError as error:
            if left == 1:
                raise BuildFailed(
                    f"{_file_name(location)} cannot be fetched: {error}",
                    hint="Is the package index reachable from the server?",
                ) from None
        else:
            return content
    raise AssertionError("unreachable")


def _location(file: Mapping[str, Any]) -> str:
    return str(file.get("url") or file.get("path"))


def _file_name(location: str) -> str:
    return unquote(urlsplit(location).path.rsplit("/", 1)[-1])


def _check_name(file: str) -> None:
    try:
        parse_wheel_filename(file)
    except InvalidWheelFilename:
        raise BuildFailed(f"{file!r} is no name of a wheel") from None
    if "/" in file or file.startswith("."):
        raise BuildFailed(f"{file!r} is no name of a wheel")


def _expect(holds: bool, name: str, otherwise: str) -> None:  # noqa: FBT001 - an assertion with words
    if not holds:
        raise BuildFailed(f"{name}: {otherwise}", hint="Compile the lock again: penstock release")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, also when two processes write the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)  # noqa: PTH105 - the same call, one import less to read
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - see above
        raise
