"""Registries for tests: a real one in a process of its own, and one that does as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import yaml

USER, PASSWORD = "release", "correct horse"
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"


class RegistryProcess:
    """``docker-registry`` of the distribution (OCI distribution 1.0) on a storage of its own."""

    def __init__(self, folder: Path, *, guarded=False):
        """Start it; ``guarded`` lets in nobody but ``USER`` with ``PASSWORD``."""
        program = shutil.which("docker-registry")
        assert program, "docker-registry is missing: apt-get install docker-registry"
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = folder / "storage"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.name = f"127.0.0.1:{probe.getsockname()[1]}"
        config = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.name, "secret": "of a test"},
        }
        if guarded:
            (folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        self._log = folder / "registry.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", folder / "config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._await_answer()

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def blob(self, digest: str) -> Path:
        """Where it keeps the content with a digest."""
        folder = self.storage / "docker/registry/v2/blobs/sha256" / digest[:2] / digest
        return folder / "data"

    def methods(self) -> Counter[str]:
        """How often it was asked with each HTTP method, by its own log."""
        log = self._log.read_text(errors="replace")
        return Counter(
            method for method in ("POST", "PATCH", "PUT") for _ in range(log.count(f'"{method} '))
        )

    def _await_answer(self, seconds=30):
        until = time.monotonic() + seconds
        while True:
            assert self._process.poll() is None, self._log.read_text(errors="replace")[-3000:]
            try:
                httpx2.get(f"http://{self.name}/v2/", trust_env=False)
            except httpx2.TransportError:
                assert time.monotonic() < until
                time.sleep(0.02)
            else:
                return


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    content: bytes


@dataclass
class Told:
    """An answer; without a status the connection is cut instead."""

    status: int | None = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class FakeRegistry:
    """A registry in memory (OCI distribution 1.1) on a port of its own.

    ``before`` sees every request first and may answer it in the registry's place.
    """

    def __init__(self):
        self.asked: list[Asked] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # name → media type, content
        self.before: Callable[[Asked], Told | None] = lambda _: None
        self.page = 1  # referrers on a page
        self._uploads: dict[str, bytes] = {}
        self._server = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.name = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"http://{self.name}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    def count(self, *methods: str) -> int:
        return sum(asked.method in methods for asked in self.asked)

    def add(self, content: bytes, kind: str, tag: str | None = None) -> str:
        """Keep a manifest, as if somebody had pushed it."""
        digest = hashlib.sha256(content).hexdigest()
        for name in (f"sha256:{digest}", tag or f"sha256:{digest}"):
            self.manifests[name] = (kind, content)
        return digest

    # ------------------------------------------------------------ HTTP

    async def _serve(self, reader, writer):
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split(" ")
                headers = {}
                while (line := await reader.readline()) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                split = urlsplit(target)
                query = {name: values[-1] for name, values in parse_qs(split.query).items()}
                asked = Asked(method, split.path, query, headers, content)
                self.asked.append(asked)
                told = self.before(asked) or self._answer(asked)
                if told.status is None:
                    break
                writer.write(_head(told) + (b"" if method == "HEAD" else told.content))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, asked: Asked) -> Told:
        _, _, rest = asked.path.partition("/v2/")
        if "/blobs/uploads" in rest:
            return self._upload(asked)
        if "/blobs/" in rest:
            return _found(self.blobs.get(rest.rsplit("/", 1)[1]), "application/octet-stream")
        if "/manifests/" in rest:
            return self._manifest(asked, rest.rsplit("/", 1)[1])
        if "/referrers/" in rest:
            return self._referrers(asked, rest.rsplit("/", 1)[1])
        return Told(404)

    def _upload(self, asked: Asked) -> Told:
        name = asked.path.rsplit("/", 1)[1]
        if asked.method == "POST":
            name = f"u{len(self._uploads)}"
            self._uploads[name] = b""
            location = f"{asked.path}{name}?state=1"
            return Told(202, headers={"location": location})
        if asked.method == "PATCH":
            first, _, last = asked.headers["content-range"].partition("-")
            if int(first) != len(self._uploads[name]):
                return Told(416)
            self._uploads[name] += asked.content
            assert len(self._uploads[name]) == int(last) + 1
            return Told(202, headers={"location": f"{self.url}{asked.path}"})
        content = self._uploads.pop(name) + asked.content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest != asked.query["digest"]:
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs[digest] = content
        return Told(201)

    def _manifest(self, asked: Asked, name: str) -> Told:
        if asked.method == "PUT":
            digest = self.add(asked.content, asked.headers["content-type"], name)
            subject = json.loads(asked.content).get("subject")
            headers = {"docker-content-digest": f"sha256:{digest}"}
            if subject is not None:
                headers["oci-subject"] = subject["digest"]
            return Told(201, headers=headers)
        kind, content = self.manifests.get(name, ("", None))
        return _found(content, kind)

    def _referrers(self, asked: Asked, subject: str) -> Told:
        entries = {}
        for kind, content in self.manifests.values():
            if (json.loads(content).get("subject") or {}).get("digest") == subject:
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                entries[digest] = {"mediaType": kind, "digest": digest, "size": len(content)}
        start = int(asked.query.get("from", 0))
        page = list(entries.values())[start : start + self.page]
        told = Told(content=index(page), headers={"content-type": INDEX})
        if start + self.page < len(entries):
            told.headers["link"] = f'<{asked.path}?from={start + self.page}>; rel="next"'
        return told


INDEX = "application/vnd.oci.image.index.v1+json"


def index(entries: list[dict]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def error(status: int, code: str, message: str, **headers: str) -> Told:
    content = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Told(status, content, {name.replace("_", "-"): text for name, text in headers.items()})


def _found(content: bytes | None, kind: str) -> Told:
    if content is None:
        return error(404, "UNKNOWN", "no such thing")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Told(content=content, headers={"content-type": kind, "docker-content-digest": digest})


def _head(told: Told) -> bytes:
    lines = [f"HTTP/1.1 {told.status} X", f"content-length: {len(told.content)}"]
    lines += [f"{name}: {value}" for name, value in told.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
