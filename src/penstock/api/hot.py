"""The routes that carry the traffic, without the framework's routing and dependencies.

They are the framework's own handlers, called directly: what a request means, and what it is told,
is written once, in :mod:`penstock.api.tasks`. Whatever is not plainly one of these requests is
left to the framework.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from penstock.api import tasks
from penstock.api.app import on_fault, on_penstock_error
from penstock.api.dependencies import Actions, authenticated
from penstock.domain.access import Actor
from penstock.domain.errors import PenstockError

_TASKS = "/api/v1/tasks"
_BELOW = _TASKS + "/"
_WAIT = "/wait"
_ID = "task_"
_LONGEST_SECONDS = 600.0

Handler = Callable[[Request, Actions, Actor], Awaitable[Response]]


class HotRoutes:
    """Creates a task, looks at one and waits for one; everything else goes to ``app``."""

    def __init__(self, app: FastAPI, actions: Actions) -> None:
        self._app = app
        self._actions = actions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        handler = _handler(scope)
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await handler(request, self._actions, await authenticated(request))
        except PenstockError as error:
            response = await on_penstock_error(request, error)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the last frame of ours: it answers
            response = await on_fault(request, error)
        await response(scope, receive, send)


def _handler(scope: Any) -> Handler | None:
    """What answers this request, if it is plainly one of ours."""
    path = scope.get("path", "")
    if not path.startswith(_TASKS):
        return None
    method, query = scope["method"], scope["query_string"]
    if method == "POST" and path == _TASKS:
        seconds = _seconds(query, b"wait=", 0.0)
        return None if seconds is None else partial(_create, seconds)
    if method != "GET" or not path.startswith(_BELOW):
        return None
    rest = path[len(_BELOW) :]
    task_id = rest.removesuffix(_WAIT)
    if not task_id.startswith(_ID) or "/" in task_id:
        return None
    if task_id == rest:
        return None if query else partial(_get, task_id)
    seconds = _seconds(query, b"seconds=", tasks.USUAL_WAIT_SECONDS)
    return None if seconds is None else partial(_wait, task_id, seconds)


async def _create(seconds: float, request: Request, asked: Actions, by: Actor) -> Response:
    key = request.headers.get("idempotency-key")
    return await tasks.create_task(request, asked, by, seconds, key)


async def _get(task_id: str, _: Request, asked: Actions, by: Actor) -> Response:
    return await tasks.get_task(task_id, asked, by)


async def _wait(task_id: str, seconds: float, _: Request, asked: Actions, by: Actor) -> Response:
    return await tasks.wait_for_task(task_id, asked, by, seconds)


def _seconds(query: bytes, name: bytes, usual: float) -> float | None:
    """The one parameter of a query; None when there is more to it, or it is out of bounds."""
    if not query:
        return usual
    text = query.removeprefix(name)
    if text == query or not text.replace(b".", b"", 1).isdigit():
        return None
    seconds = float(text)
    return seconds if seconds <= _LONGEST_SECONDS else None
