"""The registry of component versions over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.actions.components import Shown
from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/agents/{agent}", tags=["components"])

_ALL = "-"  # the whole component, where a path needs a name


class PushPrompt(Body, frozen=True):
    """A prompt's file, and what goes with it."""

    text: str
    message: str = ""
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    expect: str | None = None


class MoveLabel(Body, frozen=True):
    """Where a label is to point."""

    to: str
    message: str = ""
    expect: str | None = None


class ProtectLabel(Body, frozen=True):
    """Who may move a label."""

    protected: bool


@router.get("/components")
async def list_components(
    agent: str,
    asked: Asked,
    by: By,
    kind: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=20_000)] = 200,
) -> Response:
    """An agent's component versions from the newest to the oldest."""
    found = await asked.components.listing(
        by, agent, kind=kind, name=name, before=before, limit=limit
    )
    return items(found)


@router.get("/prompts")
async def list_prompts(agent: str, asked: Asked, by: By) -> Response:
    """The newest version of each prompt."""
    return items(await asked.components.newest(by, agent, "prompt"))


@router.put("/prompts/{name}", status_code=201, openapi_extra=accepts(PushPrompt))
async def push_prompt(agent: str, name: str, request: Request, asked: Asked, by: By) -> Response:
    """Publish a prompt; the same text is the same version again."""
    body = await read(request, PushPrompt)
    done = await asked.components.push_prompt(
        by,
        agent,
        name,
        body.text,
        message=body.message,
        tags=body.tags,
        move=body.labels,
        expect=body.expect,
    )
    return answer(done, 201 if done.created else 200)


@router.get("/components/{kind}/{name}/versions/{ref}")
async def show_component(
    agent: str, kind: str, name: str, ref: str, asked: Asked, by: By
) -> Response:
    """One version, whole; ``-`` as the name is the whole component."""
    return answer(_shaped(await asked.components.show(by, agent, kind, _name(name), ref)))


@router.delete("/components/{kind}/{name}/versions/{ref}")
async def delete_component(
    agent: str, kind: str, name: str, ref: str, asked: Asked, by: By
) -> Response:
    """Take a version out of the registry, unless a release is made of it."""
    return answer(await asked.components.delete(by, agent, kind, _name(name), ref))


@router.get("/components/{kind}/{name}/diff/{before}/{after}")
async def diff_components(
    agent: str, kind: str, name: str, before: str, after: str, asked: Asked, by: By
) -> Response:
    """What differs between two versions."""
    return answer(await asked.components.diff(by, agent, kind, _name(name), before, after))


@router.get("/components/{kind}/{name}/labels")
async def list_labels(agent: str, kind: str, name: str, asked: Asked, by: By) -> Response:
    """Where the labels point, and where they have been."""
    now, moves, protected = await asked.labels.listing(by, agent, kind, _name(name))
    return answer({"items": now, "moves": moves, "protected": protected})


@router.put("/components/{kind}/{name}/labels/{label}", openapi_extra=accepts(MoveLabel))
async def move_label(
    agent: str, kind: str, name: str, label: str, request: Request, asked: Asked, by: By
) -> Response:
    """Point a label at a version."""
    body = await read(request, MoveLabel)
    moved = await asked.labels.move(
        by,
        agent,
        kind,
        _name(name),
        label,
        to=body.to,
        message=body.message,
        expect=body.expect,
    )
    return answer(moved)


@router.delete("/components/{kind}/{name}/labels/{label}")
async def remove_label(
    agent: str, kind: str, name: str, label: str, asked: Asked, by: By, message: str = ""
) -> Response:
    """Take a label away."""
    await asked.labels.remove(by, agent, kind, _name(name), label, message=message)
    return answer({"removed": label})


@router.put("/labels/{label}", openapi_extra=accepts(ProtectLabel))
async def protect_label(agent: str, label: str, request: Request, asked: Asked, by: By) -> Response:
    """Let only administrators move a label, or every operator again."""
    body = await read(request, ProtectLabel)
    await asked.labels.protect(by, agent, label, protected=body.protected)
    return answer({"label": label, "protected": body.protected})


def _name(name: str) -> str:
    return "" if name == _ALL else name


def _shaped(shown: Shown) -> dict[str, Any]:
    return {
        "component": shown.component,
        "content": shown.content,
        "text": shown.text,
        "releases": shown.users,
    }
