"""Tools of MCP servers, called over the official client's session."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

from penstock.inside import context, declarations, tool_calls

_SERVER = "_penstock_server"
_KEY = "penstock/idempotency-key"  # in the metadata of a call


def patch(module: Any) -> None:
    """Journal every ``call_tool``; ``module`` is ``mcp.client.session``."""
    session = module.ClientSession
    initialize, call_tool = session.initialize, session.call_tool
    takes_metadata = "meta" in inspect.signature(call_tool).parameters

    @functools.wraps(initialize)
    async def initialized(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await initialize(self, *args, **kwargs)
        # The server's own name tells equal tools of two servers apart, at any address.
        server = getattr(result, "serverInfo", None) or getattr(result, "server_info", None)
        setattr(self, _SERVER, str(getattr(server, "name", "")))
        return result

    @functools.wraps(call_tool)
    async def journaled(
        self: Any, name: str, arguments: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if context.current() is None:
            return await call_tool(self, name, arguments, *args, **kwargs)

        async def make() -> Any:
            if takes_metadata:
                kwargs["meta"] = {**(kwargs.get("meta") or {}), _KEY: context.idempotency_key()}
            return await call_tool(self, name, arguments, *args, **kwargs)

        result = await tool_calls.acall(
            tool_calls.Tool(name, declarations.of(name)),
            dict(arguments or {}),
            make,
            server=_server_of(self),
        )
        # Of the client's own types: a result, or the server's request for more.
        if hasattr(result, "model_dump"):
            return result
        return _said(module.types, result)

    session.initialize, session.call_tool = initialized, journaled


def _server_of(session: Any) -> str:
    """The name of the server at the other end, however the session came to know it."""
    known = getattr(getattr(session, "server_info", None), "name", None)
    return str(known or getattr(session, _SERVER, ""))


def _said(types: Any, result: Any) -> Any:
    """What a person says that a call returned, as a server would have said it."""
    text = result if isinstance(result, str) else json.dumps(result)
    said: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    if isinstance(result, dict):
        said["structuredContent"] = result
    return types.CallToolResult.model_validate(said)
