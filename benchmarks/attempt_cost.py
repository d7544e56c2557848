"""What one isolated attempt costs: fork to first model call, CPU, wall clock and private memory.

    python benchmarks/attempt_cost.py [--python ENV/bin/python] [--runs 30] [--ready]

A process is ready when the first line of the agent's own code runs in it, measured from the wish
for an attempt; its private memory is what nobody shares with it at that moment.

Starts a zygote of a 3-node LangGraph graph that makes two calls with the OpenAI SDK against a fake
server, warms it with the modules of its first attempt, and forks attempts one after the other.
``ENV`` needs langgraph and openai. Everything is measured from outside of the attempt's process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).resolve().parents[1] / part) for part in ("tests/integration", "src")
]

from zygote_harness import ZygoteProcess  # noqa: E402 - found by the path above

NOOP = "def agent(given):\n    return given\n"

GRAPH = """
from typing import TypedDict
import os
from langgraph.graph import END, START, StateGraph
from openai import OpenAI
{at_import}

class State(TypedDict):
    question: str
    plan: str
    answer: str

def ask(text):
    {in_node}
    reply = client.chat.completions.create(
        model="main", messages=[{{"role": "user", "content": text}}], temperature=0)
    return reply.choices[0].message.content

def plan(state):
    return {{"plan": ask(state["question"])}}

def look(state):
    return {{"answer": state["plan"]}}

def answer(state):
    return {{"answer": ask(state["answer"])}}

graph = StateGraph(State)
graph.add_node("plan_node", plan)
graph.add_node("look", look)
graph.add_node("answer_node", answer)
graph.add_edge(START, "plan_node")
graph.add_edge("plan_node", "look")
graph.add_edge("look", "answer_node")
graph.add_edge("answer_node", END)
graph = graph.compile()
"""

CLIENT = "client = OpenAI()"

# The first thing that the agent's own code does: note the time, and let us look at the process.
READY = """
import time
from penstock import step
{more}

def agent(given):
    now = time.perf_counter()
    return step("here", float, now)
"""

READY_GRAPH = """
import time
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
from openai import OpenAI
from penstock import step

client = OpenAI()

class State(TypedDict, total=False):
    question: str
    now: float

def first(state):
    now = time.perf_counter()
    step("here", float, now)
    return {"now": now}

graph = StateGraph(State)
graph.add_node("first", first)
graph.add_edge(START, "first")
graph.add_edge("first", END)
graph = graph.compile()
"""

REPLY = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "ok"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}  # fmt: skip


class Provider(BaseHTTPRequestHandler):
    """Answers every call, and remembers when each arrived and how much CPU the caller had used."""

    protocol_version = "HTTP/1.1"
    calls: list[tuple[float, float, float]] = []  # noqa: RUF012 - one server, one list
    caller = 0
    wbufsize = -1  # head and body in one packet

    def do_POST(self) -> None:
        """A chat completion."""
        self.rfile.read(int(self.headers["content-length"]))
        Provider.calls.append(
            (time.perf_counter(), cpu_ms(Provider.caller), private_mb(Provider.caller))
        )
        body = json.dumps(REPLY).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self._headers_buffer.append(b"\r\n")
        body = b"".join(self._headers_buffer) + body
        self._headers_buffer = []
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def cpu_ms(pid: int) -> float:
    """CPU a process has used, by its kernel clock."""
    return time.clock_gettime((~pid << 3) | 2) * 1000


def private_mb(pid: int) -> float:
    """Memory only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure(zygote: ZygoteProcess, given: object, runs: int) -> list[dict[str, float]]:
    """Fork, run, and look from outside, ``runs`` times."""
    rows = []
    for _ in range(runs):
        Provider.calls.clear()
        started = time.perf_counter()
        child = zygote.fork()
        Provider.caller = child.pid
        row = {"fork ms": child.fork_us / 1000}
        child.order(given)
        seen = {}

        def look(header: dict[str, object], child=child, seen=seen) -> None:  # noqa: ANN001
            if header["t"] == "finish":
                seen["done wall ms"] = (time.perf_counter() - started) * 1000  # noqa: B023
                with contextlib.suppress(OSError):
                    seen["private MB"] = private_mb(child.pid)

        frames = child.serve(on_frame=look)
        result = child.result(frames)
        assert result.finish["ok"], (result.finish, result.stderr)
        if Provider.calls:
            row["1st call wall ms"] = (Provider.calls[0][0] - started) * 1000
            row["1st call CPU ms"] = Provider.calls[0][1]
            row["private MB at last call"] = Provider.calls[-1][2]
        row |= seen
        row["total CPU ms"] = result.exited["cpu_us"] / 1000
        row["late modules"] = len(result.of("modules")[0]["names"]) if result.of("modules") else 0
        rows.append(row)
    return rows


