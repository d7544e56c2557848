"""The HTTP API as one application."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import penstock
from penstock.api import (
    access,
    agents,
    artifacts,
    attachments,
    backups,
    components,
    environments,
    garbage,
    insight,
    memories,
    releases,
    rollouts,
    sessions,
    signing,
    states,
    streams,
    tasks,
    workers,
)
from penstock.api.bodies import answer, schemas
from penstock.api.dependencies import Actions, By
from penstock.domain.errors import BuildFailed, Exhausted, PenstockError

_MODULES = (
    access,
    agents,
    artifacts,
    attachments,
    backups,
    components,
    environments,
    garbage,
    insight,
    memories,
    releases,
    rollouts,
    sessions,
    signing,
    states,
    streams,
    tasks,
    workers,
)

log = logging.getLogger(__name__)

_STATUS = {
    "invalid": 422,
    "project_invalid": 422,
    "build_failed": 422,
    "damaged": 422,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "stale": 409,
    "exhausted": 429,
    "too_large": 413,
    "unavailable": 503,
}


def build_app(actions: Actions) -> FastAPI:
    """The application that serves these actions."""
    app = FastAPI(
        title="Penstock",
        version=penstock.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.actions = actions
    for module in _MODULES:
        app.include_router(module.router)
    app.add_exception_handler(PenstockError, on_penstock_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, on_fault)

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    async def openapi(by: By) -> Response:  # noqa: ARG001 - it needs a key like everything else
        return answer(_document(app))

    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies that FastAPI does not know."""
    document: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, routes=app.routes, openapi_version="3.1.0"
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas())
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    return document


def _error(
    status: int,
    code: str,
    message: str,
    hint: str | None,
    output: str = "",
    retry_after_seconds: int | None = None,
) -> Response:
    body: dict[str, Any] = {"code": code, "message": message, "hint": hint}
    if output:
        body["output"] = output
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}  # noqa: PLR2004 - unauthorized
    if retry_after_seconds is not None:
        headers["retry-after"] = str(retry_after_seconds)
        body["retry_after_seconds"] = retry_after_seconds
    return answer({"error": body}, status, headers)


async def on_penstock_error(_: Request, error: Exception) -> Response:
    """What a refusal looks like."""
    assert isinstance(error, PenstockError)
    output = error.output if isinstance(error, BuildFailed) else ""
    status = _STATUS.get(error.code, 400)
    later = error.retry_after_seconds if isinstance(error, Exhausted) else None
    return _error(status, error.code, error.message, error.hint, output, later)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()
    )
    return _error(422, "invalid", f"the request cannot be understood: {said}", None)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    hint = "The routes are described in /api/v1/openapi.json."
    code = "not_found" if error.status_code == 404 else "invalid"  # noqa: PLR2004 - not found
    return _error(error.status_code, code, message, hint)


async def on_fault(request: Request, error: Exception) -> Response:
    """What a fault of ours looks like; the log has the rest."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    hint = "This is a fault of Penstock; the server's log says more."
    return _error(500, "error", "the server failed to do this", hint)
