"""One process that runs a graph on one kind of checkpointer; started by ``checkpoints.py``.

It runs in the environment of the peer, with Penstock's agent-side half from the path it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import operator
import os
import random
import socket
import sys
import time
from typing import Annotated, Any, TypedDict

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

WORDS = [f"{number:x}" for number in range(3000, 5000)]


def text(seed: int) -> str:
    """A kilobyte of words."""
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(205))


def build(steps: int, *, chat: bool) -> Any:
    """A graph that adds a message of a kilobyte in each of its steps."""
    from langchain_core.messages import AIMessage  # noqa: PLC0415 - of this environment
    from langgraph.graph import END, START, MessagesState, StateGraph  # noqa: PLC0415 - as above

    if chat:

        async def speak(state: dict[str, Any]) -> dict[str, Any]:
            number = len(state["messages"])
            return {"messages": [AIMessage(text(number), id=f"m{number}")]}

        graph = StateGraph(MessagesState)
        graph.add_node("speak", speak)
        graph.add_edge(START, "speak")
        graph.add_conditional_edges(
            "speak", lambda state: "speak" if len(state["messages"]) <= steps else END
        )
        return graph

    state: Any = TypedDict("State", {"items": Annotated[list, operator.add]})

    async def add(state: dict[str, Any]) -> dict[str, Any]:
        return {"items": [text(len(state["items"]))]}

    graph = StateGraph(state)
    names = [START, *(f"n{number}" for number in range(steps)), END]
    for name in names[1:-1]:
        graph.add_node(name, add)
    for first, second in itertools.pairwise(names):
        graph.add_edge(first, second)
    return graph


async def run(options: argparse.Namespace, saver_of: Any) -> None:
    """Warm up, then run; the driver is told when."""
    given: Any = {"messages": [("user", text(0))]} if options.chat else {"items": []}
    builder = build(options.steps, chat=options.chat)

    async def one(number: int) -> None:
        graph = builder.compile(checkpointer=saver_of(number))
        config = {"configurable": {"thread_id": f"ses_{number}"}, "recursion_limit": 1000}
        await graph.ainvoke(given, config, durability="sync")

    for number in range(options.warm):
        await one(number)
    mark("begin")
    begun = time.process_time()
    for number in range(options.warm, options.warm + options.threads):
        await one(number)
    mark(json.dumps({"cpu": time.process_time() - begun}))


def mark(line: str) -> None:
    """Say where this process is, and wait until the driver has looked."""
    print(line, flush=True)
    sys.stdin.readline()


async def main() -> None:
    """Run on the checkpointer that was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("saver", choices=["memory", "peer", "penstock"])
    parser.add_argument("--where", default="")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--chat", action="store_true")
    options = parser.parse_args()
    if options.saver == "memory":
        from langgraph.checkpoint.memory import InMemorySaver  # noqa: PLC0415 - of the peer

        saver = InMemorySaver()
        await run(options, lambda _: saver)
    elif options.saver == "peer":
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415 - as above

        async with AsyncPostgresSaver.from_conn_string(options.where) as peer:
            await peer.setup()
            await run(options, lambda _: peer)
    else:
        from penstock.inside.attempts import Attempt  # noqa: PLC0415 - from the path
        from penstock.inside.channel import Channel  # noqa: PLC0415 - as above
        from penstock.inside.frameworks.langgraph_saver import PenstockSaver  # noqa: PLC0415

        channel = Channel(socket.socket(fileno=int(options.where)))
        channel.start(lambda _: None)
        prepared = PenstockSaver()

        def of(number: int) -> Any:
            order = {"a": number, "task": f"task_{number}", "session": f"ses_{number}"}
            return prepared.of(Attempt(order, channel, on_stale=lambda: None))

        await run(options, of)


asyncio.run(main())