def measure_ready(zygote: ZygoteProcess, given: object, runs: int) -> list[dict[str, float]]:
    """From the wish for an attempt to the first line of the agent's code, ``runs`` times."""
    rows = []
    for _ in range(runs):
        held: list[float] = []
        started = time.perf_counter()
        child = zygote.fork()
        child.order(given)

        def look(header: dict[str, object], child=child, held=held) -> None:  # noqa: ANN001
            if header["t"] == "call" and header["op"] == "step.commit":
                held += [private_mb(child.pid), cpu_ms(child.pid), float(header["output"])]  # type: ignore[arg-type]

        child.result(child.serve(on_frame=look))
        private, cpu, now = held
        row = {"ready ms": (now - started) * 1000, "CPU ms": cpu, "private MB": private}
        rows.append(row)
    return rows


def show_ready(title: str, rows: list[dict[str, float]]) -> None:
    """Median and 95th percentile of the time, medians of the rest."""
    times = sorted(row["ready ms"] for row in rows)
    late = times[min(len(times) - 1, int(len(times) * 0.95))]
    private = statistics.median(row["private MB"] for row in rows)
    cpu = statistics.median(row["CPU ms"] for row in rows)
    print(
        f"process ready, {title:19s} p50 {statistics.median(times):.2f} ms  p95 {late:.2f} ms"
        f"  CPU {cpu:.2f} ms  private {private:.2f} MB"
    )


def show(title: str, rows: list[dict[str, float]]) -> None:
    """The medians."""
    keys = {key: None for row in rows for key in row}
    parts = [
        f"{key} {statistics.median(row[key] for row in rows if key in row):.2f}" for key in keys
    ]
    print(f"{title:34s} " + "  ".join(parts))


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--python", default=sys.executable)
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--ready", action="store_true", help="only how soon a process is ready")
    options = arguments.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/gateway"
    env = {
        "OPENAI_BASE_URL": f"{base}/openai/v1",
        "OPENAI_API_KEY": "penstock",
        "PENSTOCK_GATEWAY": base,
    }
    asked = {"question": "q"}
    in_async = (
        GRAPH.replace("def ", "async def ")
        .replace("OpenAI", "AsyncOpenAI")
        .replace("client.chat", "await client.chat")
        .replace("ask(state", "await ask(state")
        .format(at_import="client = AsyncOpenAI()", in_node="pass")
    )
    sources = {
        "noop": (NOOP, "agent", "x"),
        "graph, client at import": (
            GRAPH.format(at_import=CLIENT, in_node="pass"),
            "graph",
            asked,
        ),
        "graph, client in each node": (
            GRAPH.format(at_import="", in_node=CLIENT),
            "graph",
            asked,
        ),
        "async graph, client at import": (in_async, "graph", asked),
    }
    ready = {
        "plain": (READY.format(more=""), "agent", "x"),
        "plain with langgraph": (READY.format(more="import langgraph.graph, openai"), "agent", "x"),
        "graph": (READY_GRAPH, "graph", asked),
    }
    with tempfile.TemporaryDirectory() as folder:
        for title, (source, name, given) in ready.items():
            (Path(folder) / "agent.py").write_text(source)
            zygote = ZygoteProcess(folder, f"agent:{name}", python=options.python, env=env)
            try:
                assert zygote.first["t"] == "ready", zygote.first
                measure_first(zygote, given)
                show_ready(title, measure_ready(zygote, given, options.runs))
            finally:
                zygote.close()
        if options.ready:
            return
        for title, (source, name, given) in sources.items():
            (Path(folder) / "agent.py").write_text(source)
            zygote = ZygoteProcess(folder, f"agent:{name}", python=options.python, env=env)
            try:
                assert zygote.first["t"] == "ready", zygote.first
                seconds = zygote.first["seconds"]
                first = measure_first(zygote, given)
                show(f"{title} (zygote {seconds:.2f} s), 1st", first)
                show(f"{title}, warmed", measure(zygote, given, options.runs))
            finally:
                zygote.close()


def measure_first(zygote: ZygoteProcess, given: object) -> list[dict[str, float]]:
    """The first attempt; the modules it loads warm the zygote."""
    names: list[str] = []
    child = zygote.fork()
    Provider.caller = child.pid
    child.order(given)
    result = child.result(child.serve())
    for frame in result.of("modules"):
        names += frame["names"]
    zygote.link.send({"t": "warm", "modules": names})
    warmed = zygote.await_frame("warmed")
    return [{"total CPU ms": result.exited["cpu_us"] / 1000, "modules warmed": warmed["imported"]}]


if __name__ == "__main__":
    main()
