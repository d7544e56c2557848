"""An MCP server as a process, strict about the protocol and able to break it on demand.

``python mcp_server.py http CONFIG`` writes its port to its output; ``stdio`` speaks on its pipes.
CONFIG is a JSON file that is read anew for every request, so that a test changes what is offered
while the server runs; what arrived is appended to CONFIG.ledger before it is answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSIONS = ("2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
INFO = {"name": "crm", "version": "4.2.0"}


class McpServer:
    """The process, as a test sees it; ``set`` changes what it does from the next request on."""

    def __init__(self, folder: Path, **config):
        self.config_file = folder / "mcp.json"
        self.ledger_file = folder / "mcp.json.ledger"
        self._config = {}
        self.set(**config)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "http", str(self.config_file)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.port = int(self._process.stdout.readline())
        self.base = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.base}/mcp"

    def set(self, **config):
        self._config |= config
        made = self.config_file.with_suffix(".new")
        made.write_text(json.dumps(self._config))
        made.replace(self.config_file)

    @property
    def ledger(self):
        return read_ledger(self.ledger_file)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


def read_ledger(file: Path):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class State:
    """The configuration, the ledger and the sessions."""

    def __init__(self, config_file: str):
        self._file = Path(config_file)
        self._lock = threading.Lock()
        self.sessions: dict[str, dict] = {}

    @property
    def config(self):
        return json.loads(self._file.read_text())

    def note(self, **entry):
        with self._lock, Path(f"{self._file}.ledger").open("a") as ledger:
            ledger.write(json.dumps(entry) + "\n")


def error(number, code, message, data=None):
    found = {"code": code, "message": message} | ({"data": data} if data else {})
    return {"jsonrpc": "2.0", "id": number, "error": found}


def answer(message, config, session):
    """What a request is answered with; ``session`` remembers how far the opening has come."""
    number, method, params = message["id"], message["method"], message.get("params", {})
    try:
        return {"jsonrpc": "2.0", "id": number, "result": done(method, params, config, session)}
    except Refusal as refusal:
        return error(number, *refusal.args)


def done(method, params, config, session):
    if method == "initialize":
        return opened(params, config, session)
    if config.get("modern"):
        meta = params.get("_meta", {})
        if meta.get(META + "protocolVersion") != MODERN or META + "clientCapabilities" not in meta:
            raise Refusal(-32602, "the envelope is not complete")
    elif not session.get("initialized"):
        raise Refusal(-32600, "not initialized")
    if method == "server/discover" and config.get("modern"):
        about = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
        return about | {"resultType": "complete", "_meta": {META + "serverInfo": INFO}}
    if method != "tools/list":
        raise Refusal(-32601, f"no method {method}")
    if config.get("refusal"):
        raise Refusal(-32603, config["refusal"])
    return page(config, params.get("cursor"))


class Refusal(Exception):
    """Code, message and perhaps data."""


def opened(params, config, session):
    if config.get("modern"):
        raise Refusal(-32022, "Unsupported protocol version", {"supported": [MODERN]})
    asked = params["protocolVersion"]
    assert isinstance(params["capabilities"], dict)
    assert params["clientInfo"]["name"]
    session["version"] = config.get("version") or (asked if asked in VERSIONS else VERSIONS[-1])
    capabilities = {} if config.get("toolless") else {"tools": {}}
    about = {"protocolVersion": session["version"], "capabilities": capabilities}
    return about | {"serverInfo": config.get("info", INFO)}


def page(config, cursor):
    tools, size = config.get("tools", []), config.get("page", 1000)
    start = int(cursor or 0)
    found = {"tools": tools[start : start + size]}
    if config.get("loop"):
        return found | {"nextCursor": "0"}
    return found | ({"nextCursor": str(start + size)} if start + size < len(tools) else {})


# ---------------------------------------------------------------- streamable HTTP


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_):
        """The ledger says more."""

    def do_GET(self):
        config = self.state.config
        self.state.note(method="GET", path=self.path, headers=self._names())
        if self._fault(config):
            return
        if self.path != "/document" or "document" not in config:
            self._send(404, b"<html>nothing here</html>", "text/html")
            return
        self._send(200, config["document"].encode(), "application/yaml")

    def do_DELETE(self):
        session = self.headers.get("mcp-session-id")
        self.state.note(method="DELETE", headers=self._names())
        if self.state.config.get("keeps_sessions"):
            self._send(405)
        else:
            self._send(200 if self.state.sessions.pop(session, None) is not None else 404)

    def do_POST(self):
        config = self.state.config
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method = message["method"]
        self.state.note(method=method, headers=self._names(), params=message.get("params"))
        if config.get("fault_at", method) == method and self._fault(config):
            return
        accepts = self.headers.get("accept", "")
        if "application/json" not in accepts or "text/event-stream" not in accepts:
            self._send(406)
            return
        if config.get("modern"):
            version = self.headers.get("mcp-protocol-version")
            if method != "initialize" and (
                version != MODERN or self.headers.get("mcp-method") != method
            ):
                self._json(400, error(message.get("id"), -32020, "headers do not match"))
                return
            self._reply(config, answer(message, config, {}), {})
            return
        if method == "initialize":
            name = secrets.token_hex(8)
            session = self.state.sessions[name] = {}
            headers = {} if config.get("sessionless") else {"Mcp-Session-Id": name}
            if config.get("sessionless"):
                self.state.sessions[None] = session
            self._reply(config, answer(message, config, session), headers)
            return
        session = self.state.sessions.get(self.headers.get("mcp-session-id"))
        if session is None:
            self._send(404)
        elif self.headers.get("mcp-protocol-version") != session["version"]:
            self._send(400)
        elif method == "notifications/initialized":
            session["initialized"] = True
            self._send(202)
        else:
            self._reply(config, answer(message, config, session), {})

    def _fault(self, config):
        match config.get("fault"):
            case None:
                return False
            case "hang":
                threading.Event().wait()
            case "cut":
                self.send_response(200)
                self.send_header("Content-Type", config.get("kind", "application/json"))
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'data: {"json')
                self.close_connection = True
            case "early":
                self._send(200, b": nothing follows\n\n", "text/event-stream")
            case "huge":
                self._huge()
            case "gzip":
                self._send(200, b"{}", "application/json", {"Content-Encoding": "gzip"})
            case "moved":
                self._send(307, b"", headers={"Location": config["to"]})
            case int(status):
                self._send(status, config.get("text", "").encode(), "text/html")
            case text:
                self._send(200, text.encode(), config.get("kind", "application/json"))
        return True

    def _huge(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(b"data: " + b" " * 65536)
        self.close_connection = True

    def _reply(self, config, message, headers):
        if config.get("answers") != "sse":
            self._json(400 if "error" in message else 200, message, headers)
            return
        notice = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        lines = json.dumps(message, indent=1, ensure_ascii=False).splitlines()
        text = f"\ufeffid: 1\ndata:\n\n: a comment\r\nevent: message\r\ndata: {notice}\r\n\r\n"
        text += "event: message\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
        data = text.encode()
        for start in range(0, len(data), 7):  # no piece is a whole line, some end inside a letter
            self.wfile.write(data[start : start + 7])
        self.close_connection = True
        if config.get("stays_open"):
            self.wfile.flush()
            threading.Event().wait()

    def _json(self, status, message, headers=None):
        self._send(status, json.dumps(message).encode(), "application/json", headers)

    def _send(self, status, content=b"", kind=None, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _names(self):
        return {name.lower(): value for name, value in self.headers.items()}


def serve_http(state):
    Handler.state = state
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


# ---------------------------------------------------------------- pipes


def serve_pipes(state):
    session: dict = {}
    fault = state.config.get("fault")
    child = subprocess.Popen(["sleep", "1000"]) if fault == "child" else None
    state.note(environment=dict(os.environ), child=child and child.pid, pid=os.getpid())
    for line in sys.stdin:
        message = json.loads(line)
        state.note(method=message.get("method"))
        if fault == "hang":
            continue
        misbehave(fault, state)
        fault = None
        if message["method"] == "notifications/initialized":
            session["initialized"] = True
        elif "id" in message:
            say(answer(message, state.config, session))
    if child:
        threading.Event().wait()  # it does not end when its pipe is closed


def misbehave(fault, state):
    match fault:
        case "exit":
            print("no database here", file=sys.stderr, flush=True)
            sys.exit(3)
        case "chatter":
            print("Server ready!", flush=True)
        case "huge":
            print("x" * (9 << 20), flush=True)
        case "ping":
            for method in ("ping", "roots/list"):
                say({"jsonrpc": "2.0", "id": method, "method": method})
                state.note(reply=json.loads(sys.stdin.readline()))


def say(message):
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    kind, config_file = sys.argv[1:]
    (serve_http if kind == "http" else serve_pipes)(State(config_file))
