"""The world outside: a model provider and tools that write down every call they get, and when."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

CHUNKS = 6
CHUNK_SECONDS = 0.01


@dataclass
class Ledger:
    """What was asked of the provider and of the tools."""

    asked: defaultdict = field(default_factory=lambda: defaultdict(list))  # call → times it came in
    answered: defaultdict = field(default_factory=lambda: defaultdict(list))  # call → last bytes
    tools: defaultdict = field(default_factory=lambda: defaultdict(list))  # (task, tool) → times
    effects: defaultdict = field(default_factory=lambda: defaultdict(set))  # (task, tool) → keys
    seen: defaultdict = field(default_factory=lambda: defaultdict(list))  # task → (time, process)
    on_answer: Callable[[str], None] = lambda _: None  # called once a task's answer is out
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pid(self, task):
        """The process that was seen working on a task last."""
        with self.lock:
            return self.seen[task][-1][1] if self.seen[task] else None


class LedgerServer:
    """Serves a ledger on a port of this machine."""

    def __init__(self):
        self.ledger = Ledger()
        handler = type("Handler", (_Handler,), {"ledger": self.ledger})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    ledger: Ledger
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def handle(self):
        try:
            super().handle()
        except OSError:
            return  # whoever called was killed

    def do_GET(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        with self.ledger.lock:
            if url.path == "/hello":
                self.ledger.seen[query["task"]].append((time.time(), int(query["pid"])))
            elif url.path == "/effect":
                self.ledger.effects[query["task"], query["tool"]].add(query["key"])
            else:
                self.ledger.tools[query["task"], query["tool"]].append(time.time())
        self._send(b"{}", "application/json")
        if url.path != "/hello":
            self.ledger.on_answer(query["task"])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        call = body["messages"][-1]["content"]
        with self.ledger.lock:
            self.ledger.asked[call].append(time.time())
        words = [f"{call} word {number} " for number in range(CHUNKS)]
        if body.get("stream"):
            self._stream(words)
        else:
            time.sleep(CHUNK_SECONDS * CHUNKS)
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._send(
                json.dumps({**_BASE, "object": "chat.completion", "choices": [choice]}).encode(),
                "application/json",
            )
        with self.ledger.lock:
            self.ledger.answered[call].append(time.time())
        self.ledger.on_answer(call.split()[1])

    def _send(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, words):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for word in words:
            delta = {"index": 0, "finish_reason": None, "delta": {"content": word}}
            self._event({**_BASE, "object": "chat.completion.chunk", "choices": [delta]})
            time.sleep(CHUNK_SECONDS)
        end = {"index": 0, "finish_reason": "stop", "delta": {}}
        self._event({**_BASE, "object": "chat.completion.chunk", "choices": [end]})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


_BASE = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "ledger-2026-01-01",
    "usage": {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22},
}
