"""Watches the servers that a release takes tools from: whether they still offer what it pins."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from penstock.domain.access import SYSTEM
from penstock.domain.errors import PenstockError, Unavailable
from penstock.domain.releases import Manifest, ToolSource
from penstock.domain.tools import SourceFacts, SourceTool
from penstock.rules.tool_drift import compare
from penstock.store import Store, Transaction, audit

log = logging.getLogger(__name__)

Read = Callable[[ToolSource], Awaitable[SourceFacts]]

_FRESH_SECONDS = 60.0  # how long a drift may go unnoticed
_SHOWN = 3


class Sources:
    """Compares what releases pin with what their sources offer, at most once a minute each."""

    def __init__(self, store: Store, read: Read) -> None:
        self._store = store
        self._read = read
        self._known: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}

    async def check(self, release: str, pinned: Manifest) -> None:
        """Let a release run whose sources offer what it pins, or whose policy tolerates the drift.

        A source that does not answer is no drift: the agent's own call to it will say so.

        Raises:
            Unavailable: one has drifted, and the release refuses that; says what changed.
        """
        for source in pinned.sources:
            if not source.location.startswith(("http://", "https://")):
                continue  # a document of the project is pinned with it
            drifts = await self._drifts(release, pinned, source)
            if drifts and source.on_drift == "refuse":
                raise Unavailable(
                    f"the tools of {source.name} ({source.location}) are not those that the"
                    f" release pins: {_short(drifts)}",
                    hint="Cut a release with the new tools, or set on_drift: tolerate.",
                )

    async def _drifts(self, release: str, pinned: Manifest, source: ToolSource) -> tuple[str, ...]:
        key = (release, source.name)
        async with self._asking.setdefault(key, asyncio.Lock()):
            at, before = self._known.get(key, (0.0, ()))
            if at and time.monotonic() - at < _FRESH_SECONDS:
                return before
            try:
                found = await self._read(source)
            except PenstockError as error:
                log.warning("the tools of %s cannot be compared: %s", source.name, error)
                self._known[key] = (time.monotonic(), before)
                return before
            drifts = tuple(drift.text for drift in compare(*_alike(pinned, source, found)))
            self._known[key] = (time.monotonic(), drifts)
        if drifts != before:
            await self._note(release, pinned, source, drifts)
        return drifts

    async def _note(
        self, release: str, pinned: Manifest, source: ToolSource, drifts: tuple[str, ...]
    ) -> None:
        said = _short(drifts) if drifts else "they are as pinned again"
        log.warning("the tools of %s, for %s: %s", source.name, pinned.agent, said)

        async def work(tx: Transaction) -> None:
            await audit.add(
                tx,
                SYSTEM,
                "tools.drift" if drifts else "tools.as_pinned",
                object_kind="release",
                object_id=release,
                detail={
                    "agent": pinned.agent,
                    "source": source.name,
                    "location": source.location,
                    "policy": source.on_drift,
                    "drift": list(drifts),
                },
            )

        await self._store.transact(work)


def _alike(
    pinned: Manifest, source: ToolSource, found: SourceFacts
) -> tuple[SourceFacts, SourceFacts]:
    """Both sides with what a release pins and nothing else."""
    tools = tuple(
        SourceTool(
            name=tool.name,
            description=tool.description,
            schema=tool.schema,
            effect=tool.effect,
            retry=tool.retry,
        )
        for tool in pinned.tools
        if tool.module == source.name
    )
    now = replace(found, tools=tuple(replace(tool, output_schema=None) for tool in found.tools))
    return replace(now, tools=tools), now


def _short(drifts: tuple[str, ...]) -> str:
    more = len(drifts) - _SHOWN
    return "; ".join(drifts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
