"""An MCP server over stdio, made with the official SDK, that writes down every call of its tools.

``python mcp_ledger.py LEDGER`` serves; each line of LEDGER is a tool, and the key it was called under.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

KEY = "penstock/idempotency-key"

server = MCPServer("ledger")


def used(tool: str, context: Context) -> None:
    key = (context.request_context.meta or {}).get(KEY)
    with Path(sys.argv[1]).open("a") as ledger:
        ledger.write(f"{tool} {key}\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look(number: int, context: Context) -> str:
    """Look something up."""
    used("look", context)
    return f"look {number}"


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def put(number: int, context: Context) -> str:
    """Put something where it belongs."""
    used("put", context)
    return f"put {number}"


@server.tool()
def pay(number: int, context: Context) -> str:
    """Pay; nobody says that this may be repeated."""
    used("pay", context)
    return f"paid {number}"


@server.tool()
def lose(number: int, context: Context) -> str:
    """Fail, as a result that says so."""
    used("lose", context)
    raise ValueError(f"no {number}")


if __name__ == "__main__":
    server.run()
