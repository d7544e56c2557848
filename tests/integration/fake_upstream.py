"""An OpenAI-compatible server with scripted faults and a ledger of what reached it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Step:
    """What the server does with one request."""

    kind: str = "ok"  # ok | status | hang | cut | junk | close | early_error | no_done
    text: str = "hello from upstream"
    status: int = 200
    delay: float = 0.0  # before each piece
    headers: dict[str, str] = field(default_factory=dict)


class Upstream:
    """Speaks just enough HTTP/1.1; each request takes the next step of the script."""

    def __init__(self, *steps: Step) -> None:
        self.script = deque(steps)
        self.ledger: list[dict[str, Any]] = []
        self.connections = 0
        self.broken = 0  # requests whose client went away before the end
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    def drop(self) -> None:
        """Close every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.ledger.append({"line": lines[0], "headers": headers, "body": body})
                step = self.script.popleft() if self.script else Step()
                if not await self._act(step, body, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _act(  # noqa: PLR0911 - a script has many endings
        self, step: Step, body: Any, reader: Any, writer: Any
    ) -> bool:
        if step.kind == "close":
            return False
        if step.kind == "hang":
            await reader.read(1)  # until the client leaves
            self.broken += 1
            return False
        if step.kind == "status":
            content = json.dumps({"error": {"message": f"scripted {step.status}"}}).encode()
            _head(writer, step.status, len(content), step.headers)
            writer.write(content)
            return True
        if step.kind == "junk":
            _head(writer, 200, 2, {})
            writer.write(b"{}")
            return True
        if body.get("stream"):
            return await self._stream(step, body, reader, writer)
        await asyncio.sleep(step.delay)
        content = json.dumps(completion(step.text, body["model"])).encode()
        if step.kind == "cut":
            _head(writer, 200, len(content) + 10, {})
            writer.write(content)
            return False
        _head(writer, 200, len(content), {})
        writer.write(content)
        return True

    async def _stream(self, step: Step, body: Any, reader: Any, writer: Any) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        leaving = asyncio.ensure_future(reader.read(1)) if step.delay else None
        words = step.text.split(" ")
        chunks: list[Any] = [{"role": "assistant", "content": ""}]
        chunks += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
        for number, delta in enumerate(chunks):
            if step.kind == "early_error" and number == 1:
                _chunk(writer, event({"error": {"message": "scripted error"}}))
                return False
            if step.kind == "cut" and number == 3:
                return False
            _chunk(writer, event(chunk(body["model"], delta)))
            if leaving is not None:
                done, _ = await asyncio.wait((leaving,), timeout=step.delay)
                if done:
                    self.broken += 1
                    return False
        if step.kind == "no_done":
            writer.write(b"0\r\n\r\n")
            return True
        _chunk(writer, event(chunk(body["model"], {}, finish="stop")))
        if (body.get("stream_options") or {}).get("include_usage"):
            _chunk(writer, event({"choices": [], "model": body["model"], "usage": usage()}))
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        if leaving is not None:
            leaving.cancel()
            return False
        return True


def usage() -> dict[str, Any]:
    return {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "total_tokens": 110,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def completion(text: str, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{model}-returned",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage(),
    }


def chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": f"{model}-returned",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _head(writer: asyncio.StreamWriter, status: int, size: int, headers: dict[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
