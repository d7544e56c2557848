"""Tools of MCP servers, called over the official client's session."""

from __future__ import annotations

import functools
from typing import Any

from penstock.inside import context, declarations, tool_calls

_SERVER = "_penstock_server"


def patch(module: Any) -> None:
    """Journal every ``call_tool``; ``module`` is ``mcp.client.session``."""
    session = module.ClientSession
    initialize, call_tool = session.initialize, session.call_tool

    @functools.wraps(initialize)
    async def initialized(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await initialize(self, *args, **kwargs)
        # The server's own name tells equal tools of two servers apart, at any address.
        setattr(self, _SERVER, str(result.serverInfo.name))
        return result

    @functools.wraps(call_tool)
    async def journaled(
        self: Any, name: str, arguments: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if context.current() is None:
            return await call_tool(self, name, arguments, *args, **kwargs)
        return await tool_calls.acall(
            tool_calls.Tool(name, declarations.of(name)),
            dict(arguments or {}),
            lambda: call_tool(self, name, arguments, *args, **kwargs),
            server=getattr(self, _SERVER, ""),
        )

    session.initialize, session.call_tool = initialized, journaled
