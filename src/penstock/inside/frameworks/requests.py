"""What an attempt's HTTP clients say of it to the gateway, and to nobody else.

Where processes are shared, the attempt's token: the connection does not tell. Everywhere, the part
of the agent's work that asks (see ``context.scope``), so that the gateway finds the answer to a
repeated call again whatever runs beside it.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from penstock.inside import context

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN = "x-penstock-attempt"  # noqa: S105 - a header's name
_SCOPE = "x-penstock-scope"


def patch(module: Any) -> None:
    """Make the clients of an HTTP library say it; ``module`` is ``httpx`` or ``httpx2``."""
    gateway = os.environ.get("PENSTOCK_GATEWAY", "").rstrip("/")
    if not gateway:
        return
    for kind in ("Client", "AsyncClient"):
        client = getattr(module, kind)
        client.send = _saying(client.send, gateway + "/")


def _saying(send: Callable[..., Any], gateway: str) -> Callable[..., Any]:
    """A client's ``send`` that adds the headers."""

    def saying(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = context.current()
        if attempt is not None and str(request.url).startswith(gateway):
            if attempt.token and not context.alone():
                request.headers[_TOKEN] = attempt.token
            if scope := context.scope():
                # A scope may be long, and in any alphabet.
                request.headers[_SCOPE] = hashlib.sha256(scope.encode()).hexdigest()[:32]
        return send(client, request, *args, **kwargs)

    return saying
