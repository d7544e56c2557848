"""What a server reaches outside: model providers, tool sources, and what releases pin of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from penstock.domain.errors import Unavailable
from penstock.domain.releases import Manifest, ToolSource
from penstock.domain.tools import SourceFacts
from penstock.drivers.providers import Provider
from penstock.drivers.providers.compatible import CompatibleProvider
from penstock.drivers.providers.simulated import Faults, Latency, SimulatedProvider
from penstock.drivers.tools.mcp import McpServer
from penstock.drivers.tools.openapi import OpenApiFile, OpenApiUrl
from penstock.rules.releases import verified
from penstock.settings import Settings
from penstock.store import Store, Transaction, releases


async def read_source(source: ToolSource, folder: Path | None = None) -> SourceFacts:
    """What a tool source offers now; a document of the project is as it was pinned."""
    operations = source.operations or None
    if source.kind == "mcp":
        return await McpServer(source.location).read()
    if source.location.startswith(("http://", "https://")):
        return await OpenApiUrl(source.location, operations=operations).read()
    if folder is None:
        raise Unavailable(f"{source.location} is a file of the project; it cannot drift")
    return await OpenApiFile(folder, source.location, operations=operations).read()


def providers(settings: Settings) -> dict[str, Provider]:
    """The model providers that there are, by the names releases pin them under."""
    usual = Latency()
    scale = settings.simulated_latency
    providers: dict[str, Provider] = {
        "simulated": SimulatedProvider(
            seed=settings.simulated_seed,
            latency=Latency(
                first_token=usual.first_token * scale,
                per_token=usual.per_token * scale,
                spread=usual.spread,
            ),
            faults=Faults(**settings.simulated_faults),
        ),
        "openai": CompatibleProvider(key=settings.openai_key),
    }
    for name, given in settings.providers.items():
        providers[name] = CompatibleProvider(
            base_url=given.base_url,
            key=given.key,
            key_needed=given.key_variable is not None,
            key_hint=f"Set {given.key_variable}.",
        )
    return providers


def manifests(store: Store) -> Callable[[str], Awaitable[Manifest]]:
    """How to read what a release pins, proven against its digest."""

    async def manifest_of(digest: str) -> Manifest:
        async def work(tx: Transaction) -> Manifest:
            return verified(await releases.raw(tx, digest), digest)

        return await store.read(work)

    return manifest_of
